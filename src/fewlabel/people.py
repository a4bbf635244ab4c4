"""What a BIDS data set tells about the person in a scan."""

import csv
import math
import re
from pathlib import Path

_PERSON = re.compile(r"sub-[A-Za-z0-9]+")
_LEVELS = 5
_OLDEST_YEARS = 130.0


def age_years(scan: Path) -> float | None:
    """The age that the nearest `participants.tsv` above a scan gives, or None.

    BIDS gives ages in years; numbers that cannot be years are not taken for an age.

    Args:
        scan: Its name, or a folder above it, says who it is: sub-01.
    """
    path = scan.absolute()
    names = [_PERSON.match(part) for part in reversed(path.parts)]
    person = next((found.group() for found in names if found), None)
    if person is None:
        return None
    for folder in list(path.parents)[:_LEVELS]:
        table = folder / "participants.tsv"
        if table.is_file():
            return _age_in(table, person)
    return None


def _age_in(table: Path, person: str) -> float | None:
    try:
        lines = table.read_text(encoding="utf-8").splitlines()
        rows = list(csv.DictReader(lines, delimiter="\t"))
        ages = [float(row["age"]) for row in rows if row.get("participant_id") == person]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a table that says no age
    usable = [age for age in ages if math.isfinite(age) and 0 <= age <= _OLDEST_YEARS]
    return usable[0] if usable else None
