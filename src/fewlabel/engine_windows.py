"""A network that sees an image in windows: what they say, put together a few planes at a time.

A network's last layer turns each voxel's features into logits, alone. Where windows overlap, their
features are averaged, and the last layer gets the mean, which is to average logits: it computes
every voxel once, however many windows see it, and memory does not grow with the classes.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Float32, Shaped, UInt8

from fewlabel.engine import Answer, Run
from fewlabel.engine_fine import Maps
from fewlabel.patches import tile_starts, tile_weights
from fewlabel.shares import Index, Probabilities, Shares, index

_AT_ONCE_BYTES = 64e6
"""Of features and probabilities of some planes."""
_FEATURE_BYTES = 128
"""Of features of a voxel, about: 32 maps."""

Features = Callable[[int, int], Maps]
"""From the first plane and that after the last to what the last layer looks at there."""

Head = Callable[[Shaped[np.ndarray, "c voxels"]], UInt8[np.ndarray, "classes voxels"]]


@dataclass(frozen=True)
class Parts:
    """A network in parts.

    Attributes:
        body: From an image of the window's size to its features, and to the age in weeks if the
            network tells it.
        head: From features of any voxels to the probability of each class, from 0 to 255.
        n_classes: Of the head.
        means: What they run on.
    """

    body: Callable[[Float32[np.ndarray, "channels i j k"]], tuple[Features, float | None]]
    head: Head
    n_classes: int
    means: str


class MeanAge:
    """The age that windows tell on average, each counted by the labeled tissue in it.

    Source:
        richter2022, AgeU-Net. Departs from it: there all windows count alike, also those that
        show nothing but air.
    """

    def __init__(self) -> None:
        self._sum = self._tissue = 0.0

    def add(self, age_weeks: float | None, shares: Probabilities) -> None:
        """Take in a window, or some planes of one."""
        if age_weeks is not None:
            air = shares[0]
            tissue = 255.0 * air.size - float(air.sum(dtype=np.int64))
            self._sum += age_weeks * tissue
            self._tissue += tissue

    @property
    def weeks(self) -> float | None:
        """The mean; None if no window told an age or saw any tissue."""
        return self._sum / self._tissue if self._tissue else None


def in_windows(parts: Parts, window: Index, most_bytes: float = math.inf) -> Run:
    """From an image to what the network says of it.

    A network that was trained on patches expects the means and spreads of patches, which its
    instance norms divide by; those of a whole field, with more air in it, are others.

    Args:
        parts: The network.
        window: Voxels that it sees at once; no larger than the images.
        most_bytes: Of probabilities that may be kept in memory.
    """

    def run(image: Float32[np.ndarray, "channels i j k"]) -> Answer:
        shares, ages = Shares(parts.n_classes, index(image.shape[1:]), most_bytes), MeanAge()
        for first, slab in _slabs(image, window, parts, ages):
            shares.add(first, slab)
        return Answer(shares, ages.weeks)

    return run


@dataclass(frozen=True, eq=False)
class _Tile:
    """What the body says of a window, or of its last planes, and where these begin.

    Attributes:
        start: The first voxel.
        end: After the last plane.
        features: By planes counted from the start.
        age_weeks: If the network tells it.
    """

    start: Index
    end: int
    features: Features
    age_weeks: float | None

    def after(self, plane: int) -> "_Tile":
        """From a plane on, so that the others need not be kept."""
        first, j, k = self.start
        rest = self.features(plane - first, self.end - first).copy()
        return _Tile((plane, j, k), self.end, lambda a, b: rest[:, a:b], self.age_weeks)


def _slabs(
    image: Float32[np.ndarray, "channels i j k"], window: Index, parts: Parts, ages: MeanAge
) -> Iterator[tuple[int, UInt8[np.ndarray, "classes n j k"]]]:
    """Probabilities of a few planes at a time, from the first to the last.

    Features are kept only where windows to come will see them again.
    """
    shape = index(image.shape[1:])
    starts = [tile_starts(*pair) for pair in zip(shape, window, strict=True)]
    plane = (parts.n_classes + _FEATURE_BYTES) * shape[1] * shape[2]
    thick = max(1, int(_AT_ONCE_BYTES / plane))
    alive: list[_Tile] = []
    for first, after in zip(starts[0], [*starts[0][1:], shape[0]], strict=True):
        alive = [tile.after(first) for tile in alive if tile.end > first]
        for j, k in product(*starts[1:]):
            seen = image[:, first : first + window[0], j : j + window[1], k : k + window[2]]
            alive.append(_Tile((first, j, k), first + window[0], *parts.body(seen)))
        for begin in range(first, after, thick):
            planes = begin, min(begin + thick, after)
            features = _blended(planes, shape, window, alive)
            slab = parts.head(features.reshape(len(features), -1))
            slab = slab.reshape(-1, *features.shape[1:])
            for tile in alive:
                ages.add(tile.age_weeks, slab[(slice(None), *_common(planes, tile, window)[2])])
            yield begin, slab


def _common(
    planes: tuple[int, int], tile: _Tile, window: Index
) -> tuple[int, int, tuple[slice, slice, slice]]:
    """From where to where a window sees some planes, and where in them."""
    low, high = max(planes[0], tile.start[0]), min(planes[1], tile.end)
    j, k = tile.start[1:]
    here = slice(low - planes[0], max(low, high) - planes[0])
    return low, high, (here, slice(j, j + window[1]), slice(k, k + window[2]))


def _blended(planes: tuple[int, int], shape: Index, window: Index, tiles: list[_Tile]) -> Maps:
    """Weighted means of the features that all windows have in some planes."""
    begin, end = planes
    if len(tiles) == 1:
        return tiles[0].features(begin - tiles[0].start[0], end - tiles[0].start[0])
    total = np.zeros((end - begin, *shape[1:]), dtype=np.float32)
    sums: np.ndarray | None = None
    for tile in tiles:
        low, high, there = _common(planes, tile, window)
        if low >= high:
            continue
        first = tile.end - window[0]
        seen = tile.features(low - tile.start[0], high - tile.start[0])
        weight = tile_weights(window, slice(low - first, high - first))
        if sums is None:
            sums = np.zeros((len(seen), *total.shape), dtype=np.float32)
        total[there] += weight
        for mean, feature in zip(sums, seen, strict=True):
            mean[there] += feature * weight
    assert sums is not None
    sums /= total
    return sums
