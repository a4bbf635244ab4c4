"""BIDS data sets: images under sub-*/anat, label maps under derivatives/*, participants.tsv."""

import csv
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fewlabel.cohort import Case, Cohort
from fewlabel.datasets.found import Found, and_more, shipped_as, shipped_like, stem_of
from fewlabel.errors import CohortError
from fewlabel.labels import load_protocol

_WEEKS_PER_YEAR = 365.25 / 7
_AGE_COLUMNS = {
    "age_weeks": 1.0,
    "postmenstrual_age_weeks": 1.0,
    "gestational_age_weeks": 1.0,
    "scan_age": 1.0,
    "age": _WEEKS_PER_YEAR,
}
"""Columns of participants.tsv to weeks; BIDS gives `age` in years."""
_PERSON_COLUMNS = ("person_id", "person")
_FAMILY_COLUMNS = ("family_id", "family", "twin_id", "twin_pair", "mother_id")
_IS_BIDS = re.compile(r"sub-[A-Za-z0-9]+(_[A-Za-z]+-[A-Za-z0-9+]+)*_[A-Za-z0-9]+")

Session = tuple[str, str]
Row = Mapping[str, str]


@dataclass(frozen=True)
class _File:
    """A volume with a BIDS name."""

    path: Path
    entities: dict[str, str]
    suffix: str

    @property
    def session(self) -> Session:
        return self.entities["sub"], self.entities.get("ses", "")


def index_bids(folder: Path, protocol: str = "", desc: str = "") -> Found:
    """Index a BIDS data set.

    Args:
        folder: The data set.
        protocol: Of the label maps; by default the `*dseg.tsv` beside them says it, or their
            `desc` if it is the name of a shipped protocol.
        desc: Which label maps, if a session has several: the part after `desc-`.

    Raises:
        CohortError: If there is nothing to index, or sessions have several label maps and
            `desc` does not choose between them.
    """
    images = [f for f in _volumes(folder, "sub-*") if f.suffix != "dseg"]
    labels = [f for f in _volumes(folder / "derivatives", "*/sub-*") if f.suffix == "dseg"]
    labels = [f for f in labels if desc in ("", f.entities.get("desc"))]
    _refuse_ambiguous(folder, labels)
    odd: list[str] = []
    scans = _by_modality(images, odd)
    maps = {file.session: file for file in labels}
    people = _participants(folder)
    rule = _protocol_rule(labels, protocol, odd)
    sessions = sorted({*scans, *maps})
    if not sessions:
        raise CohortError(
            f"{folder} holds neither sub-*/anat/*.nii.gz nor derivatives/*/sub-*/*_dseg.nii.gz.",
            fix="give a BIDS data set, or a folder with `images` and `labels`.",
        )
    cases = []
    for session in sessions:
        row = people.get(session[0], {})
        file = maps.get(session)
        cases.append(_case(folder.resolve().name, session, row, scans.get(session, {}), file))
    cases = [_with_protocol(case, rule) for case in cases]
    odd += _oddities(cases, people)
    return Found(Cohort(tuple(cases)), tuple(odd))


def images_of(folder: Path, suffix: str) -> list[Path]:
    """The images of one kind in a BIDS data set, all sessions and runs, in order.

    Args:
        folder: The data set.
        suffix: How their names end, such as T1w.
    """
    return [file.path for file in _volumes(folder, "sub-*") if file.suffix == suffix]


def sessions_of(folder: Path, suffixes: Sequence[str]) -> list[dict[str, list[Path]]]:
    """The images of some kinds in a BIDS data set, by kind, of each session that has any.

    Args:
        folder: The data set.
        suffixes: How their names end, such as T1w; kinds come in this order.
    """
    sessions: dict[Session, dict[str, list[Path]]] = defaultdict(dict)
    found = list(_volumes(folder, "sub-*"))
    for suffix in suffixes:
        for file in found:
            if file.suffix == suffix:
                sessions[file.session].setdefault(suffix, []).append(file.path)
    return [sessions[session] for session in sorted(sessions)]


def _volumes(folder: Path, pattern: str) -> Iterator[_File]:
    for subject in sorted(folder.glob(pattern)):
        for path in sorted(_files(subject, set())) if subject.is_dir() else ():
            stem = stem_of(path.name)
            if stem and _IS_BIDS.fullmatch(stem):
                *parts, suffix = stem.split("_")
                entities = {key: value for key, _, value in (p.partition("-") for p in parts)}
                yield _File(path, entities, suffix)


def _files(folder: Path, seen: set[str]) -> Iterator[Path]:
    """Files in a folder and those below it; links are followed, and each folder read once."""
    place = os.path.realpath(folder)
    if place in seen:
        return
    seen.add(place)
    try:
        with os.scandir(folder) as entries:
            inside = sorted((entry.name, entry.is_dir()) for entry in entries)
    except OSError as problem:
        raise CohortError(
            f"Cannot read {problem.filename or folder}: {problem.strerror}.",
            fix="change its permissions, or take it out of the data set.",
        ) from None
    for name, is_folder in inside:
        if is_folder:
            yield from _files(folder / name, seen)
        else:
            yield folder / name


