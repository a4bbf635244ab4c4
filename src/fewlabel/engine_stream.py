"""Networks of many classes on a CPU in little memory.

A network's last layer turns each voxel's features into logits, alone. So only features are
computed for a whole image, and logits and probabilities for a few voxels at a time: memory does not
grow with the number of classes, and answers are those of the whole network. Features at twice the
resolution of all other layers are computed a few planes at a time, too.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from fewlabel.conform import GridRule
from fewlabel.engine import (
    OVERLAP,
    Answer,
    Compute,
    Engine,
    MeanAge,
    cpu_engine,
    in_windows,
)
from fewlabel.engine_memory import SHARES_PART, fitting_window
from fewlabel.engine_parts import Features, Parts, compiled_parts, split
from fewlabel.patches import tile_starts, tile_weights
from fewlabel.shares import Index, Shares, index
from fewlabel.style import Offsets

_AT_ONCE_BYTES = 64e6


def stream_engine(
    onnx: Path, head: str, rule: GridRule, compute: Compute, offsets: Offsets | None = None
) -> Engine:
    """An ONNX file on the CPU, in windows where it was trained so or memory is limited.

    Args:
        onnx: See `engine.cpu_engine`.
        head: Which output.
        rule: The field, and the window that the network was trained on.
        compute: Threads, precision and the limit of memory.
        offsets: Added to the logits.

    Raises:
        ConfigError: If the limit is too low for the smallest window.
        ModelFolderError: If the file is no such network.
    """
    from fewlabel.ov import openvino

    core: Any = openvino.Core()
    found = split(core, onnx, head, offsets)
    if found is None:
        engine = cpu_engine(onnx, head, rule.seen, compute, offsets)
        if rule.seen == rule.field:
            return engine
        return replace(engine, run=in_windows(engine.run, rule.seen), window=rule.seen)
    limit = math.inf if compute.max_memory_gb is None else compute.max_memory_gb * 1e9
    window = fitting_window(rule, found, compute, limit)
    parts = compiled_parts(core, found, window, compute, alone=window == rule.field)
    kept = limit * SHARES_PART

    def run(image: Float32[np.ndarray, "channels i j k"]) -> Answer:
        shares, ages = Shares(parts.n_classes, index(image.shape[1:]), kept), MeanAge()
        for first, slab in slabs(image, window, parts, ages):
            shares.add(first, slab)
        return Answer(shares, ages.weeks)

    return Engine(run, parts.means, window, found.channels, found.tells_age)


@dataclass(frozen=True, eq=False)
class _Tile:
    """What the body says of a window, and where the window begins."""

    start: Index
    features: Features
    age_weeks: float | None


def slabs(
    image: Float32[np.ndarray, "channels i j k"], window: Index, parts: Parts, ages: MeanAge
) -> Iterator[tuple[int, UInt8[np.ndarray, "classes n j k"]]]:
    """Probabilities of a few planes at a time, from the first to the last.

    Features are kept of those windows only that planes to come will see.

    Args:
        image: What the network looks at.
        window: Voxels that it sees at once; no larger than the image.
        parts: The network.
        ages: Takes in the age that each window tells.
    """
    shape = index(image.shape[1:])
    starts = [tile_starts(*pair, OVERLAP) for pair in zip(shape, window, strict=True)]
    plane = 5 * parts.n_classes * shape[1] * shape[2]  # a sum and its outcome
    thick = max(1, int(_AT_ONCE_BYTES / plane))
    alive: list[_Tile] = []
    for first, after in zip(starts[0], [*starts[0][1:], shape[0]], strict=True):
        alive = [tile for tile in alive if tile.start[0] + window[0] > first]
        for j, k in product(*starts[1:]):
            seen = image[:, first : first + window[0], j : j + window[1], k : k + window[2]]
            alive.append(_Tile((first, j, k), *parts.body(seen)))
        for begin in range(first, after, thick):
            end = min(begin + thick, after)
            yield begin, _blended((begin, end), shape, window, alive, parts, ages)


def _blended(
    planes: tuple[int, int],
    shape: Index,
    window: Index,
    tiles: list[_Tile],
    parts: Parts,
    ages: MeanAge,
) -> UInt8[np.ndarray, "classes n j k"]:
    """Weighted means of what all windows say of some planes."""
    begin, end = planes
    _, size_j, size_k = shape
    if len(tiles) == 1:
        return _probabilities(tiles[0], planes, parts, ages)
    weights = tile_weights(window)
    sums = np.zeros((parts.n_classes, end - begin, size_j, size_k), dtype=np.float32)
    total = np.zeros(sums.shape[1:], dtype=np.float32)
    for tile in tiles:
        start = tile.start
        low, high = max(begin, start[0]), min(end, start[0] + window[0])
        if low >= high:
            continue
        seen = _probabilities(tile, (low, high), parts, ages)
        here = (
            slice(low - begin, high - begin),
            slice(start[1], start[1] + window[1]),
            slice(start[2], start[2] + window[2]),
        )
        weight = weights[low - start[0] : high - start[0]]
        total[here] += weight
        for mean, share in zip(sums, seen, strict=True):
            if share.any():
                mean[here] += share * weight
    sums /= total
    return np.rint(sums, out=sums).astype(np.uint8)


def _probabilities(
    tile: _Tile, planes: tuple[int, int], parts: Parts, ages: MeanAge
) -> UInt8[np.ndarray, "classes n j k"]:
    first = tile.start[0]
    part = tile.features(planes[0] - first, planes[1] - first)
    found = parts.head(part.reshape(len(part), -1)).reshape(-1, *part.shape[1:])
    ages.add(tile.age_weeks, found)
    return found
