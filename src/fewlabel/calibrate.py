"""How far a model's doubt can be believed, and what its results are like: measured on a truth.

Labeled scans that taught the model nothing are segmented, as they are and mildly damaged, and what
is found is kept beside the model as `quality.json`. From then on every result of its tells which
Dice is to be expected, and what is unusual in it. docs/quality.md tells how well that works.
"""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from fewlabel.cohort import Case
from fewlabel.conformed import labels_on
from fewlabel.damage import INTACT, MILD, facing_up
from fewlabel.engine import Compute
from fewlabel.errors import CohortError
from fewlabel.metrics import dice
from fewlabel.modalities import images_of, labeled, read_images, truth_of
from fewlabel.model import ModelFolder, copy_model
from fewlabel.norms import DiceLine, Interval, Norms
from fewlabel.norms_fit import FEWEST_PEOPLE, About, Known, fit_lines, fit_norms
from fewlabel.people import WEEKS_PER_YEAR
from fewlabel.segmenter import Segmenter
from fewlabel.splits import in_turn, relatives_as_one

_MOST_FOLDS = 10

Watch = Callable[[str], None]


@dataclass(frozen=True)
class Task:
    """A labeled scan, and what is done to it before it is segmented: a name of `MILD`."""

    case: Case
    damage: str

    @property
    def intact(self) -> bool:
        """Whether nothing is."""
        return self.damage == INTACT


@dataclass(frozen=True, eq=False)
class Look:
    """What was measured of one task.

    Attributes:
        known: Traits of the result and its true Dice.
        spacing_mm: Largest edge of the scan's voxels.
    """

    known: Known
    spacing_mm: float


@dataclass(frozen=True, eq=False)
class Check:
    """How well Dice was foretold for people that had no say in it.

    Attributes:
        values: Structures of scans that were looked at, and that others have, too.
        error: Mean distance of the expected Dice from the true one; NaN if there are none.
        covered: Share of true values inside of the 90 % intervals.
    """

    values: int
    error: float
    covered: float


@dataclass(frozen=True, eq=False)
class Calibrated:
    """What a calibration found.

    Attributes:
        norms: For `quality.json`.
        dice: True mean Dice of each scan as it is.
        intact: By people left out in turn, on scans as they are.
        damaged: The same on mildly damaged ones.
        without: Structures whose Dice is not foretold though they were drawn: they surround the
            brain, or were found in one scan at most.
    """

    norms: Norms
    dice: dict[str, float]
    intact: Check
    damaged: Check
    without: tuple[str, ...]


def calibrate(
    model: ModelFolder,
    cases: Sequence[Case],
    called: str,
    compute: Compute | None = None,
    watch: Watch = lambda _: None,
) -> Calibrated:
    """Measure what a model's results are usually like.

    Args:
        model: What to calibrate.
        cases: With labels, in any protocol that shares structures with the model's, of people
            whose scans taught the model nothing; relatives count as one person.
        called: What these scans are, for whoever reads a result.
        compute: What to run it on.
        watch: Told what is done.

    Raises:
        CohortError: If there are labeled scans of too few people, or one cannot be used.
        ConfigError: If a case lacks a modality of the model.
    """
    known = relatives_as_one(labeled(cases, model.card))
    people = {case.person for case in known}
    if len(people) < FEWEST_PEOPLE:
        raise CohortError(
            f"The {len(known)} labeled scans to calibrate on are of {len(people)} people, and"
            f" {FEWEST_PEOPLE} are needed: people are left out in turn to learn how far Dice lies"
            " from what is expected.",
            fix="add scans that the model did not learn from, with --split those of other splits.",
        )
    segmenter, tasks, looks = Segmenter(model, compute or Compute()), tasks_for(known), []
    for number, task in enumerate(tasks, start=1):
        watch(f"{number} of {len(tasks)}: {task.case.id}, {task.damage}")
        looks.append(look(segmenter, task))
    found = [one.known for one in looks]
    norms = fit_norms(found, _about(known, called, max(one.spacing_mm for one in looks)))
    drawn = dict.fromkeys(name for one in found for name in one.dice)
    watch("leaving people out in turn")
    others = _left_out(found)
    return Calibrated(
        norms=norms,
        dice={task.case.id: float(np.mean(list(one.dice.values())))
              for task, one in zip(tasks, found, strict=True) if one.intact},
        intact=check([row for one, rows in others if one.intact for row in rows.values()]),
        damaged=check([row for one, rows in others if not one.intact for row in rows.values()]),
        without=tuple(name for name in drawn if name not in norms.structures),
    )  # fmt: skip


