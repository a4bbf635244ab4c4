"""Running a network: OpenVINO on CPUs, torch where a GPU is asked for."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32, UInt8
from pydantic import Field

from fewlabel.errors import ModelFolderError
from fewlabel.settings import Settings, check_settings

Index = tuple[int, int, int]
Run = Callable[[Float32[np.ndarray, "i j k"]], UInt8[np.ndarray, "classes i j k"]]


class Compute(Settings):
    """What a network runs on."""

    threads: int | None = Field(default=None, ge=1)
    """CPU threads; None leaves it to OpenVINO, which takes one per core."""
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["fast", "exact"] = "fast"
    """`fast` takes 16-bit numbers where the processor has them, `exact` always 32-bit."""


def compute_of(threads: int | None, device: str, precision: str) -> Compute:
    """What a network shall run on, as a user asked for it.

    Raises:
        ConfigError: If a value is out of range.
    """
    asked = {"threads": threads, "device": device, "precision": precision}
    return check_settings(asked, Compute, "segment")


@dataclass(frozen=True)
class Engine:
    """A network, ready to run.

    Attributes:
        run: From intensities on the network's field to the probability of each class there,
            in steps of 1/255: 33 classes of 2.6 million voxels take 87 MB instead of 346.
        means: What it runs on, for the record, such as "OpenVINO 2026.4, bf16".
    """

    run: Run
    means: str


def cpu_engine(onnx: Path, head: str, shape: Index, compute: Compute) -> Engine:
    """An ONNX file on the CPU.

    Args:
        onnx: Has the input "image" (1, 1, i, j, k) and the output "logits_<head>"
            (1, classes, i, j, k).
        head: Which output.
        shape: Voxels of the field.
        compute: Threads and precision.

    Raises:
        ModelFolderError: If the file is no such network.
    """
    import openvino

    core = openvino.Core()
    try:
        network = core.read_model(onnx)
        network.reshape({"image": [1, 1, *shape]})
        logits = network.output(f"logits_{head}").get_node().input_value(0)
    except RuntimeError as problem:
        raise ModelFolderError(
            f"{onnx} is not a network with the input 'image' and the output 'logits_{head}':"
            f" {last_line(problem)}.",
            fix="export it again with `fewlabel export`.",
        ) from None
    settings: dict[str, object] = {"PERFORMANCE_HINT": "LATENCY"}
    if compute.threads:
        settings["INFERENCE_NUM_THREADS"] = compute.threads
    if compute.precision == "exact":
        settings["INFERENCE_PRECISION_HINT"] = "f32"
    compiled = core.compile_model(with_shares(network, logits), "CPU", settings)
    request = compiled.create_infer_request()

    def run(image: Float32[np.ndarray, "i j k"]) -> UInt8[np.ndarray, "classes i j k"]:
        request.infer([np.ascontiguousarray(image)[None, None]], share_inputs=True)
        shares: np.ndarray = request.get_output_tensor(0).data[0].copy()
        return shares

    precision = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    return Engine(run, f"OpenVINO {openvino.__version__.split('-')[0]}, {precision}")


def with_shares(network: object, logits: object) -> object:
    """The network up to `logits`, then probabilities from 0 to 255: in the graph, as it is fast."""
    import openvino
    from openvino import opset13 as op

    scaled = op.multiply(op.softmax(logits, 1), op.constant(np.float32(255)))
    shares = op.convert(op.round(scaled, "half_to_even"), "u8")
    return openvino.Model([op.result(shares)], network.get_parameters(), "shares")  # type: ignore[attr-defined]


def last_line(problem: Exception) -> str:
    """What an exception of OpenVINO, which tells its whole stack, comes down to."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(problem).__name__
