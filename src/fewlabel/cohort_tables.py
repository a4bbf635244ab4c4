"""The tables of a whole cohort.

OUT/volumes.tsv                           a line a scan: warnings, expected Dice, volumes in mm3
OUT/sub-01/sub-01_failures.tsv            a line a scan that failed in the last run for this person
OUT/failures.tsv                          the lines of all such files

Jobs for different people may run at the same time: each writes files of its own, of which the
tables of all are made.
"""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

from fewlabel.whole import write_text

VOLUMES, FAILURES = "volumes.tsv", "failures.tsv"
_FAILURE = ("scan", "reason", "to_fix")


class Written(NamedTuple):
    """What became of the table of volumes.

    Attributes:
        scans: How many are in it.
        doubtful: How many of them have warnings.
        damaged: Tables of scans that could not be read and were left out.
    """

    scans: int
    doubtful: int
    damaged: tuple[Path, ...] = ()


def write_volumes(out: Path) -> Written:
    """One table of all finished scans in a folder of derivatives.

    The column `warnings` counts those of the record. Calibrated models add `expected_dice`, the
    mean over structures, and models that tell the age at scan add `age_weeks`.

    Raises:
        OutputError: If it cannot be written.
    """
    rows: list[dict[str, str]] = []
    damaged: list[Path] = []
    for record in sorted(out.glob("sub-*/**/*_dseg.json")):
        table = record.with_name(record.name.replace("_dseg.json", "_volumes.tsv"))
        if not table.exists():
            continue
        volumes = _volumes(table)
        if volumes is None:
            damaged.append(table)
        else:
            rows.append({**_who(record), **volumes})
    columns = dict.fromkeys(name for row in rows for name in row)
    first = ("participant_id", "session_id", "scan", "warnings")
    write_table(out / VOLUMES, [*first, *(c for c in columns if c not in first)], rows)
    doubtful = sum(row["warnings"] != "0" for row in rows)
    return Written(len(rows), doubtful, tuple(damaged))


def write_failures(
    out: Path, failed: Mapping[str, Sequence[Mapping[str, str]]], *, everybody: bool
) -> None:
    """Tell what failed in a run, person by person, and gather what failed of all.

    Args:
        out: Folder of the derivatives.
        failed: For each person in the run, such as sub-01, `scan`, `reason` and `to_fix` of what
            failed; nothing if all went well.
        everybody: Whether nobody else is in the data set; else what failed of others stays.

    Raises:
        OutputError: If it cannot be written.
    """
    for person, rows in failed.items():
        path = out / person / f"{person}_{FAILURES}"
        if rows:
            write_table(path, _FAILURE, rows)
        else:
            path.unlink(missing_ok=True)
    if everybody:
        for path in _failures_in(out):
            if path.parent.name not in failed:
                path.unlink(missing_ok=True)
    gather_failures(out)


def gather_failures(out: Path) -> None:
    """Write the table of what failed from the files of all people.

    Raises:
        OutputError: If it cannot be written.
    """
    found: list[dict[str, str]] = []
    for path in _failures_in(out):
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
            rows = list(csv.DictReader(lines, delimiter="\t"))
        except (OSError, ValueError, csv.Error):
            continue  # another job has just removed it, or it is damaged
        found += [{name: row.get(name) or "n/a" for name in _FAILURE} for row in rows]
    write_table(out / FAILURES, _FAILURE, found)


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


def _failures_in(out: Path) -> list[Path]:
    return sorted(out.glob(f"sub-*/sub-*_{FAILURES}"))


def _volumes(table: Path) -> dict[str, str] | None:
    """Volume of each structure, as it is written; None if the table is damaged."""
    try:
        _, *lines = table.read_text(encoding="utf-8").splitlines()
        return dict(line.split("\t") for line in lines)
    except (OSError, ValueError):
        return None


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
