"""Running a network: OpenVINO on CPUs, torch where a GPU is asked for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, UInt8
from pydantic import Field

from fewlabel.errors import ModelFolderError
from fewlabel.patches import tile_starts, tile_weights
from fewlabel.settings import Settings, check_settings
from fewlabel.shares import Shares

Index = tuple[int, int, int]
Run = Callable[[Float32[np.ndarray, "i j k"]], UInt8[np.ndarray, "classes i j k"] | Shares]

OVERLAP = 0.25
"""Least share of a window that the next one sees again."""


class Compute(Settings):
    """What a network runs on."""

    threads: int | None = Field(default=None, ge=1)
    """CPU threads; None leaves it to OpenVINO, which takes one per core."""
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["fast", "exact"] = "fast"
    """`fast` takes 16-bit numbers where the processor has them, `exact` always 32-bit."""
    max_memory_gb: float | None = Field(default=None, gt=0)
    """What a process may take, in GB (10^9 bytes): large networks then look at parts of a scan."""


def compute_of(
    threads: int | None, device: str, precision: str, max_memory_gb: float | None = None
) -> Compute:
    """What a network shall run on, as a user asked for it.

    Raises:
        ConfigError: If a value is out of range.
    """
    asked = {
        "threads": threads,
        "device": device,
        "precision": precision,
        "max_memory_gb": max_memory_gb,
    }
    return check_settings(asked, Compute, "segment")


@dataclass(frozen=True)
class Engine:
    """A network, ready to run.

    Attributes:
        run: From intensities on the network's field to the probability of each class there,
            in steps of 1/255: 33 classes of 2.6 million voxels take 87 MB instead of 346.
        means: What it runs on, for the record, such as "OpenVINO 2026.4, bf16".
        window: Voxels that it looks at at once; None: the whole field.
    """

    run: Run
    means: str
    window: Index | None = None


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
    compiled = core.compile_model(with_shares(network, logits), "CPU", cpu_settings(compute))
    request = compiled.create_infer_request()

    def run(image: Float32[np.ndarray, "i j k"]) -> UInt8[np.ndarray, "classes i j k"]:
        request.infer([np.ascontiguousarray(image)[None, None]], share_inputs=True)
        shares: np.ndarray = request.get_output_tensor(0).data[0].copy()
        return shares

    precision = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    return Engine(run, f"OpenVINO {openvino.__version__.split('-')[0]}, {precision}")


def cpu_settings(compute: Compute) -> dict[str, Any]:
    """What OpenVINO is told when it compiles a network that shall answer soon."""
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if compute.threads:
        settings["INFERENCE_NUM_THREADS"] = compute.threads
    if compute.precision == "exact":
        settings["INFERENCE_PRECISION_HINT"] = "f32"
    return settings


def in_windows(run: Run, window: Index) -> Run:
    """The same for larger images: window by window, put together by weighted means.

    A network that was trained on patches expects the means and spreads of patches, which its
    instance norms divide by; those of a whole field, with more air in it, are others.

    Args:
        run: Takes images of the window's size.
        window: Voxels; no larger than the images.
    """
    weights = tile_weights(window)

    def whole(image: Float32[np.ndarray, "i j k"]) -> UInt8[np.ndarray, "classes i j k"]:
        starts = (tile_starts(*pair, OVERLAP) for pair in zip(image.shape, window, strict=True))
        tiles = [
            tuple(slice(first, first + n) for first, n in zip(start, window, strict=True))
            for start in product(*starts)
        ]
        total = np.zeros(image.shape, dtype=np.float32)
        for tile in tiles:
            total[tile] += weights
        shares: np.ndarray | None = None
        for tile in tiles:
            seen = run(image[tile])
            if shares is None:
                shares = np.zeros((len(seen), *image.shape), dtype=np.uint8)
            counts = weights / total[tile]
            for mean, share in zip(shares, seen, strict=True):
                if share.any():
                    _add(mean[tile], share, counts)
        assert shares is not None
        return shares

    return whole


def _add(
    mean: UInt8[np.ndarray, "i j k"],
    share: UInt8[np.ndarray, "i j k"],
    counts: Float32[np.ndarray, "i j k"],
) -> None:
    """Add a part of a mean in place; rounding several parts up must not pass 255."""
    part = np.rint(share * counts).astype(np.uint8)
    np.minimum(part, 255 - mean, out=part)
    mean += part


def with_shares(network: Any, logits: Any, inputs: Sequence[Any] | None = None) -> Any:
    """The network up to `logits`, then probabilities from 0 to 255: in the graph, as it is fast.

    Args:
        network: Of OpenVINO.
        logits: An output within it.
        inputs: Other parameters than those of the network.
    """
    import openvino
    from openvino import opset13 as op

    scaled = op.multiply(op.softmax(logits, 1), op.constant(np.float32(255)))
    shares = op.convert(op.round(scaled, "half_to_even"), "u8")
    inputs = inputs or network.get_parameters()
    return openvino.Model([op.result(shares)], inputs, "shares")


def last_line(problem: Exception) -> str:
    """What an exception of OpenVINO, which tells its whole stack, comes down to."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(problem).__name__
