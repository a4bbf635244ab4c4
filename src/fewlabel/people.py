"""What a BIDS data set tells about the person in a scan."""

import csv
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

WEEKS_PER_YEAR = 365.25 / 7
WEEKS_COLUMNS = ("age_weeks", "scan_age", "postmenstrual_age_weeks", "gestational_age_weeks")
"""Columns that give an age in weeks; the first that is filled in counts."""
_WEEKS_IN = dict.fromkeys((*WEEKS_COLUMNS, "age in weeks"), 1.0)
_YEARS_IN = {"age": 1.0, "age in months": 12.0, "age in days": 365.25}
"""Units of a column in a week or year; `_by_unit` names some of these columns."""
_PERSON = re.compile(r"^sub-[A-Za-z0-9]+")
_SESSION = re.compile(r"(?<![A-Za-z0-9])ses-[A-Za-z0-9]+")
_LEVELS = 5
_OLDEST_YEARS = 130.0
_SURE_YEARS = 2.0
"""From here on it hardly matters whether weeks are counted from birth or from conception."""

Row = Mapping[str, str | None]


@dataclass(frozen=True)
class Age:
    """How old a person was when scanned.

    Attributes:
        years: Since birth, or since conception for newborns; None: unknown.
        weeks: As the study counts them; None: unknown.
    """

    years: float | None = None
    weeks: float | None = None


UNKNOWN = Age()


def age_of(scan: Path) -> Age:
    """The age that the tables above a scan give: `*_sessions.tsv`, then `participants.tsv`.

    BIDS gives ages in years, as `age`, or in the `Units` of `age` in the JSON beside the table:
    years, months, weeks or days. Studies of newborns give weeks, in one of `WEEKS_COLUMNS`.
    Numbers that cannot be ages, and those in other units, are not taken for any. Years below two
    are not made weeks, as nothing says whether they count from birth or from conception.

    Args:
        scan: Its name, or a folder above it, says who it is: sub-01, and perhaps ses-2.
    """
    path = scan.absolute()
    person, session = _named(path, _PERSON), _named(path, _SESSION)
    if person is None:
        return UNKNOWN
    folders = list(path.parents)[:_LEVELS]
    rows: list[Row] = []
    if session is not None:
        rows += _rows(folders, f"{person}_sessions.tsv", "session_id", session)
    rows += _rows(folders, "participants.tsv", "participant_id", person)
    weeks = _first(rows, _WEEKS_IN, _OLDEST_YEARS * WEEKS_PER_YEAR)
    years = _first(rows, _YEARS_IN, _OLDEST_YEARS)
    if weeks is None and years is not None and years >= _SURE_YEARS:
        weeks = years * WEEKS_PER_YEAR
    if years is None and weeks is not None:
        years = weeks / WEEKS_PER_YEAR
    return Age(years, weeks)


def _named(path: Path, pattern: re.Pattern[str]) -> str | None:
    """What a pattern finds in a file's name or the nearest folder's."""
    found = (pattern.search(part) for part in reversed(path.parts))
    return next((one.group() for one in found if one), None)


def _rows(folders: list[Path], table: str, column: str, wanted: str) -> list[Row]:
    """The lines about somebody in the nearest table of a name; none if it cannot be read."""
    prefix = wanted.partition("-")[0] + "-"
    for folder in folders:
        if not (folder / table).is_file():
            continue
        try:
            lines = (folder / table).read_text(encoding="utf-8-sig").splitlines()
            rows = list(csv.DictReader(lines, delimiter="\t"))
        except (OSError, ValueError, csv.Error):
            return []
        bare = wanted.removeprefix(prefix)
        found = [row for row in rows if (row.get(column) or "").removeprefix(prefix) == bare]
        return _by_unit(found, _unit(folder / table))
    return []


def _by_unit(rows: Sequence[Row], unit: str) -> list[Row]:
    """The lines with `age` under the name of its unit, if that is not years."""
    if unit == "year":
        return list(rows)
    return [{**row, "age": None, f"age in {unit}s": row.get("age")} for row in rows]


def _unit(table: Path) -> str:
    """The unit of `age`, such as "week", by the JSON of the table; years if none says so.

    That of `sub-01_sessions.tsv` may also be called `sessions.json`, beside it or a folder above.
    """
    of_all = f"{table.stem.rpartition('_')[2]}.json"
    places = [table.with_suffix(".json")]
    if table.stem != "participants":
        places += [table.with_name(of_all), table.parent.parent / of_all]
    for place in places:
        try:
            unit = json.loads(place.read_text(encoding="utf-8-sig"))["age"]["Units"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        return str(unit).strip().lower().removesuffix("s") or "year"
    return "year"


def _first(rows: list[Row], columns: Mapping[str, float], most: float) -> float | None:
    """The first usable number in some columns, table by table, over its units."""
    for row in rows:
        for column, units in columns.items():
            try:
                age = float(row.get(column) or "") / units
            except ValueError:
                continue
            if math.isfinite(age) and 0 <= age <= most:
                return age
    return None
