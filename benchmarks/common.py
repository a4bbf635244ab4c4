"""What every table of results says about where its numbers come from."""

import csv
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results"


def provenance(note: str = "") -> dict[str, str]:
    """The first columns of each row: date, machine, command, commit and a note."""
    words = sys.orig_argv[1:]  # absolute paths mean nothing elsewhere
    return {
        "date": date.today().isoformat(),
        "machine": machine(),
        "command": " ".join(Path(word).name if word[:1] == "/" else word for word in words),
        "commit": commit(),
        "note": note,
    }


def machine() -> str:
    """The processor's name and how many cores this process may use."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = models[0].split(":")[1].strip() if models else name
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {usable} of {os.cpu_count()} cores"


def commit() -> str:
    """Commit of this source tree, marked if files differ from it."""
    command = ["git", "-C", str(RESULTS.parent), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table; none if it is not there yet."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def agreement(found: np.ndarray, expected: np.ndarray) -> float:
    """Mean Dice over the structures that either of two maps of classes has."""
    n = int(max(found.max(), expected.max())) + 1
    pairs = np.bincount(expected.ravel() * n + found.ravel(), minlength=n * n).reshape(n, n)
    sizes = (pairs.sum(0) + pairs.sum(1))[1:]
    return float((2 * np.diag(pairs)[1:][sizes > 0] / sizes[sizes > 0]).mean())


def add_rows(path: Path, rows: Sequence[Mapping[str, str | float]]) -> None:
    """Append rows to a table, which is begun with their keys if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
        if new:
            table.writeheader()
        table.writerows(rows)
