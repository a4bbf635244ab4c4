"""Data sets as cohorts, and made-up brains."""

from pathlib import Path

from fewlabel.datasets.bids import index_bids
from fewlabel.datasets.folders import index_folders
from fewlabel.datasets.found import Found
from fewlabel.errors import CohortError

__all__ = ["Found", "index_folder"]


def index_folder(folder: Path, protocol: str = "", desc: str = "") -> Found:
    """Index a data set, whatever its layout.

    Args:
        folder: A BIDS data set, one of nnU-Net, or a folder with `images` and `labels`.
        protocol: Of the label maps: a shipped one or a TSV file; by default the data set says.
        desc: BIDS: which label maps, if a session has several.

    Raises:
        CohortError: If there is nothing to index, or it cannot be told what is meant.
    """
    if not folder.is_dir():
        raise CohortError(f"There is no folder {folder}.", fix="check the path.")
    is_bids = any(folder.glob("sub-*")) or (folder / "derivatives").is_dir()
    return index_bids(folder, protocol, desc) if is_bids else index_folders(folder, protocol)
