"""The tables of a whole cohort.

OUT/volumes.tsv                           a line a scan: warnings, expected Dice, volumes in mm3
OUT/failures.tsv                          a line a scan of the last run that failed, with the reason
"""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

from fewlabel.whole import write_text

VOLUMES, FAILURES = "volumes.tsv", "failures.tsv"


class Written(NamedTuple):
    """How many scans are in the table of volumes, and how many of them have warnings."""

    scans: int
    doubtful: int


def write_volumes(out: Path) -> Written:
    """One table of all finished scans in a folder of derivatives.

    The column `warnings` counts those of the record. Calibrated models add `expected_dice`, the
    mean over structures, and models that tell the age at scan add `age_weeks`.

    Raises:
        OutputError: If it cannot be written.
    """
    rows: list[dict[str, str]] = []
    for record in sorted(out.glob("sub-*/**/*_dseg.json")):
        table = record.with_name(record.name.replace("_dseg.json", "_volumes.tsv"))
        if not table.exists():
            continue
        lines = table.read_text(encoding="utf-8").splitlines()[1:]
        volumes = dict(line.split("\t") for line in lines)
        rows.append({**_who(record), **volumes})
    columns = dict.fromkeys(name for row in rows for name in row)
    first = ("participant_id", "session_id", "scan", "warnings")
    write_table(out / VOLUMES, [*first, *(c for c in columns if c not in first)], rows)
    return Written(len(rows), sum(row["warnings"] != "0" for row in rows))


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> None:
    """A table of BIDS: tabs, n/a for what is missing; whole or not at all.

    Raises:
        OutputError: If it cannot be written.
    """
    text = StringIO()
    table = csv.DictWriter(text, columns, restval="n/a", delimiter="\t", lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_text(path, text.getvalue())


def read_json(path: Path) -> dict[str, Any] | None:
    """What a JSON file says; None if it is not there or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _who(record: Path) -> dict[str, str]:
    found = read_json(record) or {}
    parts = dict(part.partition("-")[::2] for part in record.name.split("_")[:-1])
    session = parts.get("ses", "")
    return {
        "participant_id": f"sub-{parts.get('sub', '')}",
        "session_id": f"ses-{session}" if session else "n/a",
        "scan": str(found.get("scan", record.name)),
        "warnings": str(len(found.get("warnings", ()))),
        **_expected(found.get("quality")),
        **_age(found.get("age")),
    }


def _expected(found: Any) -> dict[str, str]:
    """What a record says of the Dice to expect, if its model was calibrated."""
    if not isinstance(found, dict) or not found.get("expected_dice"):
        return {}
    mean = found.get("mean_expected_dice")
    return {"expected_dice": "n/a" if mean is None else f"{mean:.3f}"}


def _age(found: Any) -> dict[str, str]:
    """What a record says of the age that the network told."""
    if not isinstance(found, dict):
        return {}
    weeks = found.get("weeks")
    return {"age_weeks": "n/a" if weeks is None else f"{weeks:.2f}"}
