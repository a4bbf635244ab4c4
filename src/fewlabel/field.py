"""Where a network looks: a field that holds the brain.

The first field is placed by what is bright, which needs no network. What the network then finds
tells whether the brain is well inside; if not, the field moves there and the network looks again.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Shaped

from fewlabel.conform import GridRule, conform, part_of, start_in, turned, upright
from fewlabel.grid import Grid
from fewlabel.intensity import robust_scale
from fewlabel.shares import Index, Probabilities, Shares
from fewlabel.volume import Scan

BELOW_TOP_MM = (58.0, 82.0)
"""From the top of a brain, and of a head, down to the middle of an adult's brain, about."""
OFF_CENTER_MM = 20.0
"""Networks are trained with brains up to 15 mm from the middle."""
_WORTH_MOVING_MM = 8.0
_WHOLE_MM = 146.0
"""Fields that are less high are for parts of a brain."""
_PREVIEW_MM = 4.0
_CAP_MM3, _CAP_MM = 5000.0, 5.0
"""So high is the cap of that volume on a head of 70 mm radius."""
_STEP_MM = 8.0
"""Middles of fields are multiples of it, so that small differences do not move the field."""
_BRIGHT, _MARGIN = 0.1, 6
_LEAST_MM2 = 200.0
"""Slices with less brain than this do not count when its extent is taken: specks, leaks."""


def first_look(scan: Scan, rule: GridRule) -> Grid:
    """A field where the brain should be: around what is bright, at the top of the head.

    Args:
        scan: Any orientation.
        rule: Spacing and size of the field.

    Returns:
        A grid of the rule's size; docs/spaces.md tells on which lattice.
    """
    bright = _bright(scan)
    center = (bright.low + bright.high) / 2
    if rule.field_mm[2] >= _WHOLE_MM:  # without a skull the scan ends where the brain ends
        center[2] = bright.top - np.clip(bright.height / 2, *BELOW_TOP_MM)
    return _centered(center, _lattice(scan.grid, rule.spacing_mm), rule.field)


def bright_mm(scan: Scan) -> tuple[float, float]:
    """How wide and how long a head is, or a brain without skull, above the nose and the neck."""
    bright = _bright(scan)
    width, length, _ = (float(mm) for mm in bright.high - bright.low)
    return width, length


class _Bright(NamedTuple):
    """The bright part of a head, in mm.

    Attributes:
        low: Where it begins, without the neck.
        high: Where it ends, without the neck.
        top: Its top.
        height: From there down to the end of all that is bright, and as far beyond it.
    """

    low: Float64[np.ndarray, "3"]
    high: Float64[np.ndarray, "3"]
    top: float
    height: float


def _bright(scan: Scan) -> _Bright:
    grid, data = turned(scan)
    step = tuple(max(1, int(_PREVIEW_MM / mm)) for mm in grid.spacing_mm)
    preview = data[:: step[0], :: step[1], :: step[2]]
    dark, light = np.percentile(preview, (1, 99))
    seen = np.argwhere(preview > dark + 0.2 * (light - dark)) * step
    if not len(seen):
        seen = np.argwhere(np.ones(preview.shape, dtype=bool)) * step
    places = seen @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    top = _top_mm(places[:, 2], grid.voxel_mm3 * math.prod(step))
    low, high = np.percentile(places[places[:, 2] > top - 100], (1, 99), axis=0)
    return _Bright(low, high, top, top + _CAP_MM - float(np.percentile(places[:, 2], 1)))


