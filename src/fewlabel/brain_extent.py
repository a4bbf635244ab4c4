"""Where the brain lies in a scan, without a network."""

import numpy as np
from jaxtyping import Bool, Int64

from fewlabel.conform import turned
from fewlabel.grid import Grid
from fewlabel.volume import Scan

Extent = Int64[np.ndarray, "3 2"]
"""First and one past the last upright slice of the brain along right, front, up."""
OTHERS = ((1, 2), (0, 2), (0, 1))
"""For each axis, those within its slices."""
_LEAST_MM2 = 200.0
"""Slices with less of the brain than this do not count when its extent is taken: specks."""
_HEIGHT = 0.8
"""A brain is at most this much as high as its head is long; below are face and neck."""


def extent_of(brain: Bool[np.ndarray, "i j k"], grid: Grid) -> Extent:
    """Where a brain lies, without slices that hold less than 2 cm2 of it.

    Args:
        brain: Upright: facing right, front and up.
        grid: Upright, too.

    Returns:
        The whole grid if there is no brain.
    """
    ends = []
    for axis, others in enumerate(OTHERS):
        mm2 = brain.sum(axis=others) * np.prod([grid.spacing_mm[n] for n in others])
        filled = np.flatnonzero(mm2 >= _LEAST_MM2)
        ends.append((filled[0], filled[-1] + 1) if len(filled) else (0, grid.shape[axis]))
    return np.array(ends, dtype=np.int64)


def bright_extent(scan: Scan) -> Extent:
    """Where the brain lies in a scan of a head or a brain, about: what is bright, without neck.

    The scalp counts as brain; face and neck do not, as brains are lower than heads are long.
    """
    grid, data = turned(scan)
    dark, light = np.percentile(data[::3, ::3, ::3], (1, 99))
    bright = data > dark + 0.2 * (light - dark)
    bottom, top = extent_of(bright, grid)[2]
    lengths_mm = bright.any(axis=0).sum(axis=0) * grid.spacing_mm[1]
    longest_mm = np.maximum.accumulate(lengths_mm[bottom:top][::-1])
    depth_mm = np.arange(top - bottom) * grid.spacing_mm[2]
    too_deep = np.flatnonzero(depth_mm > _HEIGHT * longest_mm)
    bright[:, :, : top - too_deep[0] if len(too_deep) else 0] = False
    return extent_of(bright, grid)
