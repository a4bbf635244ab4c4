"""A transposed convolution and the convolution after it, computed as one.

The layer at full resolution of a U-Net with `fine` makes 2 x 2 x 2 voxels of each coarse one, then
looks at 3 x 3 x 3 of them and at the image beside them. Both steps are linear: together they are a
transposed convolution of 4 x 4 x 4 weights, 8 of which meet in a voxel instead of 27, and a
convolution of the image alone. That is a third of the work, and spares the maps in between.

So it is on x86, where large transposed convolutions are as quick as others. Elsewhere, where
OpenVINO may have none that are, networks stay as they are.
"""

import platform
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32

_LARGE = 50_000
"""Voxels from which on it pays: preparing the weights takes time, too."""
_MEASURED_ON = {"x86_64", "amd64"}


def fold(network: Any) -> None:
    """Fold such pairs of layers in a network of OpenVINO, whose shapes are known."""
    if platform.machine().lower() not in _MEASURED_ON:
        return
    for node in list(network.get_ordered_ops()):
        if node.get_type_name() != "Convolution" or not _is(node, edge=3, stride=1, pad=1):
            continue
        shape = node.get_output_partial_shape(0)
        if shape.is_static and np.prod(shape.to_shape()[2:]) >= _LARGE:
            better = _folded(node)
            if better is not None:
                for reader in list(node.output(0).get_target_inputs()):
                    reader.replace_source_output(better)


def _folded(layer: Any) -> Any:
    """What gives the same as a convolution, or None if it is not one of those."""
    from fewlabel.ov import op

    beside = layer.input_value(0).get_node()
    if beside.get_type_name() != "Concat" or beside.get_attributes()["axis"] != 1:
        return None
    parts, weights = beside.input_values(), _constant(layer.input_value(1))
    counts = [part.get_partial_shape()[1] for part in parts]
    ups = [n for n, part in enumerate(parts) if doubles(part.get_node())]
    if weights is None or len(ups) != 1 or any(count.is_dynamic for count in counts):
        return None
    ends = np.cumsum([count.get_length() for count in counts])
    begin = np.concatenate([[0], ends])[ups[0]]
    up = parts[ups[0]].get_node()
    spread = _constant(up.input_value(1))
    if spread is None or len(parts) == 1:
        return None
    of_maps = np.zeros(len(weights[0]), dtype=bool)
    of_maps[begin : ends[ups[0]]] = True
    kernel = together(spread, weights[:, of_maps])
    maps = op.convolution_backprop_data(
        up.input_value(0), op.constant(kernel), [2] * 3, pads_begin=[1] * 3, pads_end=[1] * 3,
        dilations=[1] * 3,
    )  # fmt: skip
    rest = [part for n, part in enumerate(parts) if n != ups[0]]
    image = rest[0] if len(rest) == 1 else op.concat(rest, 1).output(0)
    of_image = op.constant(np.ascontiguousarray(weights[:, ~of_maps]))
    seen = op.convolution(image, of_image, [1] * 3, [1] * 3, [1] * 3, [1] * 3)
    return op.add(maps, seen).output(0)


def together(
    spread: Float32[np.ndarray, "c m 2 2 2"], weights: Float32[np.ndarray, "d m 3 3 3"]
) -> Float32[np.ndarray, "c d 4 4 4"]:
    """Weights of one transposed convolution that does what two layers do.

    Args:
        spread: Of a transposed convolution, from coarse voxels to 2 x 2 x 2 each.
        weights: Of the convolution after it, with a rim of zeros.
    """
    kernel = np.zeros((len(spread), len(weights), 4, 4, 4), dtype=np.float32)
    for corner in np.ndindex(2, 2, 2):
        for offset in np.ndindex(3, 3, 3):
            # Voxel 2c + corner adds to voxel 2c + corner - offset + 1, which is place `to` of c.
            to = tuple(c - o + 2 for c, o in zip(corner, offset, strict=True))
            here, there = (slice(None), slice(None), *corner), (slice(None), slice(None), *offset)
            kernel[(slice(None), slice(None), *to)] += spread[here] @ weights[there].T
    return kernel


def doubles(node: Any) -> bool:
    """Whether a node makes 2 x 2 x 2 voxels of each."""
    return node.get_type_name() == "ConvolutionBackpropData" and _is(node, edge=2, stride=2, pad=0)


def _is(node: Any, *, edge: int, stride: int, pad: int) -> bool:
    about, shape = node.get_attributes(), node.input_value(1).get_partial_shape()
    if shape.is_dynamic or shape.to_shape()[2:] != [edge] * 3:
        return False
    return bool(
        _all(about["strides"], stride)
        and _all(about["dilations"], 1)
        and _all(about["pads_begin"], pad)
        and _all(about["pads_end"], pad)
        and about.get("auto_pad", "explicit") == "explicit"
        and _all(about.get("output_padding", ()), 0)
    )


def _all(values: Sequence[int], wanted: int) -> bool:
    return all(value == wanted for value in values)


def _constant(output: Any) -> Float32[np.ndarray, "..."] | None:
    """The numbers of a constant, which may be stored in 16 bits; None if it is none."""
    node = output.get_node()
    if node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    if node.get_type_name() != "Constant":
        return None
    found: np.ndarray = node.get_data().astype(np.float32)
    return found
