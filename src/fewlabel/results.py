"""What a segmentation is on disk: five files that appear together, or none.

sub-01_dseg.nii.gz   labels on exactly the scan's grid, values of the protocol
sub-01_dseg.tsv      what the values mean: index, name, color (BIDS)
sub-01_volumes.tsv   mm3 per structure, and of the brain
sub-01_qc.png        contours over the scan, to judge it at a glance
sub-01_dseg.json     how it came about; written last, so that it marks a whole result
"""

import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewlabel.errors import OutputError
from fewlabel.io import write_labels, write_whole
from fewlabel.labels import LabelProtocol
from fewlabel.volume import LabelMap

_ENDINGS = (".nii.gz", ".nii", ".mgz", ".mgh.gz", ".mgh")
RECORD_ENDING = "_dseg.json"
_BIDS = re.compile(r"(sub-[A-Za-z0-9]+(?:_[A-Za-z]+-[A-Za-z0-9+]+)*)_[A-Za-z0-9]+")


@dataclass(frozen=True)
class ResultPaths:
    """Where the results of one scan lie."""

    labels: Path
    legend: Path
    volumes: Path
    picture: Path
    record: Path

    @classmethod
    def of(cls, scan: Path, folder: Path) -> "ResultPaths":
        """The names that a scan's results get in a folder.

        >>> ResultPaths.of(Path("a/sub-01_ses-2_T1w.nii.gz"), Path("b")).labels.name
        'sub-01_ses-2_dseg.nii.gz'
        >>> ResultPaths.of(Path("a/brain 7.mgz"), Path("b")).labels.name
        'brain 7_dseg.nii.gz'
        """
        name = scan.absolute().name
        ending = next((e for e in _ENDINGS if name.lower().endswith(e)), "")
        stem = name[: len(name) - len(ending)]
        bids = _BIDS.fullmatch(stem)
        return cls.named(bids[1] if bids else stem, folder)

    @classmethod
    def named(cls, stem: str, folder: Path) -> "ResultPaths":
        """The same from what all names begin with, such as "sub-01_ses-2"."""
        endings = ("_dseg.nii.gz", "_dseg.tsv", "_volumes.tsv", "_qc.png", RECORD_ENDING)
        return cls(*(folder / f"{stem}{ending}" for ending in endings))

    def all(self) -> tuple[Path, ...]:
        """Every file, the record last."""
        return (self.labels, self.legend, self.volumes, self.picture, self.record)

    def read_record(self) -> dict[str, Any]:
        """What the record says."""
        found: dict[str, Any] = json.loads(self.record.read_text(encoding="utf-8"))
        return found

    def made_by(self) -> str:
        """The model that the record names, and its version; nothing if it names none."""
        model = self.read_record().get("model")
        if not isinstance(model, dict):
            return ""
        return f"{model.get('name', '')} {model.get('version', '')}".strip()


def require_different_names(scans: Iterable[tuple[Path, ResultPaths]]) -> None:
    """Refuse scans whose results would overwrite each other.

    Raises:
        OutputError: If two of them give the same names.
    """
    taken: dict[Path, Path] = {}
    for scan, paths in scans:
        place = paths.labels.absolute()
        if place in taken:
            raise OutputError(
                _both(taken[place], scan, paths),
                fix="give them one at a time with different --out folders.",
            )
        taken[place] = scan


def _both(first: Path, second: Path, paths: ResultPaths) -> str:
    return f"{first} and {second} would both be segmented to {paths.labels}."


def is_done(scan: Path, paths: ResultPaths, images: Collection[str] = ()) -> bool:
    """Whether a whole result of this scan is there already.

    If the scan that a result is of does not lie where it was, its name alone tells.

    Args:
        scan: The file that results are named after.
        paths: Of the results.
        images: Names of all files that are looked at, if there are several.

    Raises:
        OutputError: If other files have those names: of another scan, of this one with others
            or without them, or not of fewlabel.
    """
    there = [path for path in paths.all() if path.exists()]
    if not there:
        return False
    try:
        record = paths.read_record()
        source = str(record["scan"]) if record["fewlabel"] and len(there) == 5 else ""
        seen = {Path(path).name for path in record.get("images", {}).values()} or {source}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        source, seen = "", set()
    name = scan.absolute().name
    if source == name and seen == (set(images) or {name}):
        _require_same(scan, str(record.get("source") or ""), paths)
        return True
    of = " and ".join(sorted(seen))
    owner = f"the result of {of}" if source else "not a whole result of fewlabel"
    raise OutputError(
        f"{there[0]} exists and is {owner}; it was left alone.",
        fix="choose another folder with --out, or replace it with --overwrite.",
    )


def _require_same(scan: Path, source: str, paths: ResultPaths) -> None:
    """Refuse the result of another scan of the same name, if that scan is still there."""
    other = paths.record.parent / source
    if source and other.exists() and not (scan.exists() and scan.samefile(other)):
        raise OutputError(
            _both(Path(os.path.realpath(other.parent), other.name), scan, paths),
            fix="choose another folder with --out, or replace it with --overwrite.",
        )


def require_writable(folder: Path) -> None:
    """Refuse an output folder early that could not be written to later; makes nothing.

    Raises:
        OutputError: If it, or the nearest folder above it, is no folder or may not be changed.
    """
    nearest = folder.absolute()
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        found = "may not be written to" if nearest.is_dir() else "is a file, not a folder"
        raise OutputError(
            f"Cannot write results to {folder}: {nearest} {found}.",
            fix="choose another output folder with --out.",
        )


def write_results(
    paths: ResultPaths,
    *,
    scan: Path,
    labels: LabelMap,
    volumes_mm3: Mapping[str, float],
    picture: Callable[[], bytes],
    record: Mapping[str, Any],
) -> None:
    """Write the five files of one scan; they appear at the end, the record last.

    `picture` and then `record` are looked at once the labels are written.

    Raises:
        OutputError: If they cannot be written; then none of them is there.
    """
    with ExitStack() as whole:
        # The last to be entered is the first to be left, which is when a file appears.
        drafts = {path: whole.enter_context(write_whole(path)) for path in reversed(paths.all())}
        write_labels(labels, drafts[paths.labels], like=scan)
        contents = {
            paths.legend: legend(labels.protocol).encode(),
            paths.volumes: _volumes_table(volumes_mm3).encode(),
            paths.picture: picture(),
            paths.record: (json.dumps(record, indent=1) + "\n").encode(),
        }
        for path, content in contents.items():
            drafts[path].write_bytes(content)
        paths.record.unlink(missing_ok=True)  # from here on, what was there is no longer whole


def legend(protocol: LabelProtocol) -> str:
    """The BIDS look-up table of a protocol: index, name, color."""
    rows = ["index\tname\tcolor"]
    for label in protocol.labels:
        red, green, blue = label.color
        rows.append(f"{label.value}\t{label.name}\t#{red:02x}{green:02x}{blue:02x}")
    return "\n".join(rows) + "\n"


def _volumes_table(volumes_mm3: Mapping[str, float]) -> str:
    rows = [f"{name}\t{mm3:.2f}" for name, mm3 in volumes_mm3.items()]
    return "\n".join(["structure\tvolume_mm3", *rows]) + "\n"
