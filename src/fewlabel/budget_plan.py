"""A plan: which slices of a cohort's scans to annotate, as a table that people can read and edit.

A line is a slice. Whoever finds nothing to annotate in one takes out its line.
"""

import csv
import os
from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from fewlabel.budget import AXES, Slice
from fewlabel.cohort import Case, Cohort, read_cohort, refuse
from fewlabel.datasets import index_folder
from fewlabel.errors import CohortError
from fewlabel.labels import LabelProtocol, load_protocol
from fewlabel.whole import write_text

COLUMNS = (
    "case", "axis", "slice", "of", "position_mm", "minutes", "doubt_mm2", "voxel_axis", "index",
    "scan", "modality", "protocol", "strategy", "cohort",
)  # fmt: skip
_COMMON = ("modality", "protocol", "strategy", "cohort")


@dataclass(frozen=True)
class Planned:
    """One slice to annotate.

    Attributes:
        slice: Which.
        of: Slices that the scan has along that axis.
        position_mm: Its middle, in mm to the right, to the front or up.
        minutes: What it may cost.
        doubt_mm2: Area that a model is unsure of in it, if one was asked.
    """

    slice: Slice
    of: int
    position_mm: float
    minutes: float
    doubt_mm2: float | None = None


@dataclass(frozen=True)
class Plan:
    """Slices to annotate.

    Attributes:
        cohort: The manifest or data folder.
        modality: The scan on whose voxels they are drawn.
        protocol: What to draw: a shipped protocol or a TSV file.
        strategy: How they were chosen, for people.
        slices: By case.
        says: What a reader should know, as sentences; not in the file.
    """

    cohort: Path
    modality: str
    protocol: str
    strategy: str
    slices: Mapping[str, tuple[Planned, ...]]
    says: tuple[str, ...] = ()

    def cases(self) -> dict[str, Case]:
        """The cases with slices, from the cohort as it is now, by name.

        Raises:
            CohortError: If one is no longer there, or lacks the scan.
        """
        here = {case.id: case for case in load_cohort(self.cohort).cases}
        gone = [
            f"{name} has no {self.modality}." if name in here else f"there is no case {name}."
            for name in self.slices
            if name not in here or self.modality not in here[name].scans
        ]
        refuse(str(self.cohort), gone, fix="make the plan anew: the cohort has changed since.")
        return {name: here[name] for name in self.slices}

    def drawn_in(self) -> LabelProtocol:
        """The protocol."""
        return load_protocol(self.protocol)

    def as_text(self) -> str:
        """For people: what it costs."""
        every = [one for planned in self.slices.values() for one in planned]
        counts = sorted({len(planned) for planned in self.slices.values()})
        each = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        axes = [one.slice.axis for one in every]
        along = ", ".join(f"{axes.count(axis)} {axis}" for axis in AXES if axis in axes)
        hours = sum(one.minutes for one in every) / 60
        first = (
            f"{len(every)} slices of {len(self.slices)} scans, {each} a scan ({along});"
            f" about {hours:.1f} h ({self.strategy})"
        )
        return "\n".join([first, *(f"  {sentence}" for sentence in self.says)])


def load_cohort(path: Path) -> Cohort:
    """The cases of a manifest or a data folder."""
    return index_folder(path).cohort if path.is_dir() else read_cohort(path)


def write_plan(plan: Plan, path: Path) -> None:
    """Write a plan as TSV, whole or not at all; paths become relative to its folder.

    Raises:
        OutputError: If it cannot be written.
    """
    cases, folder = plan.cases(), path.absolute().parent
    protocol = plan.protocol
    if protocol.endswith(".tsv"):
        protocol = _relative(Path(protocol), folder)
    text = StringIO()
    table = csv.writer(text, delimiter="\t", lineterminator="\n")
    table.writerow(COLUMNS)
    for name, planned in plan.slices.items():
        scan = _relative(cases[name].scans[plan.modality], folder)
        for one in planned:
            where = one.slice
            doubt = "n/a" if one.doubt_mm2 is None else f"{one.doubt_mm2:.1f}"
            table.writerow((
                name, where.axis, where.shown, one.of, f"{one.position_mm:.2f}",
                f"{one.minutes:g}", doubt, "ijk"[where.voxel_axis], where.index, scan,
                plan.modality, protocol, plan.strategy, _relative(plan.cohort, folder),
            ))  # fmt: skip
    write_text(path, text.getvalue())


def read_plan(path: Path) -> Plan:
    """Read a plan.

    Raises:
        CohortError: If it cannot be read, naming every line that makes no sense.
    """
    rows = _rows(path)
    problems: list[str] = []
    slices: dict[str, list[Planned]] = {}
    for number, row in enumerate(rows, start=2):
        try:
            slices.setdefault(row["case"], []).append(_read_planned(row))
        except (KeyError, ValueError, TypeError):
            problems.append(f"line {number} is {' '.join(str(x) for x in row.values())!r}.")
    for column in _COMMON:
        found = sorted({str(row.get(column)) for row in rows})
        if len(found) > 1:
            problems.append(f"its lines have {len(found)} values for {column}: {', '.join(found)}.")
    refuse(str(path), problems, fix="undo what was changed in it, or plan again.")
    first, folder = rows[0], path.absolute().parent
    protocol = first["protocol"]
    return Plan(
        cohort=folder / first["cohort"],
        modality=first["modality"],
        protocol=str(folder / protocol) if protocol.endswith(".tsv") else protocol,
        strategy=first["strategy"],
        slices={name: tuple(planned) for name, planned in slices.items()},
    )


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as problem:
        raise CohortError(
            f"Cannot read the plan {path}: {problem}.", fix="check the path."
        ) from None
    lacking = [name for name in COLUMNS if not rows or name not in rows[0]]
    if lacking:
        raise CohortError(
            f"{path} is no plan: it has no lines, or no column {', '.join(lacking)}.",
            fix="write one with `fewlabel budget plan COHORT --slices N --out PLAN`.",
        )
    return rows


def _read_planned(row: Mapping[str, str]) -> Planned:
    voxel_axis, index, of = "ijk".index(row["voxel_axis"]), int(row["index"]), int(row["of"])
    one = Slice(AXES[AXES.index(row["axis"])], voxel_axis, index)
    if not 0 <= index < of or one.shown != int(row["slice"]) or len(row["voxel_axis"]) != 1:
        raise ValueError(row)
    doubt = None if row["doubt_mm2"] == "n/a" else float(row["doubt_mm2"])
    return Planned(one, of, float(row["position_mm"]), float(row["minutes"]), doubt)


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()
