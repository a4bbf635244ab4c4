"""From painted sheets to label maps and a manifest to train on.

A planned slice without any structure was forgotten, as the plan keeps to the brain. What else
may be a slip is named, and taken as it is.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

import numpy as np

from fewlabel.budget import Slice, mask_of
from fewlabel.budget_plan import Plan, load_cohort
from fewlabel.cohort import Case, Cohort, of_each, refuse, write_cohort
from fewlabel.datasets.found import and_more
from fewlabel.errors import CohortError, OutputError
from fewlabel.io import write_labels
from fewlabel.labels import UNLABELED
from fewlabel.sheets import SheetPaths, hash_of, key_of, read_proposed, read_sheet
from fewlabel.volume import LabelMap
from fewlabel.whole import write_text

MANIFEST, NOTES = "cohort.tsv", "notes.tsv"
_HALF = 0.5
"""A slice with less than this of the area that its neighbors let expect may be half done."""


@dataclass(frozen=True)
class Note:
    """What may be a slip in a painted map.

    Attributes:
        case: Whose.
        says: What, with the number that ITK-SNAP shows of each slice.
    """

    case: str
    says: str


@dataclass(frozen=True)
class Collected:
    """What was painted.

    Attributes:
        cohort: The annotated cases to train on, and those of the splits val and test.
        notes: What may be slips.
        slices: Planned slices that were painted.
        coarsest_mm: Voxels to train with may be so large, twice the thinnest slice: of larger
            ones most is not annotated, and then they count as not annotated.
    """

    cohort: Cohort
    notes: tuple[Note, ...]
    slices: int
    coarsest_mm: float


@dataclass(frozen=True, eq=False)
class _Checked:
    """One painted map: what is to be trained on, what is odd, and what was forgotten."""

    labels: LabelMap
    notes: tuple[str, ...]
    forgotten: tuple[Slice, ...]


def collect(
    plan: Plan, folder: Path, out: Path | None = None, *, allow_missing: bool = False
) -> Collected:
    """Check painted maps, and write label maps with -1 for what nobody has looked at.

    Args:
        plan: What was to be painted.
        folder: The sheets, painted; they stay as they are.
        out: Folder for `CASE_dseg.nii.gz` of each case, `cohort.tsv` and `notes.tsv`; by default
            `collected` in the folder of the sheets.
        allow_missing: Take what is there; forgotten slices are not annotated then.

    Raises:
        CohortError: Naming every map that is missing or cannot be used, and unless
            `allow_missing` every planned slice that was forgotten.
        OutputError: If `out` cannot be written to, or holds something else than was collected.
    """
    out, proposed = out or folder / "collected", read_proposed(folder)
    _require_ours(out)
    cases = plan.cases()
    gone = [name for name in cases if not SheetPaths.of(folder, name).labels.is_file()]
    there = [case for name, case in cases.items() if name not in gone]
    checked = dict(
        zip(
            [case.id for case in there],
            of_each(lambda case: _check(plan, case, folder, proposed.get(case.id, {})), there),
            strict=True,
        )
    )
    _refuse_forgotten(folder, gone, checked, allow_missing=allow_missing)
    taken = {name: one for name, one in checked.items() if (one.labels.data >= 0).any()}
    if not taken:
        raise CohortError(f"Nothing in {folder} was painted.", fix="paint the planned slices.")
    notes = [Note(name, "There is no painted map; it is left out.") for name in gone]
    notes += [Note(name, "Nothing was painted; it is left out.") for name in checked
              if name not in taken]  # fmt: skip
    notes += [Note(name, says) for name, one in checked.items() for says in one.notes]
    (out / MANIFEST).unlink(missing_ok=True)  # from here on, what was there is no longer whole
    done = []
    for name, one in taken.items():
        file = out / f"{name}_dseg.nii.gz"
        write_labels(one.labels, file, like=cases[name].scans[plan.modality])
        done.append(
            replace(
                cases[name], labels=file, protocol=plan.protocol, looked_for=None, split="train"
            )
        )
    held_out = [case for case in load_cohort(plan.cohort).cases if case.split in ("val", "test")]
    cohort = Cohort((*done, *held_out))
    _write_notes(notes, out / NOTES)
    write_cohort(cohort, out / MANIFEST)
    painted = sum(len(plan.slices[name]) - len(one.forgotten) for name, one in taken.items())
    thick_mm = [
        one.labels.grid.spacing_mm[planned.slice.voxel_axis]
        for name, one in taken.items()
        for planned in plan.slices[name]
    ]
    return Collected(cohort, tuple(notes), painted, 2 * min(thick_mm))


def _require_ours(out: Path) -> None:
    """Refuse to overwrite what is not ours: label maps elsewhere may have the same names."""
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / NOTES).is_file())):
        raise OutputError(
            f"{out} exists, and holds something else than what was collected before.",
            fix="choose another folder with --out.",
        )


def _check(plan: Plan, case: Case, folder: Path, proposed: Mapping[str, str]) -> _Checked:
    labels = read_sheet(SheetPaths.of(folder, case.id).labels, plan, case)
    slices = [one.slice for one in plan.slices[case.id]]
    forgotten = tuple(one for one in slices if not (labels.data[one.cut()] > 0).any())
    painted = [one for one in slices if one not in forgotten]
    notes = [
        *_half_left(labels, painted),
        *_half_done(labels, painted),
        *_as_proposed(labels, painted, proposed),
        *_more_than_planned(labels, slices),
    ]
    lost = mask_of(forgotten, labels.grid) & ~mask_of(painted, labels.grid)
    if lost.any():
        notes.append(f"{_named(forgotten)}: forgotten; not annotated.")
    data = np.where(lost, np.int16(UNLABELED), labels.data)
    return _Checked(replace(labels, data=data), tuple(notes), forgotten)


def _refuse_forgotten(
    folder: Path, gone: Sequence[str], checked: Mapping[str, _Checked], *, allow_missing: bool
) -> None:
    if allow_missing:
        return
    problems = [f"{name}: there is no {SheetPaths.of(folder, name).labels}." for name in gone]
    problems += [
        f"{name}: {_named(one.forgotten)}: nothing is painted there."
        for name, one in checked.items()
        if one.forgotten
    ]
    refuse(
        f"What was painted in {folder}",
        problems,
        fix="paint these slices; if one shows nothing to paint, take its line out of the plan;"
        " or go on without them with --allow-missing.",
    )


def _half_left(labels: LabelMap, slices: Sequence[Slice]) -> list[str]:
    """Slices with voxels that are still, or again, not annotated."""
    notes = []
    for one in slices:
        share = float((labels.data[one.cut()] < 0).mean())
        if share:
            notes.append(f"{_named([one])}: {100 * share:.1f} % is left as not annotated.")
    return notes


def _half_done(labels: LabelMap, slices: Sequence[Slice]) -> list[str]:
    """Slices with much less painted than those on either side let expect."""
    notes = []
    for axis in range(3):
        row = sorted((one for one in slices if one.voxel_axis == axis), key=lambda s: s.index)
        areas = [int((labels.data[one.cut()] > 0).sum()) for one in row]
        places = [one.index for one in row]
        for n in range(1, len(row) - 1):
            ends = [n - 1, n + 1]
            expected = np.interp(places[n], [places[e] for e in ends], [areas[e] for e in ends])
            if areas[n] < _HALF * expected:
                notes.append(
                    f"{_named([row[n]])}: {areas[n]} voxels are painted, where the planned slices"
                    f" beside it let expect {expected:.0f}; half done?"
                )
    return notes


def _as_proposed(
    labels: LabelMap, slices: Sequence[Slice], proposed: Mapping[str, str]
) -> list[str]:
    same = [one for one in slices if proposed.get(key_of(one)) == hash_of(labels.data, one)]
    return [f"{_named(same)}: just as the model proposed; looked at?"] if same else []


def _more_than_planned(labels: LabelMap, slices: Sequence[Slice]) -> list[str]:
    """Voxels outside of all planned slices that somebody annotated; they are taken."""
    more = (labels.data >= 0) & ~mask_of(slices, labels.grid)
    if not more.any() or not slices:
        return []
    others = tuple(n for n in range(3) if n != slices[0].voxel_axis)
    extra = [replace(slices[0], index=int(n)) for n in np.flatnonzero(more.any(axis=others))]
    return [f"{_named(extra)}: {more.sum()} voxels are annotated that were not planned; taken."]


def _named(slices: Sequence[Slice]) -> str:
    """As ITK-SNAP shows them: "axial slices 12, 15"."""
    axes = dict.fromkeys(one.axis for one in slices)
    parts = []
    for axis in axes:
        numbers = [str(one.shown) for one in slices if one.axis == axis]
        parts.append(f"{axis} slice{'s' * (len(numbers) > 1)} {and_more(numbers, most=12)}")
    return ", ".join(parts)


def _write_notes(notes: Sequence[Note], path: Path) -> None:
    text = StringIO()
    table = csv.writer(text, delimiter="\t", lineterminator="\n")
    table.writerow(("case", "note"))
    table.writerows((note.case, note.says) for note in notes)
    write_text(path, text.getvalue())
