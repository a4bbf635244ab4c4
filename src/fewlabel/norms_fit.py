"""Learning what is usual for a model's results from scans that have a truth."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fewlabel.norms import (
    AROUND_BRAIN,
    DiceLine,
    Norms,
    Range,
    StructureNorm,
    contrast_fit,
    place_fit,
)
from fewlabel.sides import is_left
from fewlabel.traits import FACES, Traits

COVERS = 0.9
"""Share of true Dice values that intervals are made to hold."""
FEWEST_PEOPLE = 3
"""With fewer nobody can tell how far Dice lies from what is expected."""
ENOUGH_SCANS = 8
"""With fewer scans as they are nobody can tell what is usual."""

_DEVIATIONS = 5.0
"""Usual is what lies within so many standard deviations; there are thirty structures to a scan."""
_LEAST_LOG = math.log(1.6)
_LEAST_LOG_SIZE = math.log(1.22)
_LEAST_ASYMMETRY = 0.2
_PRIOR_SCANS = 10
_LEAST_OFTEN = 2
"""Scans in which a structure must be found."""
_NO_LIMIT = 1e9


@dataclass(frozen=True, eq=False)
class Known:
    """A scan that has a truth.

    Attributes:
        person: Scans of one person are left out together.
        traits: Of the result.
        dice: True Dice by structure.
        intact: Whether nothing was done to the scan; only these say what is usual.
    """

    person: str
    traits: Traits
    dice: Mapping[str, float]
    intact: bool = True


@dataclass(frozen=True)
class About:
    """What the scans of a calibration are: for the record, and for rules on the input."""

    scans: str
    spacing_mm: float
    ages_years: Range | None = None


def fit_norms(known: Sequence[Known], about: About) -> Norms:
    """Learn what is usual, and how far the network's own doubt can be believed.

    Intervals are conformal: each person's scans are predicted from the others', the distances to
    the truth are divided by the structure's spread, and the quantile of these is the half width.
    They cover new people who are like these, over all structures together.

    Args:
        known: Scans of three people or more; damaged ones teach how doubt goes with Dice. With
            fewer than eight intact ones, what is usual is not judged by.
        about: What these scans are.

    Raises:
        ValueError: If there are too few people.

    Source:
        Barber, Candes, Ramdas and Tibshirani 2021, Annals of Statistics 49 (leave-one-out
        residuals). Departs from it: people are left out rather than scans, and the interval is
        laid around the fit to all.
    """
    intact = [one.traits for one in known if one.intact]
    people = {one.person for one in known if one.intact}
    if len(people) < FEWEST_PEOPLE:
        raise ValueError(f"intact scans of {len(people)} people; needed are {FEWEST_PEOPLE}")
    lines, quantile = fit_lines(known)
    structures = _structure_norms(intact, lines)
    expected = [_mean_expected(one, lines) for one in intact]
    fits = [place_fit(structures, one) for one in intact]
    if all(fit.off_mm for fit in fits):  # three structures or fewer have no arrangement
        for name, norm in structures.items():
            off = [fit.off_mm[name] for fit in fits if name in fit.off_mm]
            structures[name] = norm.model_copy(update={"off_mm": _most(off, 5.0)})
    likeness = [contrast_fit(structures, one) for one in intact]
    width, length, height = (
        _usual([one.size_mm[axis] for one in intact], _LEAST_LOG_SIZE) for axis in range(3)
    )
    return Norms(
        scans=about.scans,
        people=len(people),
        usual=len(intact) >= ENOUGH_SCANS,
        ages_years=about.ages_years,
        spacing_mm=about.spacing_mm,
        size_mm=(width, length, height),
        ends_mm2=tuple(
            _most([one.ends_mm2[n] for one in intact], 1500.0) for n in range(len(FACES))
        ),
        enclosed_mm3=_most([one.enclosed_mm3 for one in intact], 1000.0),
        noise=_most([one.noise for one in intact], 0.0),
        air=max(0.5, _most([one.air for one in intact], 0.0)),
        scatter_mm=_most([fit.scatter_mm for fit in fits], 3.0),
        stretch=_most([fit.stretch for fit in fits], 1.15),
        contrast=_rounded(min(0.8, min(likeness) - 0.1)),
        expected_dice=_rounded(2 * min(expected) - float(np.median(expected)) - 0.02),
        quantile=quantile,
        structures=structures,
    )


def fit_lines(known: Sequence[Known]) -> tuple[dict[str, DiceLine], float]:
    """The line of each structure, and the conformal quantile over all of them."""
    rows = _rows(known)
    people = sorted({person for found in rows.values() for person, _, _ in found})
    lines = _lines(rows)
    scores = []
    for left_out in people:
        others = {
            name: [row for row in found if row[0] != left_out] for name, found in rows.items()
        }
        without = _lines({name: found for name, found in others.items() if found})
        scores += [
            abs(dice - without[name].at(overlap)) / without[name].spread
            for name, found in rows.items()
            for person, overlap, dice in found
            if person == left_out and name in without
        ]
    rank = min(1.0, math.ceil((len(scores) + 1) * COVERS) / max(1, len(scores)))
    quantile = float(np.quantile(scores, rank, method="higher")) if scores else 0.0
    return lines, _rounded(quantile)


def _structure_norms(
    intact: Sequence[Traits], lines: Mapping[str, DiceLine]
) -> dict[str, StructureNorm]:
    sides = defaultdict(list)
    for one in intact:
        for name, index in one.asymmetry().items():
            sides[name].append(index)
    bright = np.array([_deviations(one.brightness) for one in intact])
    centers = np.array([one.center_mm - _middle(one) for one in intact])
    norms = {}
    for n, name in enumerate(intact[0].names):
        volumes = [float(one.volume_mm3[n]) for one in intact if one.volume_mm3[n] > 0]
        # What is hardly ever there, or was cut away with the skull, tells nothing.
        if len(volumes) < _LEAST_OFTEN or name.lower() in AROUND_BRAIN:
            continue
        low, high = _usual(volumes)
        x, y, z = (_rounded(float(mm)) for mm in np.nanmean(centers[:, n], axis=0))
        norms[name] = StructureNorm(
            volume_mm3=(low if len(volumes) == len(intact) else 0.0, high),
            center_mm=(x, y, z),
            loose_mm3=_most([float(one.pieces_mm3[n]) for one in intact], 1000.0),
            brightness=_rounded(float(np.nanmean(bright[:, n]))),
            asymmetry=_usual_asymmetry(sides[name]) if is_left(name) and sides[name] else None,
            dice=lines.get(name),
        )
    return norms


def _rows(known: Sequence[Known]) -> dict[str, list[tuple[str, float, float]]]:
    """Person, overlap and true Dice, by structure."""
    rows = defaultdict(list)
    for one in known:
        overlap = dict(zip(one.traits.names, one.traits.overlap, strict=True))
        for name, dice in one.dice.items():
            if name in overlap and math.isfinite(dice):
                rows[name].append((one.person, float(overlap[name]), float(dice)))
    return dict(rows)


def _lines(rows: Mapping[str, Sequence[tuple[str, float, float]]]) -> dict[str, DiceLine]:
    """One line per structure; slopes and spreads lean on those of all structures together."""
    points = {name: np.array([row[1:] for row in found]) for name, found in rows.items()}
    centered = {name: xy - xy.mean(axis=0) for name, xy in points.items()}
    together = np.concatenate(list(centered.values()))
    square = float((together[:, 0] ** 2).sum()) + 1e-9
    slope = float((together[:, 0] * together[:, 1]).sum()) / square
    prior = square / len(together) * _PRIOR_SCANS
    slopes = {
        name: float((xy[:, 0] * xy[:, 1]).sum() + prior * slope)
        / float((xy[:, 0] ** 2).sum() + prior)
        for name, xy in centered.items()
    }
    off = {name: xy[:, 1] - slopes[name] * xy[:, 0] for name, xy in centered.items()}
    typical = float(np.mean(np.concatenate(list(off.values())) ** 2)) + 1e-6
    return {
        name: DiceLine(
            mean=_rounded(float(points[name][:, 1].mean())),
            overlap=_rounded(float(points[name][:, 0].mean())),
            slope=_rounded(slopes[name]),
            spread=_rounded(
                math.sqrt(
                    (float((left**2).sum()) + _PRIOR_SCANS * typical) / (len(left) + _PRIOR_SCANS)
                )
            ),
        )
        for name, left in off.items()
    }


def _mean_expected(traits: Traits, lines: Mapping[str, DiceLine]) -> float:
    overlap = zip(traits.names, traits.overlap, strict=True)
    found = [lines[name].at(float(x)) for name, x in overlap if name in lines]
    return float(np.mean(found)) if found else 1.0


def _middle(traits: Traits) -> np.ndarray:
    middle: np.ndarray = np.average(
        np.nan_to_num(traits.center_mm), axis=0, weights=traits.volume_mm3 + 1e-9
    )
    return middle


def _deviations(values: np.ndarray) -> np.ndarray:
    deviations: np.ndarray = (values - np.nanmean(values)) / max(float(np.nanstd(values)), 1e-6)
    return deviations


def _usual(values: Sequence[float], at_least: float = _LEAST_LOG) -> Range:
    """A range on a scale of factors."""
    logs = np.log(values)
    middle = float(logs.mean())
    half = max(_DEVIATIONS * float(logs.std(ddof=1)), at_least)
    return _rounded(math.exp(middle - half)), _rounded(math.exp(middle + half))


def _usual_asymmetry(values: Sequence[float]) -> Range:
    half = max(_DEVIATIONS * float(np.std(values, ddof=1)), _LEAST_ASYMMETRY)
    middle = float(np.mean(values))
    return _rounded(middle - half), _rounded(middle + half)


def _most(values: Sequence[float], at_least: float) -> float:
    """An upper limit: the largest, and as much again as it lies above the median."""
    found = [value for value in values if math.isfinite(value)]
    if not found:
        return _NO_LIMIT
    return _rounded(max(at_least, 2.0 * max(found) - float(np.median(found))))


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
