"""Running a network: OpenVINO on CPUs, torch where a GPU is asked for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32
from pydantic import Field

from fewlabel.settings import Settings, check_settings
from fewlabel.shares import Probabilities
from fewlabel.style import Offsets

Index = tuple[int, int, int]

AGE = "age_weeks"
"""Name of the output of networks that tell the age."""


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


def with_shares(network: Any, logits: Any, inputs: Sequence[Any] | None = None) -> Any:
    """The network up to `logits`, then probabilities from 0 to 255: in the graph, as it is fast.

    Args:
        network: Of OpenVINO.
        logits: An output within it.
        inputs: Other parameters than those of the network.
    """
    from fewlabel.ov import op, openvino

    scaled = op.multiply(op.softmax(logits, 1), op.constant(np.float32(255)))
    shares = op.convert(op.round(scaled, "half_to_even"), "u8")
    inputs = inputs or network.get_parameters()
    return openvino.Model([op.result(shares)], inputs, "shares")


def last_line(problem: Exception) -> str:
    """What an exception of OpenVINO, which tells its whole stack, comes down to."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(problem).__name__
