"""Displacement fields in mm: apply, compose, invert, and count where they fold.

A field lies on the grid of a fixed scan and says, for each of its voxels, how far away the same
tissue is in the moving scan. So the moving scan is *looked up*, and the result is on the fixed
scan's grid. Labels are never interpolated: each voxel takes a vote, or the nearest one.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int16

from fewlabel.errors import GridMismatch, ScanError
from fewlabel.grid import Grid
from fewlabel.labels import UNLABELED
from fewlabel.volume import LabelMap, Scan

_SLAB = 400_000  # voxels worked on at a time; their eight neighbors fit the cache


@dataclass(frozen=True, eq=False)
class Displacement:
    """For each voxel of a fixed scan, the way to the same tissue in a moving scan.

    Attributes:
        mm: What to add to a voxel's position: right, front, up (RAS+), shape (3, i, j, k).
        grid: Of the fixed scan. Beyond its voxels the displacement at its border holds.
    """

    mm: Float32[np.ndarray, "3 i j k"]
    grid: Grid

    def __post_init__(self) -> None:
        if self.mm.shape != (3, *self.grid.shape):
            raise ScanError(
                f"The displacements have shape {self.mm.shape} but their grid has"
                f" {self.grid.shape}.",
                fix="build the grid from the same file as the displacements.",
            )


@dataclass(frozen=True)
class Folds:
    """Where a field turns tissue inside out.

    Attributes:
        voxels: How many voxels it does so in.
        share: Part of the voxels that were looked at, from 0 to 1.
    """

    voxels: int
    share: float


def affine_field(matrix: Float64[np.ndarray, "4 4"], grid: Grid) -> Displacement:
    """An affine map as a field.

    Args:
        matrix: From fixed to moving positions, in mm.
        grid: Where to give the displacements.
    """
    mm = [_ramp((matrix - np.eye(4)) @ grid.affine, grid.shape, row) for row in range(3)]
    return Displacement(np.stack(mm), grid)


def followed_by(field: Displacement, matrix: Float64[np.ndarray, "4 4"]) -> Displacement:
    """Follow a field, and from there an affine map in mm; exact, on the field's grid."""
    linear = matrix[:3, :3].astype(np.float32)
    mm = affine_field(matrix, field.grid).mm + np.tensordot(linear, field.mm, 1)
    return Displacement(mm, field.grid)


def on_grid(field: Displacement, grid: Grid) -> Displacement:
    """The same field at other voxels, interpolated linearly; beyond its border it is constant."""
    if field.grid.matches(grid):
        return Displacement(field.mm, grid)
    return Displacement(at_voxels(field.mm, field.grid, grid), grid)


def at_voxels(
    values: Float32[np.ndarray, "c i j k"], source: Grid, target: Grid
) -> Float32[np.ndarray, "c a b d"]:
    """Smooth quantities at another grid's voxels; beyond the border its value holds.

    Args:
        values: Channels on `source`.
        source: Where they are.
        target: Where they are wanted.
    """
    from scipy.ndimage import map_coordinates

    matrix = np.linalg.inv(source.affine) @ target.affine
    order = np.abs(matrix[:3, :3]).argmax(axis=1)
    aside = np.abs(matrix[:3, :3]) @ np.array(target.shape)
    aside -= np.abs(matrix[[0, 1, 2], order]) * np.array(target.shape)[order]
    if len(set(order)) < 3 or aside.max() > 0.01:
        places = np.stack([_ramp(matrix, target.shape, row) for row in range(3)])
        channels = [map_coordinates(one, places, order=1, mode="nearest") for one in values]
        return np.stack(channels).astype(np.float32)
    for axis, other in enumerate(order):
        positions = matrix[axis, 3] + matrix[axis, other] * np.arange(target.shape[other])
        values = _along(values, axis + 1, positions)
    turned: np.ndarray = np.ascontiguousarray(
        values.transpose(0, *(int(n) + 1 for n in np.argsort(order)))
    )
    return turned


