"""What a network on the CPU takes, and how large a window a limit of memory allows."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from fewlabel.conform import GridRule
from fewlabel.engine import Compute
from fewlabel.engine_fine import PLANES, fine_model
from fewlabel.engine_parts import Cut
from fewlabel.errors import ConfigError
from fewlabel.patches import tile_starts
from fewlabel.shares import Index

_BASE_BYTES, _VOXEL_BYTES = 400e6, 10
"""What a process takes without a network: programs; and for each voxel of the field scan, image
and results."""
SHARES_PART = 0.08
"""Part of the limit that probabilities may take before they go to disk."""
_SPREAD = 1.5
"""What OpenVINO takes over what must be alive at the same time, as measured."""
_IN_PLACE = {"Add", "Multiply", "Subtract", "PRelu", "Relu", "Convert", "Identity", "MVN"}


@dataclass(frozen=True)
class BytesPerVoxel:
    """What a network takes for each voxel of its window.

    Attributes:
        body: At its peak, by what needs a whole image.
        kept: By what that leaves.
        fine: At its peak, by what is computed for `engine_fine.PLANES` planes at a time.
        fine_kept: By what that leaves.
    """

    body: float
    kept: float
    fine: float = 0.0
    fine_kept: float = 0.0


def fitting_window(rule: GridRule, cut: Cut, compute: Compute, limit: float) -> Index:
    """The window of the rule, or of smaller ones that fit the limit the one that costs least time.

    Raises:
        ConfigError: If the limit is too low for the smallest.
    """
    each, field = bytes_per_voxel(cut, compute, rule.multiple), rule.field
    base = _BASE_BYTES + _VOXEL_BYTES * math.prod(field)
    room = limit * (1 - SHARES_PART) - base
    if _bytes(field, rule.seen, each) <= room:
        return rule.seen
    needed_by = {window: _bytes(field, window, each) for window in _windows(rule)}
    fitting = [window for window, needed in needed_by.items() if needed <= room]
    if not fitting:
        needed = min(needed_by.values())
        least_gb = (needed + base) / (1 - SHARES_PART) / 1e9
        raise ConfigError(
            f"The limit of memory is {limit / 1e9:.2g} GB; this model needs"
            f" {least_gb:.2g} GB at least.",
            fix="raise --max-memory.",
        )
    thick = [window for window in fitting if min(window) >= 4 * rule.multiple]
    return min(thick or fitting, key=lambda one: (_computed(field, one), needed_by[one]))


def _windows(rule: GridRule) -> Iterator[Index]:
    """Windows of the rule's size and less that overlap just as much as they must.

    Half of 384 voxels would take three windows along an axis, as many as 144 do.
    """
    lengths = []
    for whole, longest in zip(rule.field, rule.seen, strict=True):
        steps = range(longest, 2 * rule.multiple - 1, -rule.multiple)
        by_number = {len(tile_starts(whole, length)): length for length in steps}
        lengths.append(sorted({longest, *by_number.values()}))
    yield from product(*lengths)


def _computed(field: Index, window: Index) -> int:
    """Voxels that all windows have."""
    numbers = (len(tile_starts(*pair)) for pair in zip(field, window, strict=True))
    return math.prod(numbers) * math.prod(window)


def _bytes(field: Index, window: Index, each: BytesPerVoxel) -> float:
    """What the network takes in one window, and what is kept of others meanwhile.

    These are the windows beside it, which are copied from what the network gives, and those planes
    of the windows before that it sees again.
    """
    rows, *across = (tile_starts(*pair) for pair in zip(field, window, strict=True))
    beside = math.prod(map(len, across))
    again = window[0] - rows[1] + rows[0] if len(rows) > 1 else 0
    planes, area = min(PLANES, window[0]), math.prod(window[1:])
    alone = len(rows) * beside == 1
    whole = (each.body + (0 if alone else each.kept * (beside + 1))) * math.prod(window)
    before = (each.fine_kept or each.kept) * beside * again * area
    return whole + before + (each.fine + each.fine_kept * beside) * planes * area


def bytes_per_voxel(cut: Cut, compute: Compute, multiple: int) -> BytesPerVoxel:
    """What to expect of a network.

    Args:
        cut: The network.
        compute: Its precision.
        multiple: What sizes must be divisible by.
    """
    from fewlabel.ov import op, openvino

    side = 2 * multiple
    each = 4 if compute.precision == "exact" else 2

    def needed(ends: list[Any], model: Any) -> tuple[float, float]:
        kept = float(each * sum(math.prod(one.get_shape()) for one in ends))
        return _SPREAD * each * _alive(model.get_ordered_ops()), kept

    network = cut.network.clone()
    network.reshape({"image": [1, cut.channels, side, side, side]})
    ends = cut.ends(network)
    body = openvino.Model([op.result(one) for one in ends], network.get_parameters(), "body")
    found = [n / side**3 for n in needed(ends, body)]
    if cut.fine is None:
        return BytesPerVoxel(*found)
    network = cut.network.clone()
    window = (PLANES, side, side)
    fine = fine_model(network, cut.features(network), cut.fine, window, np.float16)
    return BytesPerVoxel(*found, *(n / math.prod(window) for n in needed(fine.outputs, fine)))


def _alive(nodes: list[Any]) -> int:
    """The most numbers that must be kept at the same time when nodes are computed in turn."""
    owner: dict[Any, Any] = {}
    size: dict[Any, int] = {}
    born: dict[Any, int] = {}
    dies: dict[Any, int] = {}
    for n, node in enumerate(nodes):
        sources = [_name(source) for source in node.input_values()]
        for source in sources:
            dies[owner.get(source, source)] = n
        if node.get_type_name() == "Constant":
            continue
        for output in node.outputs():
            name, length = _name(output), math.prod(output.get_shape())
            same = [s for s in sources if size.get(owner.get(s, s)) == length]
            if same and node.get_type_name() in _IN_PLACE:
                owner[name] = owner.get(same[0], same[0])
            else:
                size[name], born[name], dies[name] = length, n, n
    return max(
        sum(length for name, length in size.items() if born[name] <= n <= dies[name])
        for n in range(len(nodes))
    )


def _name(output: Any) -> tuple[str, int]:
    return output.get_node().get_friendly_name(), output.get_index()
