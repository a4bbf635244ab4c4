"""A network in parts: what needs a whole image, and last layers, for a few voxels at a time."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from fewlabel.engine import (
    Compute,
    ages_of,
    channels_of,
    cpu_settings,
    last_line,
    logits_of,
    with_shares,
)
from fewlabel.engine_compiled import Compiled, settings_of
from fewlabel.engine_fine import Fine, fine_model, fine_part
from fewlabel.engine_fold import fold
from fewlabel.engine_norms import steady
from fewlabel.errors import ModelFolderError
from fewlabel.shares import Index
from fewlabel.style import Offsets

_AT_ONCE_BYTES = 4e6
"""Of logits and what is made of them; more does not fit a processor's own memory."""


@dataclass(frozen=True)
class Cut:
    """A network and where to cut it.

    Attributes:
        network: Of OpenVINO.
        layer: Name of the last layer; None if that looks at more than one voxel, so that nothing
            but the softmax can be computed by itself.
        head: Which output.
        fine: What can be computed plane by plane before the last layer, if anything.
        offsets: Added to the logits.
    """

    network: Any
    layer: str | None
    head: str
    fine: Fine | None
    offsets: Offsets | None = None

    @property
    def channels(self) -> int:
        """Of its images."""
        return channels_of(self.network)

    def features(self, network: Any) -> Any:
        """What the last layer looks at, in this network or a copy of it; or else the logits."""
        if self.layer is None:
            return self.logits(network)
        return _layer(network, self.layer).input_value(0)

    def ends(self, network: Any) -> list[Any]:
        """What a whole image is needed for: features, or the maps at half the resolution."""
        if self.fine is None:
            return [self.features(network)]
        return [_layer(network, one.layer).input_value(0) for one in self.fine.coarse]

    def logits(self, network: Any) -> Any:
        """The last layer's output in this network or a copy of it."""
        return logits_of(network, self.head, self.offsets)


def split(core: Any, onnx: Path, head: str, offsets: Offsets | None = None) -> Cut:
    """Where to cut.

    Args:
        core: Of OpenVINO.
        onnx: Has the input "image" (1, channels, i, j, k), the output "logits_<head>"
            (1, classes, i, j, k), and perhaps "age_weeks" (1,).
        head: Which output.
        offsets: Added to the logits.

    Raises:
        ModelFolderError: If the file is no such network.
    """
    try:
        network = core.read_model(onnx)
        channels_of(network)
        node = logits_of(network, head).get_node()
    except RuntimeError as problem:
        raise ModelFolderError(
            f"{onnx} is not a network with the input 'image' and the output 'logits_{head}':"
            f" {last_line(problem)}.",
            fix="export it again with `fewlabel export`.",
        ) from None
    if node.get_type_name() == "Add":
        node = node.input_value(0).get_node()
    if node.get_type_name() != "Convolution" or _edges(node) != {1}:
        return Cut(network, None, head, None, offsets)
    return Cut(network, node.get_friendly_name(), head, fine_part(node.input_value(0)), offsets)


def _edges(convolution: Any) -> set[int]:
    return set(list(convolution.input_value(1).get_shape())[2:])


def compile_parts(core: Any, cut: Cut, window: Index, compute: Compute) -> Compiled:
    """All parts.

    Args:
        core: Of OpenVINO.
        cut: The network.
        window: Voxels of the images that the body gets.
        compute: Threads and precision.
    """
    kind = np.float32 if compute.precision == "exact" else np.float16
    settings = settings_of(compute)
    body = core.compile_model(_body(cut, window, kind), "CPU", settings["body"])
    head = core.compile_model(_head(core, cut, kind), "CPU", settings["head"])
    planes = None
    if cut.fine is not None:
        network = cut.network.clone()
        model = fine_model(network, cut.features(network), cut.fine, window, kind)
        planes = core.compile_model(model, "CPU", settings["planes"])
    return Compiled(body, head, planes, cut.fine)


def _body(cut: Cut, window: Index, kind: type) -> Any:
    """What needs a whole image, as a network of its own."""
    from fewlabel.ov import op, openvino

    body = cut.network.clone()
    body.reshape({"image": [1, cut.channels, *window]})
    steady(body)
    name = np.dtype(kind).name.replace("float", "f")
    maps = [op.convert(one, name).output(0) for one in cut.ends(body)]
    ends = [op.result(one) for one in (*maps, *ages_of(body))]
    body = openvino.Model(ends, body.get_parameters(), "body")
    fold(body)
    return body


def _head(core: Any, cut: Cut, kind: type) -> Any:
    """The last layer and the softmax, as a network of its own that looks at some voxels.

    As a product of matrices: features stay in the order in which they come.
    """
    from fewlabel.ov import op

    n_classes = int(logits_of(cut.network, cut.head).get_partial_shape()[1].get_length())
    layer = _affine(core, cut, cut.layer) if cut.layer else None
    channels = layer[0].shape[1] if layer else n_classes
    voxels = max(1024, int(_AT_ONCE_BYTES / 12 / n_classes))
    features = op.parameter([1, channels, voxels], np.dtype(kind), name="features")
    logits = op.convert(features, "f32")
    if layer:
        weight, added = layer
        product = op.matmul(op.constant(weight), logits, False, False)
        logits = op.add(product, op.constant(added[:, None]))
    return with_shares(cut.network, logits.output(0), [features])


def _affine(
    core: Any, cut: Cut, name: str
) -> tuple[Float32[np.ndarray, "classes channels"], Float32[np.ndarray, "classes"]]:
    """The weights of the last layer, and what it says of features that are all 0."""
    from fewlabel.ov import op, openvino

    network = cut.network.clone()
    layer = _layer(network, name)
    channels = layer.input_value(1).get_partial_shape()[1].get_length()
    nothing = op.parameter([1, channels, 1, 1, 1], np.float32)
    layer.input(0).replace_source_output(nothing.output(0))
    ends = [op.result(one) for one in (layer.input_value(1), cut.logits(network))]
    exact = cpu_settings(Compute(threads=1, precision="exact"))
    asked = core.compile_model(openvino.Model(ends, [nothing], "last"), "CPU", exact)
    weight, added = asked([np.zeros((1, channels, 1, 1, 1), np.float32)]).to_tuple()
    return weight.reshape(-1, channels).copy(), added.ravel().copy()


def _layer(network: Any, name: str) -> Any:
    return next(node for node in network.get_ops() if node.get_friendly_name() == name)
