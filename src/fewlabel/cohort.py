"""Who is in a study: cases, and the people and families behind them.

A manifest is a TSV file with a line a case. Paths are relative to its folder; n/a or nothing
means unknown. Columns other than those of `COLUMNS` are modalities and hold paths of images.
"""

import csv
import math
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import TypeVar

from fewlabel.errors import CohortError, FewlabelError
from fewlabel.labels import LabelProtocol, load_protocol
from fewlabel.whole import write_text

COLUMNS = (
    "case", "person", "family", "session", "age_weeks", "site", "split", "protocol", "looked_for",
    "labels",
)  # fmt: skip
SPLITS = ("train", "val", "test")
_MOST_LISTED = 20
T = TypeVar("T")


@dataclass(frozen=True)
class Case:
    """One session of one person. Holds paths; nothing is read before it is needed.

    Attributes:
        id: Unique in its cohort.
        person: Who was scanned; the same for every session of one person, in every data set.
        family: Who they are related to; the person itself if nothing is known.
        scans: Image of each modality.
        labels: Label map; None if there is none.
        protocol: What the label map says: a shipped protocol, or a TSV file.
        looked_for: Structures that the annotator looked for; None: all of the protocol.
        session: Name of the session.
        age_weeks: Age in weeks, after birth or conception as the study has it.
        site: Where it was scanned.
        split: "train", "val", "test", or "" for none.
    """

    id: str
    person: str
    family: str
    scans: Mapping[str, Path]
    labels: Path | None = None
    protocol: str = ""
    looked_for: tuple[str, ...] | None = None
    session: str = ""
    age_weeks: float | None = None
    site: str = ""
    split: str = ""

    @property
    def files(self) -> dict[str, Path]:
        """Images and label map, by their columns in a manifest."""
        return {**self.scans, **({"labels": self.labels} if self.labels else {})}

    def drawn_in(self) -> LabelProtocol:
        """The protocol of the label map.

        Raises:
            ProtocolError: If it is unknown, or lacks a structure of `looked_for`.
        """
        protocol = load_protocol(self.protocol)
        protocol.restrict(self.looked_for or ())
        return protocol


@dataclass(frozen=True)
class Cohort:
    """Cases that belong together.

    Attributes:
        cases: In the order of the manifest.
    """

    cases: tuple[Case, ...]

    def part(self, split: str) -> tuple[Case, ...]:
        """The cases of one split."""
        return tuple(case for case in self.cases if case.split == split)

    def seen_in(self, modalities: Collection[str]) -> "Cohort":
        """The same cases without scans of other modalities.

        Raises:
            CohortError: If no case has any of these.
        """
        there = dict.fromkeys(name for case in self.cases for name in case.scans)
        if there and not set(there) & set(modalities):
            raise CohortError(
                f"No case has a scan called {' or '.join(modalities)}, only {', '.join(there)}.",
                fix="name these modalities in the settings, or rename the columns of the manifest.",
            )
        return Cohort(
            tuple(
                replace(case, scans={m: p for m, p in case.scans.items() if m in modalities})
                for case in self.cases
            )
        )


def refuse(where: str, problems: Sequence[str], *, fix: str) -> None:
    """Refuse data with everything that is wrong with it, if anything is.

    Raises:
        CohortError: Naming all problems.
    """
    if not problems:
        return
    listed = "".join(f"\n  - {problem}" for problem in problems[:_MOST_LISTED])
    rest = len(problems) - _MOST_LISTED
    more = f"\n  - and {rest} more" if rest > 0 else ""
    count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
    raise CohortError(f"{where} has {count}:{listed}{more}", fix=fix)


def of_each(do: Callable[[Case], T], cases: Sequence[Case]) -> list[T]:
    """What `do` gives for each case, in order; all that it refuses is named at once.

    Raises:
        CohortError: Naming everything that is wrong with any of the cases.
    """

    def attempt(case: Case) -> T | FewlabelError:
        try:
            return do(case)
        except FewlabelError as refusal:
            return refusal

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(attempt, cases))
    refused = [
        (case, result)
        for case, result in zip(cases, found, strict=True)
        if isinstance(result, FewlabelError)
    ]
    fixes = {refusal.fix for _, refusal in refused}
    fix = fixes.pop() if len(fixes) == 1 else "correct these files, or take the cases out."
    refuse("The cohort", [f"{case.id}: {refusal.what}" for case, refusal in refused], fix=fix)
    return [result for result in found if not isinstance(result, FewlabelError)]


