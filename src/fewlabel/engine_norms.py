"""Instance norms of large fields, as exact as those of small ones.

OpenVINO adds up the voxels of a channel one after the other in 32 bits. Over five million of them
the mean is off by a thousandth of the spread; each of a U-Net's norms adds to that, and labels
differ from torch's by half a percent. What a norm gives has a mean near 0, though, of which plane
by plane sums are exact: what is left of the mean, and what the spread lacks to 1, is taken out.
"""

from typing import Any

import numpy as np

_LARGE = 500_000
"""Voxels from which on the error can be seen."""
_NEARLY_ONE = 0.995
"""What spreads less is nearly constant, and the norm's epsilon keeps it small on purpose."""


def steady(network: Any) -> None:
    """Correct the norms of large fields in a network of OpenVINO, whose shapes are known."""
    for node in list(network.get_ordered_ops()):
        if node.get_type_name() != "MVN":
            continue
        shape = node.get_output_partial_shape(0)
        if shape.rank.get_length() != 5 or not shape.is_static:
            continue
        _, _, *size = shape.to_shape()
        if int(np.prod(size)) >= _LARGE:
            readers = list(node.output(0).get_target_inputs())
            better = _corrected(node.output(0), size)
            for reader in readers:
                reader.replace_source_output(better)


def _corrected(found: Any, size: list[int]) -> Any:
    from fewlabel.ov import op

    planes, across = (op.constant(np.array(axes, dtype=np.int64)) for axes in ([2], [3, 4]))
    each, whole = (np.float32(1 / n) for n in (size[0], np.prod(size)))
    # Two sums of a kind would be merged into one that is as inexact as the first.
    mean = op.multiply(op.reduce_sum(op.reduce_mean(found, across, True), planes, True), each)
    length = op.reduce_l2(found, across, True)
    squares = op.reduce_sum(op.multiply(length, length), planes, True)
    spread = op.subtract(op.multiply(squares, whole), op.multiply(mean, mean))
    nearly = op.greater(spread, np.float32(_NEARLY_ONE))
    lacking = op.select(nearly, spread, np.float32(1))
    return op.divide(op.subtract(found, mean), op.sqrt(lacking)).output(0)
