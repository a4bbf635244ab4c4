"""Looking at things in a notebook: pictures, and the interactive view."""

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fewlabel.io import read_scan
from fewlabel.labels import Label, LabelProtocol
from fewlabel.picture import picture
from fewlabel.volume import LabelMap, Scan

if TYPE_CHECKING:
    from PIL.Image import Image

    from fewlabel.segmenter import Segmentation


def plot(
    scan: "Scan | Path | str", labels: "LabelMap | Segmentation | None" = None, *, title: str = ""
) -> "Image":
    """Three planes of a scan, with the contours of its labels, as a picture.

    Args:
        scan: A file or a scan in memory.
        labels: On the scan's grid.
        title: First line; by default the file's name.

    Returns:
        An image that notebooks show; `.save("x.png")` writes it.

    Raises:
        ScanError: If the scan cannot be read.
        GridMismatch: If the labels are not on its grid.
    """
    import io

    from PIL import Image

    from fewlabel.volume import require_same_grid

    volume = scan if isinstance(scan, Scan) else read_scan(Path(scan))
    name = title or ("" if isinstance(scan, Scan) else Path(scan).name)
    drawn = _labels(volume, labels)
    require_same_grid(volume, drawn, doing="drawing")
    warnings = getattr(labels, "warnings", ())
    content = picture(volume, drawn, title=name, lines=["", *warnings])
    return Image.open(io.BytesIO(content))


def view(scan: "Scan | Path | str", labels: "LabelMap | Segmentation | None" = None) -> "View":
    """The interactive view of a scan and its labels, for a notebook's cell.

    Args:
        scan: A file or a scan in memory.
        labels: On any grid.
    """
    from fewlabel.report.page import viewer_page

    volume = scan if isinstance(scan, Scan) else read_scan(Path(scan))
    title = "" if isinstance(scan, Scan) else Path(scan).name
    drawn = None if labels is None else _labels(volume, labels)
    return View(viewer_page(volume, drawn, title=title))


class View:
    """A page that notebooks show in a frame.

    Args:
        page: All of its HTML.
    """

    def __init__(self, page: str) -> None:
        self.page = page

    def _repr_html_(self) -> str:
        return (
            '<iframe style="width:100%;height:640px;border:0" sandbox="allow-scripts"'
            f' srcdoc="{escape(self.page, quote=True)}"></iframe>'
        )


def _labels(scan: Scan, labels: "LabelMap | Segmentation | None") -> LabelMap:
    if labels is None:
        nothing = LabelProtocol("none", (Label(1, "none"),))
        return LabelMap(np.zeros(scan.data.shape, np.int16), scan.grid, nothing)
    return labels if isinstance(labels, LabelMap) else labels.labels
