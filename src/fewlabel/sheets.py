"""Sheets to paint on: for each scan a copy and a label map, and how both are read back.

    sheets/labels_itksnap.txt       names and colors for ITK-SNAP
    sheets/colors_slicer.ctbl       the same for 3D Slicer, and .csv for newer ones
    sheets/sub-01/sub-01_T2w.nii.gz the scan
    sheets/sub-01/sub-01_dseg.nii.gz  to be painted: planned slices are 0, all else "Not-annotated"
    sheets/sheets.json              written last

ITK-SNAP's labels are unsigned numbers of 16 bits, so a file that it can save has no -1: on
sheets, what nobody has looked at has a number of its own, which the protocol does not use.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
from jaxtyping import Int16

from fewlabel.budget import Slice, mask_of
from fewlabel.budget_plan import Plan
from fewlabel.cohort import Case, refuse
from fewlabel.color_tables import slicer_colors, slicer_csv, snap_labels
from fewlabel.errors import CohortError, OutputError
from fewlabel.io import read_labels, read_scan, write_labels
from fewlabel.labels import UNLABELED, Label, LabelProtocol
from fewlabel.version import VERSION
from fewlabel.volume import LabelMap, require_same_grid
from fewlabel.warp_io import write_scan
from fewlabel.whole import make_folder

RECORD = "sheets.json"
NOT_ANNOTATED = "Not-annotated"
_GRAY = (70, 70, 90)
_HIGHEST = 255
Propose = Callable[[Case], LabelMap]
"""A model's answer for a case, on the voxels of its sheet, in the plan's protocol."""


@dataclass(frozen=True)
class SheetPaths:
    """Where the sheet of a case lies."""

    folder: Path
    labels: Path

    @classmethod
    def of(cls, folder: Path, case: str) -> "SheetPaths":
        """In the folder of all sheets.

        >>> SheetPaths.of(Path("sheets"), "sub-01").labels.as_posix()
        'sheets/sub-01/sub-01_dseg.nii.gz'
        """
        return cls(folder / case, folder / case / f"{case}_dseg.nii.gz")


def sheet_protocol(protocol: LabelProtocol) -> LabelProtocol:
    """The protocol with one more label, for what nobody has looked at.

    Its number is the highest up to 255 that the protocol does not use: such numbers fit into 8
    bits, and into the color tables of all versions of ITK-SNAP.

    Raises:
        OutputError: If the protocol uses all of them.
    """
    taken = set(protocol.class_by_value)
    free = next((value for value in range(_HIGHEST, 0, -1) if value not in taken), None)
    if free is None:
        raise OutputError(
            f"Protocol {protocol.name!r} uses all numbers from 1 to {_HIGHEST}, so none is left"
            " for what is not annotated.",
            fix="give a protocol with fewer structures.",
        )
    label = Label(free, NOT_ANNOTATED, _GRAY, scored=False)
    return replace(protocol, labels=(*protocol.labels, label))


def write_sheets(plan: Plan, out: Path, propose: Propose | None = None) -> None:
    """Write what annotators need, whole or not at all.

    Args:
        plan: Which slices.
        out: Folder; it must not exist or be empty, as it might hold somebody's work.
        propose: Fills in the planned slices; None: they are empty.

    Raises:
        CohortError: If the cohort has changed, or a case's name cannot be that of a folder.
        OutputError: If `out` is in use or cannot be written to.
    """
    cases = plan.cases()
    names = [*cases, *(modality for case in cases.values() for modality in case.scans)]
    odd = [name for name in names if Path(name).name != name or name.startswith(".")]
    refuse(
        "The cohort",
        [f"{name!r} cannot be part of a file's name." for name in odd],
        fix="give these cases or modalities other names in the manifest.",
    )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(
            f"{out} exists and is not empty; somebody may have painted there.",
            fix="choose another folder with --out.",
        )
    protocol = sheet_protocol(plan.drawn_in())
    with _whole_folder(out) as draft:
        proposed = {name: _write_sheet(plan, case, draft, propose) for name, case in cases.items()}
        tables = {
            "labels_itksnap.txt": snap_labels(protocol, faint=NOT_ANNOTATED),
            "colors_slicer.ctbl": slicer_colors(protocol, faint=NOT_ANNOTATED),
            "colors_slicer.csv": slicer_csv(protocol, faint=NOT_ANNOTATED),
            RECORD: json.dumps(_record(protocol, proposed), indent=1) + "\n",
        }
        for name, text in tables.items():
            (draft / name).write_text(text, encoding="utf-8")


def read_sheet(file: Path, plan: Plan, case: Case) -> LabelMap:
    """Read a painted map; -1 where nobody has looked.

    Raises:
        CohortError: If there is none.
        GridMismatch: If it has other voxels than the scan.
        FewlabelError: If it cannot be read, or holds numbers that the protocol lacks.
    """
    if not file.is_file():
        raise CohortError(f"There is no {file}.", fix="save the painted map under this name.")
    own = plan.drawn_in()
    painted = read_labels(file, sheet_protocol(own))
    require_same_grid(
        read_scan(case.scans[plan.modality]), painted, doing=f"collecting {file.name}"
    )
    data = np.where(painted.data == own.n_classes, np.int16(UNLABELED), painted.data)
    return LabelMap(data, painted.grid, own)


def read_proposed(folder: Path) -> dict[str, dict[str, str]]:
    """Hash of each slice that a model proposed, by case and slice; nothing if none did.

    Raises:
        CohortError: If the folder holds no sheets.
    """
    try:
        found = json.loads((folder / RECORD).read_text(encoding="utf-8"))["proposed"]
        return {str(case): dict(hashes) for case, hashes in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise CohortError(
            f"{folder} holds no sheets: it has no readable {RECORD}.",
            fix="give the folder that was `--out` of `fewlabel budget sheets`.",
        ) from None


def hash_of(data: Int16[np.ndarray, "i j k"], one: Slice) -> str:
    """Of the classes in a slice."""
    return sha256(np.ascontiguousarray(data[one.cut()], dtype="<i2").tobytes()).hexdigest()[:16]


def key_of(one: Slice) -> str:
    """A slice's name within its scan.

    >>> key_of(Slice("axial", 2, 41))
    'k41'
    """
    return f"{'ijk'[one.voxel_axis]}{one.index}"


def _write_sheet(plan: Plan, case: Case, draft: Path, propose: Propose | None) -> dict[str, str]:
    """One scan's folder; the hashes of what a model proposed."""
    paths = SheetPaths.of(draft, case.id)
    make_folder(paths.folder)
    copies = {name: _copy(path, paths.folder, case.id, name) for name, path in case.scans.items()}
    grid = read_scan(case.scans[plan.modality]).grid
    own = plan.drawn_in()
    slices = [one.slice for one in plan.slices[case.id]]
    outside = [key_of(one) for one in slices if one.index >= grid.shape[one.voxel_axis]]
    if outside:
        raise CohortError(
            f"{case.id} has {grid}; the plan's slices {', '.join(outside)} are outside.",
            fix="make the plan anew: the scan is another one.",
        )
    started = np.zeros(grid.shape, dtype=np.int16)
    if propose is not None:
        started = propose(case).data
    data = np.where(mask_of(slices, grid), started, np.int16(own.n_classes))
    labels = LabelMap(data, grid, sheet_protocol(own))
    write_labels(labels, paths.labels, like=copies[plan.modality])
    return {key_of(one): hash_of(data, one) for one in slices} if propose is not None else {}


