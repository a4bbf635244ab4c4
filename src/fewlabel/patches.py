"""Patches: where to draw them for training, and how to put predictions of them together."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Float32, Int16, Int64, Shaped

Index = tuple[int, int, int]
OVERLAP = 0.25
"""Share of a patch that the next one sees again, at least, unless it is large."""
MOST_OVERLAP = 24
"""Voxels that the next one sees again of a patch of 96 voxels, or more."""

Predict = Callable[[Float32[np.ndarray, "c i j k"]], Float32[np.ndarray, "classes i j k"]]


@dataclass(frozen=True, eq=False)
class Places:
    """Where in a label map each structure is found: some of its voxels, not all.

    Attributes:
        voxels: Class, i, j, k of each voxel, ordered by class.
        sizes: Voxels that each class has in the map, background included.
    """

    voxels: Int16[np.ndarray, "n 4"]
    sizes: Int64[np.ndarray, "classes"]

    def draw(self, rng: np.random.Generator, rarity: float) -> Index | None:
        """A voxel of a structure, or None if the map has no structure.

        Args:
            rng: Where chance comes from.
            rarity: 0 picks structures by their size, 1 picks all equally often; between them
                by a power of their size.
        """
        sizes = self.sizes.copy()
        sizes[0] = 0
        if not sizes.any():
            return None
        weights = np.where(sizes > 0, sizes, 1) ** (1 - rarity) * (sizes > 0)
        picked = int(rng.choice(len(sizes), p=weights / weights.sum()))
        first, last = np.searchsorted(self.voxels[:, 0], (picked, picked + 1))
        i, j, k = (int(n) for n in self.voxels[rng.integers(first, last), 1:])
        return i, j, k


def find_places(classes: Int16[np.ndarray, "i j k"], n_classes: int, most: int = 1000) -> Places:
    """Look through a label map once.

    Args:
        classes: Structures from 1 on; 0 and -1 are passed over.
        n_classes: Classes of the protocol, background included.
        most: Voxels to keep of each structure, evenly spread over it.
    """
    flat = classes.ravel()
    sizes = np.bincount(flat[flat >= 0], minlength=n_classes)
    found = np.flatnonzero(flat > 0)
    found = found[np.argsort(flat[found], kind="stable")]
    ends = np.cumsum(sizes[1:])
    kept = [
        found[np.linspace(end - size, end - 1, min(size, most)).astype(np.int64)]
        for end, size in zip(ends, sizes[1:], strict=True)
        if size
    ]
    at = np.concatenate(kept) if kept else found
    voxels = np.stack((flat[at], *np.unravel_index(at, classes.shape)), axis=1)
    return Places(voxels.astype(np.int16), sizes)


def draw_start(
    rng: np.random.Generator, scan: Index, patch: Index, around: Index | None = None
) -> Index:
    """First voxel of a random patch.

    Args:
        rng: Where chance comes from.
        scan: Voxels of the scan. Where it is smaller than the patch, it comes to lie in the
            middle, and the start is negative.
        patch: Voxels of the patch.
        around: A voxel that shall lie in the middle half of the patch, if the edge of the scan
            allows; None for a patch anywhere.
    """
    start = []
    for axis in range(3):
        last = scan[axis] - patch[axis]
        if last <= 0:
            start.append(math.floor(last / 2))
        elif around is None:
            start.append(int(rng.integers(0, last + 1)))
        else:
            inset = rng.uniform(0.25, 0.75) * (patch[axis] - 1)
            start.append(min(max(round(around[axis] - inset), 0), last))
    return start[0], start[1], start[2]


def cut(
    data: Shaped[np.ndarray, "i j k"], start: Index, shape: Index, outside: int | float
) -> Shaped[np.ndarray, "a b c"]:
    """A copy of a part of an array that may reach beyond it.

    Args:
        data: In memory or mapped from a file; only the part is read.
        start: First voxel; may be negative.
        shape: Voxels of the part.
        outside: Value of what lies beyond.
    """
    take, put = [], []
    for first, length, size in zip(start, shape, data.shape, strict=True):
        begin, end = min(max(first, 0), size), min(max(first + length, 0), size)
        take.append(slice(begin, end))
        put.append(slice(begin - first, end - first))
    if all(s.stop - s.start == length for s, length in zip(take, shape, strict=True)):
        return np.array(data[tuple(take)])
    part = np.full(shape, outside, dtype=data.dtype)
    part[tuple(put)] = data[tuple(take)]
    return part


def tile_starts(size: int, patch: int, overlap: float | None = None) -> list[int]:
    """First voxels of the fewest evenly spaced patches along one axis.

    >>> tile_starts(200, 96, overlap=0.25)
    [0, 52, 104]
    >>> tile_starts(64, 96, overlap=0.25)
    [0]

    Args:
        size: Voxels of the scan.
        patch: Voxels of the patch.
        overlap: Least share of a patch that the next one sees again; None: `OVERLAP`, but
            `MOST_OVERLAP` voxels are enough.
    """
    if size <= patch:
        return [0]
    common = min(patch * OVERLAP, MOST_OVERLAP) if overlap is None else patch * overlap
    steps = math.ceil((size - patch) / max(1, int(patch - common)))
    return [round(n * (size - patch) / steps) for n in range(steps + 1)]


def tile_weights(patch: Index, planes: slice = slice(None)) -> Float32[np.ndarray, "planes j k"]:
    """How much a patch's prediction counts at each of its voxels: most in the middle.

    A Gaussian with a standard deviation of 1/8 of the patch, as networks err where they see
    little around.

    Args:
        patch: Voxels of the patch.
        planes: Those along the first axis that are wanted.
    """
    i, j, k = (
        np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (n / 8)) ** 2).astype(np.float32)
        for n in patch
    )
    weights: np.ndarray = i[planes, None, None] * j[:, None] * k
    np.maximum(weights, np.float32(1e-4), out=weights)
    return weights


def stitch(
    image: Float32[np.ndarray, "c i j k"],
    patch: Index,
    n_classes: int,
    predict: Predict,
    overlap: float | None = None,
) -> Int16[np.ndarray, "i j k"]:
    """Predict a whole scan patch by patch, and take the class with the largest weighted mean.

    Sums are kept for one row of patches, not for the scan, and a part of the scan is decided
    as soon as no patch to come will see it: the memory needed is that of `n_classes` times a
    slab as thick as a patch.

    Args:
        image: The scan; where it is smaller than a patch, it is padded with zeros.
        patch: Voxels of a patch.
        n_classes: Classes of the network.
        predict: From a patch to probabilities or logits.
        overlap: See `tile_starts`.
    """
    _, size_i, size_j, size_k = image.shape
    length, *across = (min(p, s) for p, s in zip(patch, image.shape[1:], strict=True))
    starts = tile_starts(size_i, patch[0], overlap)
    weights = tile_weights(patch)
    classes = np.zeros(image.shape[1:], dtype=np.int16)
    sums = np.zeros((n_classes, length, size_j, size_k), dtype=np.float32)
    for start, after in zip(starts, [*starts[1:], size_i], strict=True):
        for j, k in _rows((size_j, size_k), patch[1:], overlap):
            part = np.stack([cut(one, (start, j, k), patch, 0.0) for one in image])
            seen = predict(part)[:, :length, : across[0], : across[1]]
            here = sums[:, :, j : j + across[0], k : k + across[1]]
            for number, share in enumerate(seen):
                here[number] += share * weights[:length, : across[0], : across[1]]
        done = after - start
        for n in range(length):  # slice by slice, as copies of the whole would be large
            if n < done:
                classes[start + n] = sums[:, n].argmax(axis=0)
            sums[:, n] = sums[:, n + done] if n + done < length else 0
    return classes


def _rows(
    sizes: tuple[int, int], patch: tuple[int, int], overlap: float | None
) -> Iterator[tuple[int, int]]:
    (size_j, size_k), (patch_j, patch_k) = sizes, patch
    yield from product(tile_starts(size_j, patch_j, overlap), tile_starts(size_k, patch_k, overlap))