def read_cohort(manifest: Path) -> Cohort:
    """Read a manifest and check all that can be checked without opening images.

    Raises:
        CohortError: If it cannot be read, or naming every case that is there twice, file that
            is missing, and entry that makes no sense.
    """
    if manifest.is_dir():
        raise CohortError(
            f"{manifest} is a folder, and a manifest is needed here.",
            fix=f"write one with `fewlabel cohort {manifest} --out cohort.tsv`.",
        )
    try:
        with manifest.open(encoding="utf-8-sig", newline="") as stream:
            table = csv.DictReader(stream, delimiter="\t")
            rows, columns = list(table), tuple(table.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as problem:
        raise CohortError(
            f"Cannot read the manifest {manifest}: {problem}.", fix="check the path."
        ) from None
    if "case" not in columns or not rows:
        raise CohortError(
            f"{manifest} has {'no cases' if 'case' in columns else 'no column `case`'}.",
            fix="write a manifest with `fewlabel cohort DATA --out cohort.tsv`.",
        )
    modalities = tuple(name for name in columns if name not in COLUMNS)
    problems: list[str] = []
    cases = [_read_case(row, modalities, manifest.parent, problems) for row in rows]
    cohort = Cohort(tuple(cases))
    problems += problems_of(cohort)
    refuse(str(manifest), problems, fix="correct these lines; paths are relative to the manifest.")
    return cohort


def _read_case(
    row: Mapping[str, str | None], modalities: Sequence[str], folder: Path, problems: list[str]
) -> Case:
    def entry(column: str) -> str:
        value = (row.get(column) or "").strip()
        return "" if value == "n/a" else value

    name, protocol = entry("case"), entry("protocol")
    age = _number(entry("age_weeks"))
    if age is not None and math.isnan(age):
        problems.append(f"{name}: age_weeks is {entry('age_weeks')!r}, which is no number.")
    looked_for = tuple(part.strip() for part in entry("looked_for").split(";") if part.strip())
    person = entry("person") or person_in(name)
    return Case(
        id=name,
        person=person,
        family=entry("family") or person,
        scans={m: folder / entry(m) for m in modalities if entry(m)},
        labels=folder / entry("labels") if entry("labels") else None,
        protocol=str(folder / protocol) if protocol.endswith(".tsv") else protocol,
        looked_for=looked_for or None,
        session=entry("session"),
        age_weeks=age,
        site=entry("site"),
        split=entry("split"),
    )


def person_in(name: str) -> str:
    """Whom a case or a file is named after: that of BIDS if it is named so, or else all of it.

    >>> person_in("sub-01_ses-2_T1w"), person_in("case 7")
    ('sub-01', 'case 7')
    """
    found = re.match(r"sub-[A-Za-z0-9]+(?=_|$)", name)
    return found[0] if found else name


def _number(text: str) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return math.nan


def problems_of(cohort: Cohort) -> list[str]:
    """What is wrong with a cohort, as far as can be told without opening images."""
    names = [case.id for case in cohort.cases]
    problems = [
        f"{name or 'a case without a name'} is there {names.count(name)} times."
        for name in dict.fromkeys(names)
        if names.count(name) > 1 or not name
    ]
    for case in cohort.cases:
        problems += [
            f"{case.id}: there is no file {path} (column {column!r}"
            f"{'' if column == 'labels' else ', taken for a modality'})."
            for column, path in case.files.items()
            if not path.exists()
        ]
        if not case.files:
            problems.append(f"{case.id}: it has neither an image nor labels.")
        if case.split and case.split not in SPLITS:
            problems.append(
                f"{case.id}: split is {case.split!r}; it is one of {', '.join(SPLITS)}."
            )
        try:
            if case.protocol:
                case.drawn_in()
        except FewlabelError as problem:
            problems.append(f"{case.id}: {problem.what}")
    return problems


def write_cohort(cohort: Cohort, manifest: Path) -> None:
    """Write a manifest, whole or not at all; paths become relative to its folder.

    Raises:
        OutputError: If it cannot be written.
    """
    modalities = list(dict.fromkeys(name for case in cohort.cases for name in case.scans))
    text = StringIO()
    table = csv.writer(text, delimiter="\t", lineterminator="\n")
    table.writerow((*COLUMNS, *modalities))
    for case in cohort.cases:
        table.writerow(_row(case, modalities, manifest.parent))
    write_text(manifest, text.getvalue())


def _row(case: Case, modalities: Sequence[str], folder: Path) -> list[str]:
    protocol = case.protocol
    if protocol.endswith(".tsv"):
        protocol = _relative(Path(protocol), folder)
    entries = [
        case.id, case.person, case.family, case.session,
        "" if case.age_weeks is None else f"{case.age_weeks:.6g}",
        case.site, case.split, protocol, "; ".join(case.looked_for or ()),
        _relative(case.labels, folder),
        *(_relative(case.scans.get(name), folder) for name in modalities),
    ]  # fmt: skip
    return [entry or "n/a" for entry in entries]


def _relative(path: Path | None, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix() if path else ""
