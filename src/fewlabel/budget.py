"""Which slices of which scans to annotate, with a budget of so many slices.

Slices lie between 5 and 95 % of the brain's extent. All those of a scan cut it along one
anatomical axis, and all scans get equally many.

random           an axis drawn for each scan, slices drawn
axial, coronal,
sagittal         that axis, slices drawn
equidistant      an axis drawn for each scan, slices at equal distances
uncertain        where a model doubts most, along the axis where that adds up to most

Source: Richter and Fetit 2022, doi 10.3389/fninf.2022.1006532 (all but the last).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from fewlabel.brain_extent import OTHERS, Extent
from fewlabel.conform import turned
from fewlabel.errors import ConfigError
from fewlabel.grid import Grid
from fewlabel.labels import UNLABELED
from fewlabel.volume import LabelMap, Scan

Axis = Literal["sagittal", "coronal", "axial"]
AXES: tuple[Axis, ...] = get_args(Axis)
"""Planes, in the order of the upright axes that they cut: right, front, up."""
Strategy = Literal["random", "axial", "coronal", "sagittal", "equidistant", "uncertain"]
MARGIN = 0.05
"""Share of the brain's extent at either end in which no slice is chosen."""


@dataclass(frozen=True)
class Slice:
    """One slice of one scan.

    Attributes:
        axis: The anatomical plane nearest to it.
        voxel_axis: The axis of the file's array that it cuts: 0, 1 or 2.
        index: Its number along that axis, from 0; ITK-SNAP shows this plus 1.
    """

    axis: Axis
    voxel_axis: int
    index: int

    @property
    def shown(self) -> int:
        """The number that ITK-SNAP shows.

        >>> Slice("axial", 2, 41).shown
        42
        """
        return self.index + 1

    def cut(self) -> tuple[slice | int, ...]:
        """Index of its voxels in the file's array.

        >>> Slice("coronal", 1, 7).cut()
        (slice(None, None, None), 7, slice(None, None, None))
        """
        whole: list[slice | int] = [slice(None)] * 3
        whole[self.voxel_axis] = self.index
        return tuple(whole)

    def position_mm(self, grid: Grid) -> float:
        """Of the middle of the slice, in mm to the right, to the front or up."""
        middle = (np.array(grid.shape) - 1) / 2
        middle[self.voxel_axis] = self.index
        world = grid.affine[:3, :3] @ middle + grid.affine[:3, 3]
        return float(world[AXES.index(self.axis)])


@dataclass(frozen=True, eq=False)
class Brain:
    """What is to be known of a scan to choose slices in it.

    Attributes:
        grid: The scan's own.
        extent: Where the brain lies in it.
        doubt_mm2: For each upright axis and slice along it, how much of the slice's area a
            model is unsure of; None without a model.
    """

    grid: Grid
    extent: Extent
    doubt_mm2: tuple[Float64[np.ndarray, "_"], ...] | None = None

    @cached_property
    def _to_native(self) -> Int64[np.ndarray, "4 4"]:
        """From upright voxels to the file's."""
        nothing = np.broadcast_to(np.float32(0), self.grid.shape)
        upright, _ = turned(Scan(nothing, self.grid))
        matrix = np.rint(np.linalg.inv(self.grid.affine) @ upright.affine)
        whole: np.ndarray = matrix.astype(np.int64)
        return whole

    def numbers(self, axis: int) -> range:
        """Upright slices along an axis that may be chosen: from 5 to 95 % of the extent."""
        low, high = (int(n) for n in self.extent[axis])
        margin = round(MARGIN * (high - low))
        return range(low + margin, high - margin)

    def slices(self, axis: int, numbers: Iterable[int]) -> tuple[Slice, ...]:
        """Upright slices along an axis, in the file's own numbers, in the file's order."""
        step, start = self._to_native[:3, axis], self._to_native[:3, 3]
        voxel_axis = int(np.abs(step).argmax())
        found = sorted(int(start[voxel_axis] + n * step[voxel_axis]) for n in numbers)
        return tuple(Slice(AXES[axis], voxel_axis, index) for index in found)

    def doubt_of(self, slices: Iterable[Slice]) -> list[float]:
        """What a model is unsure of in each slice, in mm2; nothing without a model."""
        if self.doubt_mm2 is None:
            return []
        found = []
        for one in slices:
            axis = AXES.index(one.axis)
            along = self.doubt_mm2[axis]
            forward = self._to_native[one.voxel_axis, axis] > 0
            found.append(float(along[one.index if forward else len(along) - 1 - one.index]))
        return found


def doubt_by_slice(
    doubt: Float32[np.ndarray, "i j k"], grid: Grid
) -> tuple[Float64[np.ndarray, "_"], ...]:
    """Area of each slice that a model is unsure of, in mm2, along each upright axis.

    Args:
        doubt: 1 less the largest probability of each voxel, upright.
        grid: Upright, too.
    """
    mm = grid.spacing_mm
    return tuple(
        doubt.sum(axis=others, dtype=np.float64) * mm[others[0]] * mm[others[1]]
        for others in OTHERS
    )