def _about(cases: Sequence[Case], called: str, spacing_mm: float) -> About:
    ages = [case.age_weeks / WEEKS_PER_YEAR for case in cases if case.age_weeks is not None]
    ends = (min(ages), max(ages)) if len(ages) == len(cases) else None
    return About(f"{len(cases)} scans of {called}", spacing_mm, ends)


def tasks_for(cases: Sequence[Case]) -> list[Task]:
    """Every scan as it is; every second one damaged, too, which is enough to teach the slope."""
    return [
        Task(case, damage)
        for number, case in enumerate(cases)
        for damage in MILD
        if damage == INTACT or number % 2 == 0
    ]


def look(segmenter: Segmenter, task: Task) -> Look:
    """Segment a scan and compare it with the truth.

    Raises:
        CohortError: If the labels hold no structure where the scan is.
        FewlabelError: If a file cannot be used, the case lacks a modality, or the model's
            structures and those that are drawn have nothing in common.
    """
    case, model = task.case, segmenter.model
    images = images_of(case, model.card)
    assert images is not None
    truth = truth_of(case, model.card.protocol)
    rng = np.random.default_rng(zlib.crc32((task.damage + case.id).encode()))
    scans = read_images(images, model.card)
    on_its_grid = [name for name, scan in scans.items() if scan.grid.matches(truth.grid)]
    order = dict.fromkeys((*on_its_grid, *scans))
    result = segmenter({name: MILD[task.damage](facing_up(scans[name]), rng) for name in order})
    there = labels_on(truth, result.labels.grid)
    if not (there.data > 0).any():
        raise CohortError(
            f"The labels of {case.id} hold no structure where its scan is.",
            fix="leave the case out, or check that labels and scan lie in the same place.",
        )
    found = dice(result.labels.to(truth.protocol), there)
    scored = [one.name for one in truth.protocol.labels if one.scored]
    true = {name: found[name] for name in scored if math.isfinite(found[name])}
    known = Known(case.person, result.traits, true, task.intact)
    return Look(known, max(result.labels.grid.spacing_mm))


def write_calibrated(model: ModelFolder, norms: Norms, out: Path) -> ModelFolder:
    """Write the model with `quality.json` to a folder of its own.

    Raises:
        OutputError: If something else is at `out`, or it cannot be written to.
    """
    card = model.card.model_copy(update={"name": out.resolve().name.lower()})
    return copy_model(model, out, card, norms)


Foretold = dict[str, tuple[float, float, float, float]]
"""True Dice, what was expected, and the ends of its interval, by structure."""


def foretold(known: Known, interval: Callable[[str, float], Interval | None]) -> Foretold:
    """What is expected of each structure of a scan that was drawn, beside its true Dice.

    Args:
        known: The scan.
        interval: From a structure and its overlap; see `Norms.interval`.
    """
    found = {}
    for name, overlap in zip(known.traits.names, known.traits.overlap, strict=True):
        expected = interval(name, float(overlap)) if name in known.dice else None
        if expected is not None:
            found[name] = (known.dice[name], *expected)
    return found


def _left_out(known: Sequence[Known]) -> list[tuple[Known, Foretold]]:
    """Each scan with what is foretold of it by scans of others."""
    people = list(dict.fromkeys(one.person for one in known))
    found = []
    for left_out in in_turn(people, _MOST_FOLDS):
        lines, quantile = fit_lines([one for one in known if one.person not in left_out])
        interval = partial(_by_lines, lines, quantile)
        found += [(one, foretold(one, interval)) for one in known if one.person in left_out]
    return found


def _by_lines(
    lines: Mapping[str, DiceLine], quantile: float, name: str, overlap: float
) -> Interval | None:
    return lines[name].interval(overlap, quantile) if name in lines else None


def check(rows: Sequence[tuple[float, float, float, float]]) -> Check:
    """How well Dice was foretold: rows as in `Foretold`."""
    if not rows:
        return Check(0, math.nan, math.nan)
    truth, middle, low, high = np.array(rows).T
    inside = (low <= truth) & (truth <= high)
    return Check(len(rows), float(np.abs(truth - middle).mean()), float(inside.mean()))
