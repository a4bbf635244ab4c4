"""What a model's results are like on scans that it was checked on: `quality.json` of its folder.

It is fitted once by `norms_fit` from scans with a truth, then used on every scan without one. Two
things are kept: how the true Dice of a structure follows from the network's own doubt, with an
interval, and which volumes, places and intensities are usual.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from fewlabel.errors import ModelFolderError
from fewlabel.settings import Settings
from fewlabel.traits import Traits

Range = tuple[float, float]
Interval = tuple[float, float, float]
"""Expected Dice, and the ends of its interval."""
AROUND_BRAIN = {"csf", "cerebrospinal fluid", "extracerebral csf", "background"}
"""Structures around the brain rather than of it."""


class DiceLine(Settings):
    """A structure's true Dice as a line over the network's own estimate of it."""

    mean: float
    """True Dice, on average."""
    overlap: float
    """The network's estimate (`Traits.overlap`), on average."""
    slope: float
    spread: float = Field(gt=0)
    """Typical distance of the true Dice from the line."""

    def at(self, overlap: float) -> float:
        """Expected Dice, from 0 to 1."""
        return min(1.0, max(0.0, self.mean + self.slope * (overlap - self.overlap)))

    def interval(self, overlap: float, quantile: float) -> Interval:
        """Expected Dice and the ends of its interval, half as wide as so many spreads."""
        middle, half = self.at(overlap), quantile * self.spread
        return middle, max(0.0, middle - half), min(1.0, middle + half)


class StructureNorm(Settings):
    """What is usual for one structure."""

    volume_mm3: Range
    """From 0 if it was not always there."""
    center_mm: tuple[float, float, float]
    """From the middle of the brain."""
    off_mm: float = 1e9
    """Farthest from its usual place, once the brain is turned, moved and scaled to fit."""
    loose_mm3: float
    """Most volume outside of the largest piece."""
    brightness: float
    """Mean intensity, in deviations from the mean of all structures."""
    asymmetry: Range | None = None
    """Left less right over their mean; of left structures only."""
    dice: DiceLine | None = None
    """None where no truth drew the structure."""


class Norms(Settings):
    """What is usual for a model's results."""

    format: Literal[1] = 1
    scans: str
    """Which scans it was taken from."""
    people: int
    usual: bool = True
    """Whether there were scans enough to say what is usual; else only `interval` holds."""
    ages_years: Range | None = None
    spacing_mm: float
    """Largest edge of a voxel in these scans."""
    size_mm: tuple[Range, Range, Range]
    """Of the brain: width, length, height."""
    ends_mm2: tuple[float, ...]
    """Largest area at which the brain ends, by `FACES`."""
    enclosed_mm3: float
    noise: float
    air: float
    scatter_mm: float
    """Most that structures lie off their usual places, once the head is turned to fit."""
    stretch: float
    """Most that a brain is longer along one axis than usual, against its other axes."""
    contrast: float
    """Least correlation of the structures' brightness with the usual one."""
    expected_dice: float
    """Least mean expected Dice."""
    quantile: float
    """Half the width of an interval in spreads."""
    structures: dict[str, StructureNorm]

    def interval(self, name: str, overlap: float) -> Interval | None:
        """Expected Dice of a structure, and the ends of its interval; None if not calibrated."""
        line = self.structures[name].dice if name in self.structures else None
        return None if line is None else line.interval(overlap, self.quantile)

    def half_widths(self) -> list[float]:
        """Half the width of each structure's interval."""
        lines = (one.dice for one in self.structures.values())
        return [self.quantile * line.spread for line in lines if line is not None]


def read_norms(path: Path) -> Norms:
    """Read a model folder's `quality.json`.

    Raises:
        ModelFolderError: If it cannot be understood.
    """
    try:
        return Norms.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as problem:
        first = str(problem).splitlines()[0]
        raise ModelFolderError(
            f"{path} does not make sense: {first}.", fix="calibrate the model again, or remove it."
        ) from None


@dataclass(frozen=True)
class PlaceFit:
    """How structures must be turned to lie where they usually do.

    Attributes:
        turned_degrees: Angle of the rotation.
        stretch: How much longer the brain is along one axis than along the others.
        scatter_mm: What is left after turning and scaling, root mean square.
        off_mm: The same by structure.
        mirrored: Whether a mirror image would fit much better.
    """

    turned_degrees: float
    stretch: float
    scatter_mm: float
    off_mm: dict[str, float]
    mirrored: bool


def place_fit(structures: Mapping[str, StructureNorm], traits: Traits) -> PlaceFit:
    """Turn and scale the usual places of structures onto those of a result.

    Source:
        Umeyama 1991, IEEE PAMI 13: the rotation from a singular value decomposition.
    """
    there = {
        name: (np.array(structures[name].center_mm), traits.center_mm[n])
        for n, name in enumerate(traits.names)
        if name in structures and traits.volume_mm3[n] > 0
    }
    if len(there) < 4:
        return PlaceFit(0.0, 1.0, 0.0, {}, False)
    usual, found = (np.array(side) for side in zip(*there.values(), strict=True))
    usual, found = usual - usual.mean(axis=0), found - found.mean(axis=0)
    left, strength, right = np.linalg.svd(found.T @ usual)
    hand = float(np.sign(np.linalg.det(left @ right)))
    turn = left @ np.diag([1.0, 1.0, hand]) @ right
    scale = float((strength * [1, 1, hand]).sum() / (usual**2).sum())
    off = np.linalg.norm(found - scale * usual @ turn.T, axis=1)
    angle = math.degrees(math.acos(min(1.0, max(-1.0, (float(np.trace(turn)) - 1) / 2))))
    wide = np.maximum((usual**2).sum(axis=0), 1e-3 * (usual**2).sum())
    along = ((found @ turn) * usual).sum(axis=0) / wide
    stretch = float(max(along) / max(float(np.median(along)), 1e-3))
    by_name = dict(zip(there, off.tolist(), strict=True))
    scatter = math.sqrt(float((off**2).mean()))
    in_mirror = found - float(strength.sum() / (usual**2).sum()) * usual @ (left @ right).T
    mirrored = math.sqrt(float((in_mirror**2).sum(axis=1).mean())) < scatter / 2
    return PlaceFit(angle, stretch, scatter, by_name, hand < 0 and mirrored)


def contrast_fit(structures: Mapping[str, StructureNorm], traits: Traits) -> float:
    """Correlation of the structures' brightness with the usual one; 1 if it cannot be told."""
    pairs = [
        (structures[name].brightness, traits.brightness[n])
        for n, name in enumerate(traits.names)
        if name in structures and math.isfinite(traits.brightness[n])
    ]
    if len(pairs) < 4:
        return 1.0
    usual, found = (np.array(side) - np.mean(side) for side in zip(*pairs, strict=True))
    size = math.sqrt(float((usual**2).sum() * (found**2).sum()))
    return float((usual * found).sum()) / size if size > 0 else 0.0