def _refuse_ambiguous(folder: Path, labels: list[_File]) -> None:
    by_session = defaultdict(list)
    for file in labels:
        by_session[file.session].append(file)
    if all(len(files) == 1 for files in by_session.values()):
        return
    count: dict[str, int] = defaultdict(int)
    for file in labels:
        count[file.entities.get("desc", "none")] += 1
    kinds = ", ".join(f"{name} ({n} files)" for name, n in sorted(count.items()))
    raise CohortError(
        f"{folder} has several label maps a session, by their `desc`: {kinds}.",
        fix=f"choose one kind: `fewlabel cohort {folder} --desc NAME --out cohort.tsv`, or"
        " `data.desc` in settings.",
    )


def _by_modality(images: list[_File], odd: list[str]) -> dict[Session, dict[str, Path]]:
    scans: dict[Session, dict[str, Path]] = defaultdict(dict)
    for file in images:
        here = scans[file.session]
        if file.suffix in here:
            odd.append(
                f"{file.path.name} is a further {file.suffix} of its session and was left out;"
                f" {here[file.suffix].name} is used."
            )
        here.setdefault(file.suffix, file.path)
    return scans


def _participants(folder: Path) -> dict[str, Row]:
    file = folder / "participants.tsv"
    if not file.is_file():
        return {}
    lines = file.read_text(encoding="utf-8-sig").splitlines()
    rows = [
        {key.lower(): value.strip() for key, value in row.items() if key and value}
        for row in csv.DictReader(lines, delimiter="\t")
    ]
    return {row.get("participant_id", "").removeprefix("sub-"): row for row in rows}


def _protocol_rule(labels: list[_File], protocol: str, odd: list[str]) -> dict[str, str]:
    """Protocol of each kind of label maps, by `desc`."""
    rule = {}
    for file in labels:
        kind = file.entities.get("desc", "")
        if kind in rule:
            continue
        rule[kind] = protocol or _protocol_of(file, kind)
        if not rule[kind]:
            odd.append(
                f"Nothing says what the numbers in label maps like {file.path.name} mean: give"
                " --protocol NAME or a TSV file."
            )
    return rule


def _protocol_of(file: _File, kind: str) -> str:
    name = f"desc-{kind}_dseg.tsv" if kind else "dseg.tsv"
    for folder in file.path.parents:
        for table in (folder / name, folder / "dseg.tsv"):
            if table.is_file():
                return shipped_like(load_protocol(table), kind) or str(table)
        if folder.name == "derivatives":
            break
    return shipped_as(kind) or ""


def _case(
    data_set: str, session: Session, row: Row, scans: dict[str, Path], labels: _File | None
) -> Case:
    subject, visit = session
    person = _first(row, _PERSON_COLUMNS) or f"{data_set}/{subject}"
    split = row.get("split", "")
    return Case(
        id=f"sub-{subject}_ses-{visit}" if visit else f"sub-{subject}",
        person=person,
        family=_first(row, _FAMILY_COLUMNS) or person,
        scans=scans,
        labels=labels.path if labels else None,
        protocol=labels.entities.get("desc", "") if labels else "",
        session=visit,
        age_weeks=_age_weeks(row),
        site=row.get("site", ""),
        split={"validation": "val", "training": "train"}.get(split, split).replace("n/a", ""),
    )


def _with_protocol(case: Case, rule: Mapping[str, str]) -> Case:
    if case.labels is None:
        return case
    return Case(**{**vars(case), "protocol": rule[case.protocol]})


def _first(row: Row, columns: tuple[str, ...]) -> str:
    found = (row.get(column, "") for column in columns)
    return next((value for value in found if value and value != "n/a"), "")


def _age_weeks(row: Row) -> float | None:
    for column, weeks in _AGE_COLUMNS.items():
        try:
            return float(row[column].removesuffix("+")) * weeks
        except (KeyError, ValueError):
            continue
    return None


def _oddities(cases: list[Case], people: Mapping[str, Row]) -> list[str]:
    odd = []
    unlabeled = [case.id for case in cases if case.labels is None]
    unseen = [case.id for case in cases if not case.scans]
    if unlabeled:
        odd.append(f"{len(unlabeled)} cases have no labels: {and_more(unlabeled)}.")
    if unseen:
        odd.append(f"{len(unseen)} cases have labels but no image: {and_more(unseen)}.")
    modalities = {name for case in cases for name in case.scans}
    for name in sorted(modalities):
        lacking = [case.id for case in cases if case.scans and name not in case.scans]
        if lacking:
            odd.append(f"{len(lacking)} cases have no {name}: {and_more(lacking)}.")
    here = {case.id.removeprefix("sub-").split("_ses-")[0] for case in cases}
    gone = sorted(set(people) - here - {""})
    if gone:
        odd.append(f"{len(gone)} lines of participants.tsv have no files: {and_more(gone)}.")
    strangers = sorted(here - set(people))
    if people and strangers:
        odd.append(f"{len(strangers)} are not in participants.tsv: {and_more(strangers)}.")
    return odd
