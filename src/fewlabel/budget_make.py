"""From a cohort and a budget to a plan."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from fewlabel.brain_extent import bright_extent
from fewlabel.budget import Brain, Slice, Strategy, choose, doubt_covered_mm2
from fewlabel.budget_plan import Plan, Planned, load_cohort
from fewlabel.cohort import Case, of_each
from fewlabel.errors import CohortError, ConfigError
from fewlabel.io import read_scan
from fewlabel.labels import load_protocol

MINUTES = 10.0
"""For one slice with some ten structures, drawn by hand: an assumption, not a finding."""
_DRAWS = 20
"""Draws of each baseline that a clever choice is compared with."""
Look = Callable[[Case, str], Brain]
"""From a case and a modality to what is to be known of its scan."""


@dataclass(frozen=True)
class Wish:
    """What is to be spent, and how.

    Attributes:
        slices: Slices of all scans together.
        strategy: How they are chosen: see `fewlabel.budget`.
        seed: Decides all that is drawn.
        scans: So many scans are drawn; None: all.
        minutes_per_slice: What a slice costs.
        modality: The scan to annotate; "": the first that all cases have.
        protocol: What to draw; "": the one of the cohort's label maps.
    """

    slices: int
    strategy: Strategy = "random"
    seed: int = 0
    scans: int | None = None
    minutes_per_slice: float = MINUTES
    modality: str = ""
    protocol: str = ""


def look_at_brightness(case: Case, modality: str) -> Brain:
    """Where the brain lies, by what is bright in the scan."""
    scan = read_scan(case.scans[modality])
    return Brain(scan.grid, bright_extent(scan))


def make_plan(cohort: Path, wish: Wish, look: Look | None = None) -> Plan:
    """Choose slices in the training scans of a cohort: those of the split train, or of none.

    Args:
        cohort: A manifest or a data folder.
        wish: What is to be spent, and how.
        look: Finds the brain, and what a model doubts; by default what is bright is brain.

    Raises:
        CohortError: If there are no such scans, or one cannot be read.
        ConfigError: If the wish cannot be met.
    """
    cases = _chosen(load_cohort(cohort).cases, wish)
    modality, protocol = _modality(cases, wish), _protocol(cases, wish)
    if look is None:
        brains = of_each(lambda case: look_at_brightness(case, modality), cases)
    else:
        brains = [look(case, modality) for case in cases]
    chosen = choose(brains, wish.strategy, wish.slices, wish.seed)
    slices = {
        case.id: tuple(_planned(brain, one, wish) for one in taken)
        for case, brain, taken in zip(cases, brains, chosen, strict=True)
        if taken
    }
    says = _compared(brains, chosen, wish) if wish.strategy == "uncertain" else []
    left_out = len(cases) - len(slices)
    if left_out:
        says.append(f"{left_out} of {len(cases)} scans get none: there are more scans than slices.")
    strategy = f"{wish.strategy}, seed {wish.seed}"
    return Plan(cohort, modality, protocol, strategy, slices, tuple(says))


def _chosen(cases: Sequence[Case], wish: Wish) -> list[Case]:
    if wish.strategy not in get_args(Strategy):
        raise ConfigError(
            f"There is no strategy {wish.strategy!r}.",
            fix=f"use one of {', '.join(get_args(Strategy))}.",
        )
    if wish.minutes_per_slice <= 0:
        raise ConfigError(
            f"A slice cannot cost {wish.minutes_per_slice:g} minutes.",
            fix="give more than 0 with --minutes-per-slice.",
        )
    able = [case for case in cases if case.split in ("", "train") and case.scans]
    if not able:
        raise CohortError(
            f"None of {len(cases)} cases has a scan and is in the split train or in none.",
            fix="check the columns `split` and of the modalities in the manifest.",
        )
    if wish.scans is None:
        return able
    if not 0 < wish.scans <= len(able):
        raise ConfigError(
            f"{wish.scans} scans were asked for; there are {len(able)} to choose from.",
            fix=f"ask for 1 to {len(able)} with --scans.",
        )
    drawn = np.random.default_rng(wish.seed).choice(len(able), wish.scans, replace=False)
    return [able[number] for number in sorted(drawn)]


def _modality(cases: Sequence[Case], wish: Wish) -> str:
    common = [m for m in cases[0].scans if all(m in case.scans for case in cases)]
    if (wish.modality or (common or [""])[0]) in common:
        return wish.modality or common[0]
    found = sorted({modality for case in cases for modality in case.scans})
    raise ConfigError(
        f"Not every case has {wish.modality or 'the same modality'}; there are {', '.join(found)}.",
        fix="choose with --modality, or leave out cases that lack it.",
    )


def _protocol(cases: Sequence[Case], wish: Wish) -> str:
    found = sorted({case.protocol for case in cases if case.protocol})
    if not wish.protocol and len(found) != 1:
        raise ConfigError(
            f"What to draw is not said: the cohort has {', '.join(found) or 'no protocol'}.",
            fix="say it with --protocol: a shipped protocol or a TSV file.",
        )
    name = wish.protocol or found[0]
    load_protocol(name)  # refuses what there is not
    return name


def _planned(brain: Brain, one: Slice, wish: Wish) -> Planned:
    doubt = brain.doubt_of([one])
    of = brain.grid.shape[one.voxel_axis]
    minutes = wish.minutes_per_slice
    return Planned(one, of, one.position_mm(brain.grid), minutes, doubt[0] if doubt else None)


def _compared(
    brains: Sequence[Brain], chosen: Sequence[tuple[Slice, ...]], wish: Wish
) -> list[str]:
    """The doubt that a clever choice covers, beside that of baselines at the same budget."""
    covered = {
        baseline: np.mean([
            doubt_covered_mm2(brains, choose(brains, baseline, wish.slices, wish.seed + n))
            for n in range(_DRAWS)
        ])
        for baseline in ("random", "equidistant")
    }  # fmt: skip
    return [
        f"The model is unsure of {doubt_covered_mm2(brains, chosen):.0f} mm2 in a planned slice;"
        f" with random slices it would be {covered['random']:.0f}, with equidistant ones"
        f" {covered['equidistant']:.0f} (means of {_DRAWS} draws).",
        "Doubt is no promise: random and equidistant slices are hard to beat; train on them too"
        " before you believe that this choice is better.",
    ]