def choose(
    brains: Sequence[Brain], strategy: Strategy, total: int, seed: int = 0
) -> list[tuple[Slice, ...]]:
    """Choose slices.

    Args:
        brains: One for each scan.
        strategy: See the module's first lines.
        total: Slices of all scans together.
        seed: Decides all that is drawn.

    Returns:
        For each scan its slices, in the file's order; none for some if the budget is less than
        a slice a scan.

    Raises:
        ConfigError: If the brains have fewer slices, or a model's doubt is missing.
    """
    rng = np.random.default_rng(seed)
    if strategy == "uncertain":
        room = [min(len(brain.numbers(axis)) for axis in range(3)) for brain in brains]
        counts = deal(total, room, rng)
        return [_most_doubted(brain, n) for brain, n in zip(brains, counts, strict=True)]
    fixed = AXES.index(strategy) if strategy in AXES else None
    axes = [int(rng.integers(3)) if fixed is None else fixed for _ in brains]
    numbers = [brain.numbers(axis) for brain, axis in zip(brains, axes, strict=True)]
    counts = deal(total, [len(each) for each in numbers], rng)
    pick = _equidistant if strategy == "equidistant" else partial(_drawn, rng=rng)
    return [
        brain.slices(axis, pick(among, n))
        for brain, axis, among, n in zip(brains, axes, numbers, counts, strict=True)
    ]


def deal(total: int, room: Sequence[int], rng: np.random.Generator) -> list[int]:
    """Share out a budget evenly; what does not fit into one scan goes to others.

    Raises:
        ConfigError: If there is not enough room, or no budget.
    """
    if not 0 < total <= sum(room):
        raise ConfigError(
            f"{total} slices were asked for; {len(room)} scans have {sum(room)} between 5 and"
            " 95 % of the brain's extent.",
            fix=f"ask for 1 to {sum(room)} slices.",
        )
    counts, left = [0] * len(room), total
    order = [int(n) for n in rng.permutation(len(room))]
    while left:
        able = [n for n in order if counts[n] < room[n]]
        share = max(1, left // len(able))
        for n in able:
            more = min(share, room[n] - counts[n], left)
            counts[n] += more
            left -= more
    return counts


def doubt_covered_mm2(brains: Sequence[Brain], chosen: Sequence[tuple[Slice, ...]]) -> float:
    """Mean area that a model is unsure of in the chosen slices."""
    found = [mm2 for brain, one in zip(brains, chosen, strict=True) for mm2 in brain.doubt_of(one)]
    return float(np.mean(found))


def hide(labels: LabelMap, slices: Iterable[Slice]) -> LabelMap:
    """A label map as if only these slices had been annotated: -1 everywhere else.

    Args:
        labels: Whole, on the grid that the slices are numbered on.
        slices: What stays.
    """
    seen = mask_of(slices, labels.grid)
    data = np.where(seen, labels.data, np.int16(UNLABELED))
    return LabelMap(data, labels.grid, labels.protocol)


def mask_of(slices: Iterable[Slice], grid: Grid) -> Bool[np.ndarray, "i j k"]:
    """Where slices lie."""
    mask = np.zeros(grid.shape, dtype=bool)
    for one in slices:
        mask[one.cut()] = True
    return mask


def _drawn(among: range, n: int, rng: np.random.Generator) -> list[int]:
    return [int(number) for number in rng.choice(among, size=n, replace=False)]


def _equidistant(among: range, n: int) -> list[int]:
    """The middles of n equal parts."""
    return [among[int((part + 0.5) * len(among) / n)] for part in range(n)]


def _most_doubted(brain: Brain, n: int) -> tuple[Slice, ...]:
    """Along each axis the n most doubted slices, spaced; then the axis with most in them."""
    if brain.doubt_mm2 is None:
        raise ConfigError(
            "The strategy 'uncertain' goes by what a model is unsure of.", fix="add --model."
        )
    picked = [_spaced(brain.numbers(axis), brain.doubt_mm2[axis], n) for axis in range(3)]
    sums = [float(brain.doubt_mm2[axis][picked[axis]].sum()) for axis in range(3)]
    best = int(np.argmax(sums))
    return brain.slices(best, picked[best])


def _spaced(among: range, doubt_mm2: Float64[np.ndarray, "n"], n: int) -> list[int]:
    """The n most doubted slices with so many between them that n fit in any case.

    Those around a doubted slice look alike, and so do the doubts: half the distance that
    equidistant slices have is kept.
    """
    apart = (len(among) // n + 1) // 2 if n else 1
    left = set(among)
    picked: list[int] = []
    while len(picked) < n:
        best = max(left, key=lambda number: (doubt_mm2[number], -number))
        picked.append(best)
        left -= set(range(best - apart + 1, best + apart))
    return picked
