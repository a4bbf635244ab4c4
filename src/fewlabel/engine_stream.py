"""Networks of many classes on a CPU in little memory.

A network's last layer turns each voxel's features into logits, alone. So only features are
computed for a whole image, and logits and probabilities for a few voxels at a time: memory does not
grow with the number of classes, and answers are those of the whole network.
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
    Offsets,
    cpu_engine,
    in_windows,
)
from fewlabel.engine_parts import Features, Parts, bytes_per_voxel, compiled_parts, split
from fewlabel.errors import ConfigError
from fewlabel.patches import tile_starts, tile_weights
from fewlabel.shares import Index, Shares, index

_BASE_BYTES, _VOXEL_BYTES = 400e6, 6
"""What a process takes without a network: programs; and for each voxel of the field scan, image
and results."""
_AT_ONCE_BYTES = 64e6
_SHARES_PART = 0.08
"""Part of the limit that probabilities may take before they go to disk."""


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
    import openvino

    core: Any = openvino.Core()
    found = split(core, onnx, head, offsets)
    if found is None:
        engine = cpu_engine(onnx, head, rule.seen, compute, offsets)
        if rule.seen == rule.field:
            return engine
        return replace(engine, run=in_windows(engine.run, rule.seen), window=rule.seen)
    limit = math.inf if compute.max_memory_gb is None else compute.max_memory_gb * 1e9
    window = _fitting(rule, bytes_per_voxel(found, compute, rule.multiple), limit)
    parts = compiled_parts(core, found, window, compute, alone=window == rule.field)
    kept = limit * _SHARES_PART

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


def _fitting(rule: GridRule, each: tuple[float, float], limit: float) -> Index:
    """The window of the rule, or the largest of smaller ones whose work fits the limit."""
    window = rule.seen
    base = _BASE_BYTES + _VOXEL_BYTES * math.prod(rule.field)
    room = limit * (1 - _SHARES_PART) - base if limit < math.inf else limit
    while (needed := _bytes(rule.field, window, each)) > room:
        smaller = _smaller(rule.field, window, rule.multiple)
        if not smaller:
            least_gb = (needed + base) / (1 - _SHARES_PART) / 1e9
            raise ConfigError(
                f"The limit of memory is {limit / 1e9:.2g} GB; this model needs"
                f" {least_gb:.2g} GB at least.",
                fix="raise --max-memory.",
            )
        window = min(smaller, key=lambda one: _bytes(rule.field, one, each))
    return window


def _smaller(field: Index, window: Index, multiple: int) -> list[Index]:
    """Windows of which the field takes one more along an axis; none thin if there are others.

    They overlap just as much as they must: half of 384 voxels would take three windows, 224 two.
    """
    found = []
    for axis, (whole, length) in enumerate(zip(field, window, strict=True)):
        more = len(tile_starts(whole, length, OVERLAP)) + 1
        least = whole / (more - (more - 1) * OVERLAP)
        less = min(math.ceil(least / multiple) * multiple, length - multiple)
        if less >= 2 * multiple:
            found.append(index(tuple(less if n == axis else m for n, m in enumerate(window))))
    thick = [one for one in found if min(one) >= 4 * multiple]
    return thick or found


def _bytes(field: Index, window: Index, each: tuple[float, float]) -> float:
    """What the network takes in one window, and the features of all that are kept meanwhile."""
    rows, *across = (len(tile_starts(*pair, OVERLAP)) for pair in zip(field, window, strict=True))
    kept = min(rows, 2) * math.prod(across)
    body, features = each
    return (body + features * (kept if kept > 1 else 0)) * math.prod(window)
