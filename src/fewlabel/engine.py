"""Running a network: OpenVINO on CPUs, torch where a GPU is asked for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, UInt8
from pydantic import Field

from fewlabel.engine_norms import steady
from fewlabel.errors import ModelFolderError
from fewlabel.patches import tile_starts, tile_weights
from fewlabel.settings import Settings, check_settings
from fewlabel.shares import Probabilities
from fewlabel.style import Offsets

Index = tuple[int, int, int]

AGE = "age_weeks"
"""Name of the output of networks that tell the age."""
OVERLAP = 0.25
"""Least share of a window that the next one sees again."""


@dataclass(frozen=True, eq=False)
class Answer:
    """What a network says of an image.

    Attributes:
        shares: The probability of each class, in steps of 1/255: 33 classes of 2.6 million
            voxels take 87 MB instead of 346.
        age_weeks: At the scan, if the network tells it.
    """

    shares: Probabilities
    age_weeks: float | None = None


Run = Callable[[Float32[np.ndarray, "channels i j k"]], Answer]


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
        run: From intensities on the network's field to what it says of them.
        means: What it runs on, for the record, such as "OpenVINO 2026.4, bf16".
        window: Voxels that it looks at at once; None: the whole field.
        channels: Of its images.
        tells_age: Whether its answers have an age.
    """

    run: Run
    means: str
    window: Index | None = None
    channels: int = 1
    tells_age: bool = False


class MeanAge:
    """The age that windows tell on average, each counted by the labeled tissue in it.

    Source:
        richter2022, AgeU-Net. Departs from it: there all windows count alike, also those that
        show nothing but air.
    """

    def __init__(self) -> None:
        self._sum = self._tissue = 0.0

    def add(self, age_weeks: float | None, shares: Probabilities) -> None:
        """Take in a window, or some planes of one."""
        if age_weeks is not None:
            air = shares[0]
            tissue = 255.0 * air.size - float(air.sum(dtype=np.int64))
            self._sum += age_weeks * tissue
            self._tissue += tissue

    @property
    def weeks(self) -> float | None:
        """The mean; None if no window told an age or saw any tissue."""
        return self._sum / self._tissue if self._tissue else None


def cpu_engine(
    onnx: Path, head: str, shape: Index, compute: Compute, offsets: Offsets | None = None
) -> Engine:
    """An ONNX file on the CPU.

    Args:
        onnx: Has the input "image" (1, channels, i, j, k), the output "logits_<head>"
            (1, classes, i, j, k), and perhaps "age_weeks" (1,).
        head: Which output.
        shape: Voxels of the field.
        compute: Threads and precision.
        offsets: Added to the logits.

    Raises:
        ModelFolderError: If the file is no such network.
    """
    from fewlabel.ov import openvino

    core = openvino.Core()
    try:
        network = core.read_model(onnx)
        channels = channels_of(network)
        network.reshape({"image": [1, channels, *shape]})
        logits = logits_of(network, head, offsets)
    except RuntimeError as problem:
        raise ModelFolderError(
            f"{onnx} is not a network with the input 'image' and the output 'logits_{head}':"
            f" {last_line(problem)}.",
            fix="export it again with `fewlabel export`.",
        ) from None
    steady(network)
    ages = ages_of(network)
    whole = with_shares(network, logits, also=ages)
    compiled = core.compile_model(whole, "CPU", cpu_settings(compute))
    request = compiled.create_infer_request()

    def run(image: Float32[np.ndarray, "channels i j k"]) -> Answer:
        request.infer([np.ascontiguousarray(image)[None]], share_inputs=True)
        shares: np.ndarray = request.get_output_tensor(0).data[0].copy()
        return Answer(shares, age_in(request) if ages else None)

    precision = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    means = f"OpenVINO {openvino.__version__.split('-')[0]}, {precision}"
    return Engine(run, means, channels=channels, tells_age=bool(ages))


def logits_of(network: Any, head: str, offsets: Offsets | None = None) -> Any:
    """The logits of a head of a network of OpenVINO, with something added to those of each class.

    Raises:
        RuntimeError: If there is no such head.
    """
    from fewlabel.ov import op

    logits = network.output(f"logits_{head}").get_node().input_value(0)
    if offsets is None:
        return logits
    dimensions = logits.get_partial_shape().rank.get_length()
    return op.add(logits, op.constant(offsets.reshape(1, -1, *[1] * (dimensions - 2)))).output(0)


def channels_of(network: Any) -> int:
    """Channels of the images that a network of OpenVINO looks at."""
    return int(network.input("image").get_partial_shape()[1].get_length())


def ages_of(network: Any) -> list[Any]:
    """What the age of a network of OpenVINO comes from; empty if it tells none."""
    told = [output for output in network.outputs if AGE in output.get_names()]
    return [output.get_node().input_value(0) for output in told]


def age_in(request: Any) -> float:
    """The age in weeks that a request has found, as the last output."""
    return float(request.output_tensors[-1].data.ravel()[0])


def cpu_settings(compute: Compute) -> dict[str, Any]:
    """What OpenVINO is told when it compiles a network that shall answer soon.

    Its threads are not tied to cores: those of two processes would be tied to the same ones.
    """
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False}
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

    def whole(image: Float32[np.ndarray, "channels i j k"]) -> Answer:
        field = image.shape[1:]
        starts = (tile_starts(*pair, OVERLAP) for pair in zip(field, window, strict=True))
        tiles = [
            tuple(slice(first, first + n) for first, n in zip(start, window, strict=True))
            for start in product(*starts)
        ]
        total = np.zeros(field, dtype=np.float32)
        for tile in tiles:
            total[tile] += weights
        shares: np.ndarray | None = None
        ages = MeanAge()
        for tile in tiles:
            answer = run(image[:, *tile])
            seen = answer.shares
            ages.add(answer.age_weeks, seen)
            if shares is None:
                shares = np.zeros((len(seen), *field), dtype=np.uint8)
            counts = weights / total[tile]
            for mean, share in zip(shares, seen, strict=True):
                if share.any():
                    _add(mean[tile], share, counts)
        assert shares is not None
        return Answer(shares, ages.weeks)

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


def with_shares(
    network: Any, logits: Any, inputs: Sequence[Any] | None = None, also: Sequence[Any] = ()
) -> Any:
    """The network up to `logits`, then probabilities from 0 to 255: in the graph, as it is fast.

    Args:
        network: Of OpenVINO.
        logits: An output within it.
        inputs: Other parameters than those of the network.
        also: Further outputs to give, as they are.
    """
    from fewlabel.ov import op, openvino

    scaled = op.multiply(op.softmax(logits, 1), op.constant(np.float32(255)))
    shares = op.convert(op.round(scaled, "half_to_even"), "u8")
    inputs = inputs or network.get_parameters()
    return openvino.Model([op.result(one) for one in (shares, *also)], inputs, "shares")


def last_line(problem: Exception) -> str:
    """What an exception of OpenVINO, which tells its whole stack, comes down to."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(problem).__name__