def _copy(scan: Path, folder: Path, case: str, modality: str) -> Path:
    """A copy of a scan; what is no NIfTI file becomes one."""
    name = scan.name.lower()
    ending = next((e for e in (".nii.gz", ".nii") if name.endswith(e) and scan.is_file()), None)
    copy = folder / f"{case}_{modality}{ending or '.nii.gz'}"
    if ending is None:
        write_scan(read_scan(scan), copy)
    else:
        shutil.copyfile(scan, copy)
    return copy


def _record(protocol: LabelProtocol, proposed: dict[str, dict[str, str]]) -> dict[str, object]:
    return {
        "fewlabel": VERSION,
        "protocol": protocol.name,
        NOT_ANNOTATED: protocol.labels[-1].value,
        "proposed": {case: hashes for case, hashes in proposed.items() if hashes},
    }


@contextmanager
def _whole_folder(out: Path) -> Iterator[Path]:
    """A folder to write to, which becomes `out` at the end, or goes if something fails."""
    make_folder(out.parent)
    try:
        draft = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        try:
            yield draft
            draft.chmod(0o755)
            if out.exists():
                out.rmdir()
            draft.rename(out)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as problem:
        raise OutputError(
            f"Cannot write {out}: {problem.strerror or problem}.",
            fix="choose another folder with --out, or make room.",
        ) from None
