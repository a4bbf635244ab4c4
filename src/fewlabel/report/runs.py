"""Training runs as a report shows them, read from their folders; no torch is needed."""

import csv
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fewlabel.errors import CohortError

_MOST_POINTS = 400
_MOST_CONFUSIONS = 60
_NOT_DRAWN = {"learning rate", "steps per second", "share waiting for data"}


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a training run that has begun."""
    return (folder / "history.csv").is_file() and (folder / "settings.yaml").is_file()


def read_run(folder: Path) -> dict[str, Any]:
    """Settings, provenance, curves, validation scores and confusions of a run.

    Raises:
        CohortError: If its files cannot be read.
    """
    try:
        return {
            "name": folder.absolute().name,
            "folder": folder.as_posix(),
            "settings": (folder / "settings.yaml").read_text(encoding="utf-8"),
            "provenance": _json(folder / "provenance.json"),
            "curves": _curves(folder / "history.csv"),
            "dice": _dice(folder / "validation.csv"),
            "confusion": _confusion(folder / "confusion.csv"),
        }
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise CohortError(
            f"{folder} is not a training run that can be read: {type(problem).__name__} {problem}.",
            fix="give a folder that `fewlabel train` wrote.",
        ) from None


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _curves(path: Path) -> list[dict[str, Any]]:
    """One entry per stage and quantity, thinned."""
    found: dict[tuple[str, str], list[tuple[int, float]]] = defaultdict(list)
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    for row in csv.DictReader(line for line in lines if line.endswith("\n")):
        if row["quantity"] not in _NOT_DRAWN:
            found[row["stage"], row["quantity"]].append((int(row["step"]), float(row["value"])))
    return [
        {"stage": stage, "quantity": quantity, "points": _thinned(points)}
        for (stage, quantity), points in found.items()
    ]


def _thinned(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Means over equal stretches, so that no curve has more than 400 points."""
    stretch = -(-len(points) // _MOST_POINTS)
    parts = [points[n : n + stretch] for n in range(0, len(points), stretch)] if stretch else []
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]


def _dice(path: Path) -> list[tuple[str, str, str, float]]:
    """Case, head, structure and Dice, as of the last validation."""
    if not path.is_file():
        return []
    rows = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    return [(row["case"], row["head"], row["structure"], float(row["dice"])) for row in rows]


def _confusion(path: Path) -> list[tuple[str, str, str, int, float]]:
    """Head, truth, prediction, voxels and their share of the truth; the worst shares first."""
    if not path.is_file():
        return []
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    total: dict[tuple[str, str], int] = defaultdict(int)
    for row in rows:
        total[row["head"], row["truth"]] += int(row["voxels"])
    found = [
        (
            row["head"],
            row["truth"],
            row["predicted"],
            voxels,
            voxels / total[row["head"], row["truth"]],
        )
        for row in rows
        if row["truth"] != row["predicted"] and (voxels := int(row["voxels"]))
    ]
    return sorted(found, key=lambda one: -one[4])[:_MOST_CONFUSIONS]
