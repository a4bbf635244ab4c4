"""A network as an ONNX file, its weights in 16 or 8 bits."""

import tempfile
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from jaxtyping import Float, Float32, Int8
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from fewlabel.engine import AGE, Compute, cpu_settings

Bits = Literal[8, 16]

_SMALLEST_PACKED = 16  # weights; fewer are not worth a node that casts them
_SMALLEST_IN_8 = 4096


class InOrder(nn.Module):
    """A network whose outputs are a tuple, in the order of its heads; the age comes last."""

    def __init__(self, network: nn.Module, heads: tuple[str, ...], *, age: bool = False) -> None:
        super().__init__()
        self.network, self.outputs = network, (*heads, AGE) if age else heads

    def forward(self, image: Float[Tensor, "b c *voxels"]) -> tuple[Tensor, ...]:
        """Logits of each head, and ages in weeks, shape (b,), if they are told."""
        found = self.network(image)
        if isinstance(found, Tensor):
            return (found,)
        if isinstance(found, Mapping):
            return tuple(found[name] for name in self.outputs)
        return tuple(found)


def to_onnx(
    network: nn.Module,
    heads: tuple[str, ...],
    multiple: int,
    channels: int = 1,
    dimensions: Literal[2, 3] = 3,
    *,
    age: bool = False,
) -> bytes:
    """A network as an ONNX file: input "image", outputs "logits_<head>", any size.

    Args:
        network: In evaluation mode, on the CPU.
        heads: Names of its outputs.
        multiple: What sizes must be divisible by.
        channels: Of the image.
        dimensions: 2 for networks of slices.
        age: It tells the age: one more output, "age_weeks".
    """
    names = [f"logits_{head}" for head in heads]
    axes = dict(zip(range(2, 2 + dimensions), ("i", "j", "k"), strict=False))
    example = torch.zeros(1, channels, *(2 * multiple, 3 * multiple, 2 * multiple)[:dimensions])
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # The exporter that traces is deprecated, but the new one cannot tell that skip
        # connections fit for every size that is a multiple.
        warnings.simplefilter("ignore")
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            InOrder(network, heads, age=age).eval(),
            (example,),
            path,
            input_names=["image"],
            output_names=[*names, AGE] if age else names,
            dynamic_axes=dict.fromkeys(("image", *names), axes),
            opset_version=17,
            dynamo=False,
        )
        return path.read_bytes()


def round_weights(network: nn.Module, bits: Bits) -> None:
    """Round the weights of a network, in place, to those that `pack` will store."""
    for weight in network.parameters():
        values = weight.detach().numpy()
        if _in_8(values, bits):
            whole, scale = _quantized(values)
            weight.data = torch.from_numpy(whole * _along_first(scale, values.ndim))
        else:
            weight.data = weight.data.half().float()


def pack(content: bytes, bits: Bits = 16) -> bytes:
    """Store the weights of an ONNX file in few bits; they become 32 bits when it is run.

    Args:
        content: The file.
        bits: 16, or 8 for large weights, with a scale for each output channel of their own.
    """
    model: Any = onnx.load_from_string(content)
    graph, before, scales = model.graph, [], []
    for weight in graph.initializer:
        values = numpy_helper.to_array(weight)
        if weight.data_type != TensorProto.FLOAT or values.size < _SMALLEST_PACKED:
            continue
        name = weight.name
        packed = f"{name}.packed"
        if _in_8(values, bits):
            whole, scale = _quantized(values)
            weight.CopyFrom(numpy_helper.from_array(whole, packed))
            scales.append(numpy_helper.from_array(scale, f"{name}.scale"))
            inputs = [packed, f"{name}.scale"]
            before.append(helper.make_node("DequantizeLinear", inputs, [name], axis=0))
        else:
            weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), packed))
            before.append(helper.make_node("Cast", [packed], [name], to=TensorProto.FLOAT))
    nodes = [*before, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(scales)
    onnx.checker.check_model(model)
    stored: bytes = model.SerializeToString()
    return stored


def differences(
    content: bytes, exact: InOrder, rounded: InOrder, images: Iterable[Float[Tensor, "..."]]
) -> tuple[float, float, float]:
    """How far apart the outputs of three versions of a network are at most.

    Args:
        content: The ONNX file, made from `rounded`.
        exact: The network.
        rounded: The network with its weights as they are stored.
        images: What to look at.

    Returns:
        Largest difference of ONNX and `rounded`, and of `rounded` and `exact`; largest output.
    """
    from fewlabel.ov import openvino

    core, settings = openvino.Core(), cpu_settings(Compute(precision="exact"))
    compiled = core.compile_model(core.read_model(content, b""), "CPU", settings)
    by_onnx = by_rounding = largest = 0.0
    for image in images:
        found = compiled([image.numpy()])
        with torch.inference_mode():
            before, after = exact(image), rounded(image)
        for number, (one, other) in enumerate(zip(before, after, strict=True)):
            by_onnx = max(by_onnx, float(np.abs(found[number] - other.numpy()).max()))
            by_rounding = max(by_rounding, float((one - other).abs().max()))
            largest = max(largest, float(other.abs().max()))
    return by_onnx, by_rounding, largest


def _in_8(values: np.ndarray, bits: Bits) -> bool:
    return bits == 8 and values.ndim > 1 and values.size >= _SMALLEST_IN_8


def _quantized(values: np.ndarray) -> tuple[Int8[np.ndarray, "..."], Float32[np.ndarray, "n"]]:
    """Whole numbers from -127 to 127, and what they are multiples of in each output channel."""
    largest = np.abs(values).reshape(len(values), -1).max(axis=1)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.rint(values / _along_first(scale, values.ndim)).astype(np.int8), scale


def _along_first(scale: np.ndarray, dimensions: int) -> np.ndarray:
    return scale.reshape(-1, *(1,) * (dimensions - 1))