def warp_scan(moving: Scan, field: Displacement) -> Scan:
    """The moving scan as the fixed one sees it, interpolated linearly.

    Args:
        moving: Any orientation and spacing.
        field: On the grid that the result shall have.

    Returns:
        Intensities on the field's grid; those of the darkest voxel where the field leads out
        of the moving scan.
    """
    from scipy.ndimage import map_coordinates

    out = np.empty(field.grid.shape, dtype=np.float32)
    dark = float(moving.data.min())
    for slab, places in _places(field, moving.grid):
        out[slab] = map_coordinates(moving.data, places, order=1, cval=dark, prefilter=False)
    return Scan(out, field.grid, moving.notes)


def warp_labels(moving: LabelMap, field: Displacement, *, nearest: bool = False) -> LabelMap:
    """The moving labels as the fixed scan sees them.

    Class numbers are never mixed. The eight voxels around each looked-up position vote for
    their class, by their share in linear interpolation: the largest sum wins, so borders come
    out smoother than from the nearest voxel, and no class appears that was not there.

    Args:
        moving: Any orientation and spacing.
        field: On the grid that the result shall have.
        nearest: Take the nearest voxel instead.

    Returns:
        Labels on the field's grid; background where the field leads out of the moving map.
    """
    padded = np.pad(moving.data, 1)
    last = np.array(padded.shape)[:, None, None, None] - 1
    steps = np.array([padded.shape[1] * padded.shape[2], padded.shape[2], 1])
    flat = padded.ravel()
    out = np.empty(field.grid.shape, dtype=np.int16)
    for slab, found in _places(field, moving.grid):
        places = np.clip(found + 1, 0, last, dtype=np.float32)
        if nearest:
            index = np.rint(places).astype(np.intp)
            out[slab] = flat[np.tensordot(steps, index, 1)]
            continue
        low = np.minimum(places.astype(np.int32), last - 1)
        start = np.tensordot(steps, low, 1).ravel()
        classes = np.stack([flat[start + corner @ steps] for corner in _CORNERS])
        winner = classes[0].copy()
        mixed = np.flatnonzero((classes != classes[0]).any(axis=0))
        share = (places - low).astype(np.float32).reshape(3, -1)[:, mixed]
        weights = np.stack([np.where(c[:, None], share, 1 - share).prod(axis=0) for c in _CORNERS])
        winner[mixed] = vote(classes[:, mixed], weights)
        out[slab] = winner.reshape(places.shape[1:])
    return LabelMap(out, field.grid, moving.protocol)


def vote(
    classes: Int16[np.ndarray, "voters voxels"], weights: Float32[np.ndarray, "voters voxels"]
) -> Int16[np.ndarray, "voxels"]:
    """The class with the largest sum of weights; of equal ones that of the earlier voter."""
    best = np.full(classes.shape[1], -np.inf, dtype=np.float32)
    winner = np.full(classes.shape[1], UNLABELED, dtype=np.int16)
    for candidate in classes:
        total = (weights * (classes == candidate)).sum(axis=0)
        better = total > best
        winner[better], best[better] = candidate[better], total[better]
    return winner


def compose(first: Displacement, then: Displacement) -> Displacement:
    """Follow one field and from there another.

    Args:
        first: From the fixed scan to one in between.
        then: From there to the moving scan.

    Returns:
        From the fixed scan to the moving one, on the grid of `first`.
    """
    mm = np.empty_like(first.mm)
    for slab, places in _places(first, then.grid):
        mm[:, slab] = first.mm[:, slab] + _looked_up(then.mm, places)
    return Displacement(mm, first.grid)


