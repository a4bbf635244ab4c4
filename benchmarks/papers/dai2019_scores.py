"""Dice of dai2019's tables: whole brain, FIRST's 15 structures, the 25 of Table 3."""

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.common import RESULTS, add_rows, provenance, read_rows
from fewlabel.cohort import Case
from fewlabel.engine import Compute
from fewlabel.io import read_labels, read_scan
from fewlabel.labels import load_protocol
from fewlabel.metrics import dice
from fewlabel.model import ModelFolder
from fewlabel.segmenter import Segmenter
from fewlabel.volume import LabelMap

FULL = load_protocol("neuromorphometrics138")
GROUPS = ("whole brain", "sub-cortical 15", "25 of Table 3")


def groups(found: LabelMap, truth: LabelMap) -> dict[str, dict[str, float]]:
    """Dice of each structure, for the whole brain, FIRST's 15 and the 25 of Table 3."""
    scored = {label.name for label in FULL.labels if label.scored}
    first, table3 = load_protocol("fsl15"), load_protocol("malc25")
    by_group = {"sub-cortical 15": dice(found.to(first), truth.to(first))}
    if found.protocol == FULL:
        whole = {name: value for name, value in dice(found, truth).items() if name in scored}
        by_group = {"whole brain": whole} | by_group
    if found.protocol.name != "fsl15":
        by_group["25 of Table 3"] = dice(found.to(table3), truth.to(table3))
    return by_group


def score(
    model: ModelFolder, about: Mapping[str, Any], cases: Sequence[Case]
) -> list[dict[str, Any]]:
    """A row for each scored scan, group and structure, and one for the mean of each group."""
    segmenter, rows = Segmenter(model, Compute()), []
    for case in cases:
        assert case.labels is not None
        found = segmenter(read_scan(case.scans["T1w"])).labels
        for group, scores in groups(found, read_labels(case.labels, FULL)).items():
            there = {name: value for name, value in scores.items() if not math.isnan(value)}
            spread = stdev(there.values())
            rows += [
                {**about, "case": case.id, "group": group, "structure": name, "dice": f"{v:.4f}"}
                | {"sd": "" if name != "mean" else f"{spread:.4f}"}
                for name, v in {"mean": mean(there.values()), **there}.items()
            ]
    return rows


def keep(rows: list[dict[str, Any]], asked: argparse.Namespace) -> None:
    """Means with their provenance go to one table, structures to another."""
    means = [row for row in rows if row["structure"] == "mean"]
    others = [row for row in rows if row["structure"] != "mean"]
    about = provenance(asked.note)
    add_rows(
        table(asked, "_structures"),
        [{key: value for key, value in row.items() if key != "sd"} for row in others],
    )
    add_rows(table(asked), [{**row, **about} for row in means])  # last, as it says what is done


def table(asked: argparse.Namespace, ending: str = "") -> Path:
    folder = RESULTS if asked.real else asked.work
    return folder / f"dai2019_{asked.size}{ending}.csv"


def read_table(asked: argparse.Namespace, ending: str = "") -> list[dict[str, str]]:
    rows = read_rows(table(asked, ending))
    wanted = (str(asked.steps), str(asked.pretrain_steps), asked.partial, str(asked.seed))
    return [r for r in rows if (r["steps"], r["pretrain_steps"], r["partial"], r["seed"]) == wanted]


def summary(rows: list[dict[str, str]]) -> Iterator[str]:
    """Markdown: mean over scans, and each scan."""
    cases = list(dict.fromkeys(row["case"] for row in rows))
    yield f"| labeled scans | method | {' | '.join(GROUPS)} |"
    yield "|---" * (2 + len(GROUPS)) + "|"
    for n, method in dict.fromkeys((row["n"], row["method"]) for row in rows):
        cells = []
        for group in GROUPS:
            here = {
                row["case"]: float(row["dice"])
                for row in rows
                if (row["n"], row["method"], row["group"]) == (n, method, group)
            }
            each = ", ".join(f"{here[case]:.3f}" for case in cases if case in here)
            cells.append(f"{mean(here.values()):.3f} ({each})" if here else "")
        yield f"| {n} | {method} | {' | '.join(cells)} |"
