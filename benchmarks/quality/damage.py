"""What goes wrong with scans, done badly to good ones, for the gallery.

Every function takes a scan and gives a new scan; inputs never change. What is done mildly, to
calibrate a model, is `fewlabel.damage`.
"""

import numpy as np
from scipy.ndimage import affine_transform, gaussian_filter

from fewlabel.damage import Damage, bright, moved, noisy, with_data
from fewlabel.grid import Grid
from fewlabel.volume import Scan


def brain_box(scan: Scan) -> tuple[np.ndarray, np.ndarray]:
    """First and one past the last voxel with tissue along each axis."""
    where = np.argwhere(scan.data > 0.2 * bright(scan))
    return np.percentile(where, 0.1, axis=0).astype(int), np.percentile(where, 99.9, axis=0).astype(
        int
    ) + 1


def cropped(scan: Scan, share: float) -> Scan:
    """The scan begins only above a share of the brain's height."""
    low, high = brain_box(scan)
    first = int(low[2] + share * (high[2] - low[2]))
    affine = scan.grid.affine.copy()
    affine[:3, 3] += affine[:3, 2] * first
    data = scan.data[:, :, first:]
    i, j, k = data.shape
    return Scan(np.ascontiguousarray(data), Grid((i, j, k), affine))


def rotated(scan: Scan, degrees: float) -> Scan:
    """The head nods by so many degrees, and the header does not know."""
    angle = np.radians(degrees)
    turn = np.array(
        [[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]
    )
    low, high = brain_box(scan)
    middle = (low + high) / 2
    data = affine_transform(scan.data, turn, middle - turn @ middle, order=1)
    return with_data(scan, data)


def half_brain(scan: Scan) -> Scan:
    """The left hemisphere is gone."""
    low, high = brain_box(scan)
    data = scan.data.copy()
    data[: (low[0] + high[0]) // 2] = 0
    return with_data(scan, data)


def blank_half(scan: Scan) -> Scan:
    """The transfer broke off: the upper half of the slices is zero."""
    low, high = brain_box(scan)
    data = scan.data.copy()
    data[:, :, (low[2] + high[2]) // 2 :] = 0
    return with_data(scan, data)


def wrong_spacing(scan: Scan, factor: float) -> Scan:
    """The header makes slices thicker than they are."""
    affine = scan.grid.affine.copy()
    affine[:3, 2] *= factor
    return Scan(scan.data, Grid(scan.grid.shape, affine))


def like_t2(scan: Scan) -> Scan:
    """Fluid bright, white matter dark, air still black: what a T2w scan looks like."""
    top, inside = bright(scan), scan.data > 0.05 * bright(scan)
    smooth = np.clip(gaussian_filter(inside.astype(np.float32), 1), 0, 1) * inside
    return with_data(scan, np.clip(1.15 * top - scan.data, 0.02 * top, None) * smooth)


def inverted(scan: Scan) -> Scan:
    """Black is white, air included."""
    return with_data(scan, scan.data.max() - scan.data)


def with_hole(scan: Scan, rng: np.random.Generator, radius_mm: float) -> Scan:
    """A dark ball in the white matter of the right hemisphere, like an old lesion."""
    low, high = brain_box(scan)
    at = low + (high - low) * np.array([0.70, 0.55, 0.62]) + rng.uniform(-2, 2, 3)
    grid = np.meshgrid(*(np.arange(n) for n in scan.data.shape), indexing="ij")
    mm = np.sqrt(
        sum(((g - a) * s) ** 2 for g, a, s in zip(grid, at, scan.grid.spacing_mm, strict=True))
    )
    data = scan.data.copy()
    data[mm < radius_mm] = 0.12 * bright(scan)
    return with_data(scan, data)


def shuffled(scan: Scan, rng: np.random.Generator, edge: int = 24) -> Scan:
    """Intensities of a brain, but not a brain: its blocks in another order."""
    data = scan.data.copy()
    low, _ = brain_box(scan)
    corners = [
        tuple(int(low[axis] + edge * n[axis]) for axis in range(3)) for n in np.ndindex(5, 6, 5)
    ]
    blocks = [tuple(slice(a, a + edge) for a in corner) for corner in corners]
    blocks = [b for b in blocks if scan.data[b].shape == (edge, edge, edge)]
    for target, source in zip(blocks, rng.permutation(len(blocks)), strict=True):
        data[target] = scan.data[blocks[source]]
    return with_data(scan, data)


BAD: dict[str, Damage] = {
    "cropped": lambda scan, _: cropped(scan, 0.35),
    "rotated": lambda scan, _: rotated(scan, 90),
    "noise": lambda scan, rng: noisy(scan, rng, 0.35),
    "motion": lambda scan, rng: moved(scan, rng, 16, 14.0),
    "half brain": lambda scan, _: half_brain(scan),
    "wrong spacing": lambda scan, _: wrong_spacing(scan, 1.6),
    "T2 given as T1": lambda scan, _: like_t2(scan),
    "hole like a lesion": lambda scan, rng: with_hole(scan, rng, 15.0),
    "not a brain": shuffled,
    "blank half": lambda scan, _: blank_half(scan),
    "inverted": lambda scan, _: inverted(scan),
}
"""Eleven of the gallery's twelve; the mirrored header is done to the file."""
