"""A network in parts: what needs a whole image, and last layers, for a few voxels at a time."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Shaped, UInt8

from fewlabel.engine import (
    Compute,
    age_in,
    ages_of,
    channels_of,
    cpu_settings,
    last_line,
    logits_of,
    with_shares,
)
from fewlabel.engine_fine import Fine, FineFeatures, FinePlanes, Maps, fine_model, fine_part
from fewlabel.engine_fold import fold
from fewlabel.engine_norms import steady
from fewlabel.engine_windows import Features, Head, Parts
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

    @property
    def tells_age(self) -> bool:
        """Whether it has an age among its outputs."""
        return bool(ages_of(self.network))

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


def compiled_parts(core: Any, cut: Cut, window: Index, compute: Compute, *, alone: bool) -> Parts:
    """All parts, ready to run.

    Args:
        core: Of OpenVINO.
        cut: The network.
        window: Voxels of the images that the body gets.
        compute: Threads and precision.
        alone: Features of one image are not needed any more when the next one is looked at.
    """
    from fewlabel.ov import op, openvino

    kind = np.float32 if compute.precision == "exact" else np.float16
    settings = cpu_settings(compute)
    body = cut.network.clone()
    body.reshape({"image": [1, cut.channels, *window]})
    steady(body)
    ages = ages_of(body)
    name = np.dtype(kind).name.replace("float", "f")
    maps = [op.convert(one, name).output(0) for one in cut.ends(body)]
    ends = [op.result(one) for one in (*maps, *ages)]
    body = openvino.Model(ends, body.get_parameters(), "body")
    fold(body)
    compiled = core.compile_model(body, "CPU", settings)
    request = compiled.create_infer_request()
    exact = compute.model_copy(update={"precision": "exact"})
    head, n_classes = _head(core, cut, kind, cpu_settings(exact))
    planes = _planes(core, cut, window, kind, settings)

    def run_body(image: Float32[np.ndarray, "channels i j k"]) -> tuple[Features, float | None]:
        request.infer([np.ascontiguousarray(image)[None]], share_inputs=True)
        found: list[Maps] = [one.data[0] for one in request.output_tensors[: len(maps)]]
        found = found if alone else [one.copy() for one in found]
        age = age_in(request) if ages else None
        if planes is not None:
            return FineFeatures(planes, image, found), age
        return lambda begin, end: found[0][:, begin:end], age

    precision = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    version = openvino.__version__.split("-")[0]
    return Parts(run_body, head, n_classes, f"OpenVINO {version}, {precision}")


def _planes(
    core: Any, cut: Cut, window: Index, kind: type, settings: dict[str, Any]
) -> FinePlanes | None:
    if cut.fine is None:
        return None
    network = cut.network.clone()
    model, length = fine_model(network, cut.features(network), cut.fine, window, kind)
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    return FinePlanes(request, cut.fine, length)


def _head(core: Any, cut: Cut, kind: type, settings: dict[str, Any]) -> tuple[Head, int]:
    """The last layer and the softmax, and the number of classes.

    As a product of matrices: features stay in the order in which they come. In 32 bits, as 16 make
    logits equal where two classes compete.
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
    model = with_shares(cut.network, logits.output(0), [features])
    per_voxel = core.compile_model(model, "CPU", settings).create_infer_request()

    def run(some: Shaped[np.ndarray, "c voxels"]) -> UInt8[np.ndarray, "classes voxels"]:
        shares = np.empty((n_classes, some.shape[1]), dtype=np.uint8)
        chunk: np.ndarray = np.zeros((1, len(some), voxels), dtype=kind)
        for begin in range(0, some.shape[1], voxels):
            here = some[:, begin : begin + voxels]
            chunk[0, :, : here.shape[1]] = here
            per_voxel.infer([chunk], share_inputs=True)
            answer = per_voxel.get_output_tensor(0).data[0]
            shares[:, begin : begin + voxels] = answer[:, : here.shape[1]]
        return shares

    return run, n_classes


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