def around_body(scan: Scan, spacing_mm: float, multiple: int = 1) -> Grid:
    """Cubic voxels around all that is bright in a scan, with a margin.

    Args:
        scan: Any orientation.
        spacing_mm: Edge of a voxel.
        multiple: The grid has a whole multiple of so many voxels along each axis.
    """
    preview = conform(scan, upright(scan.grid, 2 * spacing_mm))
    bright = robust_scale(preview.data) > _BRIGHT
    low, high = extent(bright if bright.any() else ~bright)
    lattice = upright(scan.grid, spacing_mm)
    start = np.maximum(2 * low - _MARGIN, 0)
    size = np.minimum(2 * high + _MARGIN, lattice.shape) - start
    whole = -(-size // multiple) * multiple
    a, b, c = (int(n) for n in start - (whole - size) // 2)
    i, j, k = (int(n) for n in whole)
    return part_of(lattice, (a, b, c), (i, j, k))


def look_again(brain: Shaped[np.ndarray, "i j k"], field: Grid, native: Grid) -> Grid | None:
    """A better field, or None if this one will do.

    A field will do if the brain's middle is within 20 mm of its own. Along an axis where the
    brain reaches the edge of the field and the scan goes on, it must be within 8 mm.

    Args:
        brain: True where the network saw brain.
        field: Where it looked.
        native: The scan's own grid.
    """
    least = _LEAST_MM2 / field.spacing_mm[0] ** 2
    if min(brain.sum(axis=others).max() for others in ((1, 2), (0, 2), (0, 1))) < least:
        return None
    low, high = extent(brain, least)
    lattice = _lattice(native, field.spacing_mm[0])
    corner = np.array(start_in(lattice, field))
    goes_on_below = corner > 0
    goes_on_above = corner + field.shape < lattice.shape
    cut = (goes_on_below & (low <= 1)) | (goes_on_above & (high >= np.array(field.shape) - 1))
    middle = (low + high - 1) / 2
    off = np.abs(middle - (np.array(field.shape) - 1) / 2) * field.spacing_mm[0]
    if off.max() <= OFF_CENTER_MM and off[cut].max(initial=0) <= _WORTH_MOVING_MM:
        return None
    return _centered(field.affine[:3, :3] @ middle + field.affine[:3, 3], lattice, field.shape)


def extent(mask: Shaped[np.ndarray, "i j k"], least: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """First and one past the last slice along each axis with at least so many voxels in it.

    The mask must have such a slice along each axis.
    """
    found = [np.flatnonzero(mask.sum(axis=others) >= least) for others in ((1, 2), (0, 2), (0, 1))]
    return np.array([f[0] for f in found]), np.array([f[-1] + 1 for f in found])


def main_body(shares: Probabilities) -> Probabilities:
    """The same probabilities with islands off the main body of the brain turned to background.

    The main body is the largest group of voxels, joined by their faces, that are rather
    something than background.

    Args:
        shares: Probabilities from 0 to 255, background first. Changed in place.
    """
    from scipy.ndimage import label

    parts, n_parts = label(shares[0] < 128)
    if n_parts > 1:
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0
        islands = (parts > 0) & (parts != sizes.argmax())
        if isinstance(shares, Shares):
            shares.remove(islands)
        else:
            shares[:, islands] = 0
            shares[0, islands] = 255
    return shares


def _lattice(native: Grid, spacing_mm: float) -> Grid:
    """Where the voxels of all fields of a scan may lie.

    At whole multiples of the spacing from the world's origin: so a head gets the same field
    however its scan was cut, turned or sampled, and networks answer alike only to fields that are
    alike to the voxel. A scan that has such voxels already keeps its own and is copied unchanged.
    """
    own = upright(native, spacing_mm)
    if np.allclose(np.sort(np.abs(native.affine[:3, :3]), axis=None)[-3:], spacing_mm, atol=1e-4):
        return own
    affine = own.affine.copy()
    affine[:3, 3] = np.floor(affine[:3, 3] / spacing_mm + 1e-4) * spacing_mm
    i, j, k = (n + 1 for n in own.shape)
    return Grid((i, j, k), affine)


def _top_mm(heights: np.ndarray, voxel_mm3: float) -> float:
    """The top of the head: above the height that 5 cm3 of it, and not just specks, lie above."""
    above = min(len(heights) - 1, round(_CAP_MM3 / voxel_mm3))
    return float(np.partition(heights, -above - 1)[-above - 1]) + _CAP_MM


def _centered(center_mm: np.ndarray, lattice: Grid, shape: Index) -> Grid:
    spacing = lattice.spacing_mm[0]
    center_mm = np.floor(np.round(center_mm / _STEP_MM, 4) + 0.5) * _STEP_MM
    steps = (center_mm - lattice.affine[:3, 3]) / spacing - (np.array(shape) - 1) / 2
    i, j, k = (math.floor(round(float(n), 4) + 0.5) for n in steps)
    return part_of(lattice, (i, j, k), shape)
