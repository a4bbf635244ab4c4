"""The commands that show results: reports and the viewer."""

import sys
import webbrowser
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def report(
    folders: Annotated[list[Path], Parameter(name="FOLDER", negative="")],
    *,
    out: Path = Path("report.html"),
    norms: Path | None = None,
) -> None:
    """Write one page, to be opened in any browser, about segmented scans and training runs.

    Results that are damaged are left out, and named.

    Args:
        folders: Folders with results of `fewlabel segment`, and training runs.
        out: Page to write.
        norms: TSV of usual volumes: structure, low_mm3, high_mm3.
    """
    from fewlabel.report.page import write_report

    def tell(problem: str) -> None:
        print(f"fewlabel: left out: {problem}", file=sys.stderr)

    page = write_report(folders, out, norms=norms, tell=tell)
    print(f"{page}: {page.stat().st_size / 1e6:.1f} MB; open it in a browser.")


def view(
    scan: Path,
    labels: Path | None = None,
    *,
    protocol: str | None = None,
    out: Path | None = None,
    no_open: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Write a page that shows a scan, with labels over it if given, and open it.

    Args:
        scan: NIfTI or MGH file.
        labels: Label map.
        protocol: What its numbers mean; by default what the TSV beside it says.
        out: Page to write; by default SCAN_view.html in the folder that you are in.
        no_open: Only write the page.
    """
    from fewlabel.report.page import labels_beside, write_view

    shown = None if labels is None else (labels, labels_beside(labels, protocol))
    stem = scan.name.removesuffix(".gz").rsplit(".", 1)[0]
    page = write_view(scan, out or Path(f"{stem}_view.html"), shown)
    print(page)
    if not no_open:
        webbrowser.open(page.absolute().as_uri())
