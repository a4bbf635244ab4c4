"""The scans of richter2022.py, and how they are scored."""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fewlabel.brain_extent import extent_of
from fewlabel.budget import Brain, Strategy, choose, hide
from fewlabel.cohort import Case
from fewlabel.conform import conform, upright
from fewlabel.conformed import labels_on
from fewlabel.datasets import index_folder
from fewlabel.engine import Compute
from fewlabel.io import read_labels, read_scan, write_labels
from fewlabel.labels import load_protocol
from fewlabel.metrics import dice
from fewlabel.model import ModelFolder, rewrite_card
from fewlabel.segmenter import Segmenter
from fewlabel.warp_io import write_scan

BLIND: tuple[Strategy, ...] = ("random", "axial", "coronal", "sagittal", "equidistant")
"""Strategies that need no model."""
IN_PLAN = 0.9
"""Share of a brain's extent in which slices are chosen; there is little to annotate beyond."""


def weeks(data: Path) -> list[Case]:
    """The neonatal templates, youngest first."""
    cases = index_folder(data.resolve() / "neonatal-templates").cohort.cases
    return sorted(cases, key=lambda case: case.age_weeks or 0)


def malc(data: Path) -> tuple[list[Case], list[Case]]:
    """Adults to train on, and those to score."""
    cohort = index_folder(data.resolve() / "malc").cohort
    return list(cohort.part("train")), list(cohort.part("val"))


def split_of(cases: Sequence[Case], held: Collection[int], split: str) -> list[Case]:
    """The same cases; those of the weeks that are held out in that split, the others train."""
    return [
        replace(case, split=split if int(case.age_weeks or 0) in held else "train")
        for case in cases
    ]


def at_2_mm(cases: Sequence[Case], folder: Path) -> list[Case]:
    """The cases on the grid that networks work on, where a slice is a slice of theirs, too."""
    return [_at_2_mm(case, folder) for case in cases]


def _at_2_mm(case: Case, folder: Path) -> Case:
    assert case.labels is not None
    paths = {name: folder / f"{case.id}_{name}.nii.gz" for name in case.scans}
    drawn = folder / f"{case.id}_dseg.nii.gz"
    if not drawn.exists():
        folder.mkdir(parents=True, exist_ok=True)
        labels = read_labels(case.labels, case.drawn_in())
        grid = upright(labels.grid, 2.0)
        for name, path in paths.items():
            write_scan(conform(read_scan(case.scans[name]), grid), path)
        write_labels(labels_on(labels, grid), drawn)
    return replace(case, scans=paths, labels=drawn)


def hidden(cases: Sequence[Case], strategy: Strategy, seed: int, folder: Path) -> list[Case]:
    """The cases with only a third of their slices annotated, as a plan for them would have it.

    Args:
        cases: As `at_2_mm` gives them.
        strategy: Of `fewlabel budget plan`.
        seed: Decides all that is drawn.
        folder: For the label maps.
    """
    maps = []
    for case in cases:
        assert case.labels is not None
        maps.append(read_labels(case.labels, case.drawn_in()))
    brains = [Brain(one.grid, extent_of(one.data > 0, one.grid)) for one in maps]
    third = sum(np.mean([high - low for low, high in brain.extent]) / 3 * IN_PLAN
                for brain in brains)  # fmt: skip
    chosen = choose(brains, strategy, round(third), seed)
    found = []
    for case, labels, slices in zip(cases, maps, chosen, strict=True):
        path = folder / f"{case.id}_dseg.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_labels(hide(labels, slices), path)
        found.append(replace(case, labels=path))
    return found


def rightly_named(model: ModelFolder) -> ModelFolder:
    """The same with the names of what the templates hold: their own table names three wrongly."""
    (head,) = model.card.heads
    card = model.card.model_copy(update={"heads": {head: load_protocol("serag9")}})
    return rewrite_card(model, card)


def annotated(cases: Sequence[Case]) -> int:
    """Voxels of the brain that carry a label."""
    total = 0
    for case in cases:
        assert case.labels is not None
        total += int((read_labels(case.labels, case.drawn_in()).data > 0).sum())
    return total


def score_natively(model: ModelFolder, case: Case) -> Iterator[dict[str, Any]]:
    """Dice of each structure on the scan's own voxels, with both modalities and either alone."""
    assert case.labels is not None
    truth = read_labels(case.labels, model.card.protocol)
    scans = {name: read_scan(path) for name, path in case.scans.items()}
    segmenter = Segmenter(model, Compute())
    for seen in (("T1w", "T2w"), ("T2w",), ("T1w",)):
        found = segmenter({name: scans[name] for name in seen})
        about = {
            "case": case.id,
            "input": " and ".join(seen),
            "true_weeks": case.age_weeks,
            "age_weeks": "" if found.age is None else f"{found.age.weeks:.2f}",
        }
        for structure, value in dice(found.labels, truth).items():
            if not math.isnan(value):
                yield about | {"structure": structure, "dice": f"{value:.4f}"}


def score_fold(model: ModelFolder, cases: Sequence[Case], number: int) -> list[dict[str, Any]]:
    """`score_natively` of the cases that are held out, with the number of the fold."""
    held = (case for case in cases if case.split == "val")
    return [{"fold": number, **row} for case in held for row in score_natively(model, case)]


def usual_age_error(rows: Sequence[dict[str, str]]) -> float | None:
    """So many weeks off are 9 of 10 ages told from both modalities at most; None without rows."""
    told = {row["case"]: row for row in rows if row["input"] == "T1w and T2w"}
    errors = [abs(float(r["age_weeks"]) - float(r["true_weeks"])) for r in told.values()]
    return float(np.quantile(errors, 0.9)) if errors else None


def with_age_error(model: ModelFolder, error_weeks: float) -> ModelFolder:
    """The model folder, whose card says how far off 90 % of its ages are at most."""
    card = model.card
    assert card.age is not None
    age = card.age.model_copy(update={"error_weeks": error_weeks})
    return rewrite_card(model, card.model_copy(update={"age": age}))