def invert(field: Displacement, grid: Grid, *, steps: int = 30) -> Displacement:
    """The way back, by fixed-point iteration.

    Args:
        field: From the fixed scan to the moving one; without folds.
        grid: Of the moving scan: where the result is wanted.
        steps: Iterations; each shrinks the error by the steepness of the field.

    Returns:
        From the moving scan to the fixed one. Compose the two to see what error is left.
    """
    start = np.tile(-field.mm.mean(axis=(1, 2, 3))[:, None, None, None], (1, *grid.shape))
    back = Displacement(start.astype(np.float32), grid)
    for _ in range(steps):
        mm = np.empty_like(back.mm)
        for slab, places in _places(back, field.grid):
            mm[:, slab] = -_looked_up(field.mm, places)
        change = float(np.abs(mm - back.mm).max())
        back = Displacement(mm, grid)
        if change < 1e-3:
            break
    return back


def jacobian(field: Displacement) -> Float32[np.ndarray, "i j k"]:
    """By what factor tissue is larger in the moving scan; 0 or less where the field folds.

    Derivatives are central differences, one-sided at the border, taken in mm along x, y and z.
    """
    per_voxel = np.stack([np.stack(np.gradient(one)) for one in field.mm])
    per_mm = np.einsum("cdijk,de->ijkce", per_voxel, np.linalg.inv(field.grid.affine[:3, :3]))
    size: np.ndarray = np.linalg.det(per_mm + np.eye(3)).astype(np.float32)
    return size


def folds(field: Displacement, where: Bool[np.ndarray, "i j k"] | None = None) -> Folds:
    """Count the voxels whose Jacobian determinant is 0 or less.

    Args:
        field: Any field.
        where: Voxels to look at; None: all.

    Raises:
        GridMismatch: If `where` has another shape.
    """
    if where is not None and where.shape != field.grid.shape:
        raise GridMismatch(
            f"The mask has shape {where.shape} but the field has {field.grid.shape}.",
            fix="make the mask on the field's own grid.",
        )
    folded = jacobian(field) <= 0
    looked_at = folded if where is None else folded[where]
    return Folds(int(looked_at.sum()), float(looked_at.mean()) if looked_at.size else 0.0)


_CORNERS = np.array([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)])


def _ramp(
    matrix: Float64[np.ndarray, "4 4"], shape: tuple[int, ...], row: int
) -> Float32[np.ndarray, "i j k"]:
    """One coordinate of every voxel under an affine map."""
    i, j, k = (matrix[row, axis] * np.arange(n) for axis, n in enumerate(shape))
    ramp: np.ndarray = (i + matrix[row, 3])[:, None, None] + j[:, None] + k
    as_single: np.ndarray = ramp.astype(np.float32)
    return as_single


def _along(values: np.ndarray, axis: int, positions: np.ndarray) -> np.ndarray:
    """Linear interpolation along one axis, constant beyond its ends."""
    last = values.shape[axis] - 1
    places = np.clip(positions, 0, last)
    low = np.minimum(places.astype(int), max(last - 1, 0))
    shape = [1] * values.ndim
    shape[axis] = len(positions)
    share = (places - low).astype(np.float32).reshape(shape)
    below = np.take(values, low, axis)
    above = np.take(values, np.minimum(low + 1, last), axis)
    result: np.ndarray = below + share * (above - below)
    return result


def _places(
    field: Displacement, target: Grid
) -> Iterator[tuple[slice, Float32[np.ndarray, "3 a j k"]]]:
    """Where a field leads, in voxels of another grid, slab by slab along the first axis."""
    to_voxel = np.linalg.inv(target.affine)
    linear = to_voxel[:3, :3].astype(np.float32)
    n, j, k = field.grid.shape
    thick = max(1, _SLAB // (j * k))
    for start in range(0, n, thick):
        slab = slice(start, min(start + thick, n))
        shift = np.eye(4)
        shift[0, 3] = start
        matrix = to_voxel @ field.grid.affine @ shift
        shape = (slab.stop - slab.start, j, k)
        base = np.stack([_ramp(matrix, shape, row) for row in range(3)])
        yield slab, base + np.tensordot(linear, field.mm[:, slab], 1)


def _looked_up(values: np.ndarray, places: np.ndarray) -> Float32[np.ndarray, "3 a j k"]:
    from scipy.ndimage import map_coordinates

    return np.stack([map_coordinates(one, places, order=1, mode="nearest") for one in values])
