"""Running a network of slices on the CPU: one three-slice image at a time, several at once."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from fewlabel.engine import Compute, last_line, logits_of, with_shares
from fewlabel.errors import ModelFolderError
from fewlabel.grid import Grid
from fewlabel.slices import SliceRule, Volumes, stray_regions, three_slices
from fewlabel.style import Offsets

Shares = UInt8[np.ndarray, "classes i j k"]


class SliceEngine:
    """An ONNX file whose input "image" is (1, 3, h, w), shades from 0 to 255.

    Args:
        onnx: The file; its output "logits_<head>" is (1, classes, h, w).
        head: Which output.
        compute: Threads and precision.
        offsets: Added to the logits.

    Attributes:
        means: What it runs on, for the record; known once it has run.

    Raises:
        ModelFolderError: If the file is no such network.
    """

    def __init__(
        self, onnx: Path, head: str, compute: Compute, offsets: Offsets | None = None
    ) -> None:
        from fewlabel.ov import openvino

        self._core: Any = openvino.Core()
        try:
            network = self._core.read_model(onnx)
            logits = logits_of(network, head, offsets)
            network.reshape({"image": [1, 3, -1, -1]})
        except RuntimeError as problem:
            raise ModelFolderError(
                f"{onnx} is not a network of slices with the input 'image' and the output"
                f" 'logits_{head}': {last_line(problem)}.",
                fix="export it again with `fewlabel export`.",
            ) from None
        self._network: Any = with_shares(network, logits)
        self._settings: dict[str, Any] = {"PERFORMANCE_HINT": "THROUGHPUT"}
        if compute.threads:
            self._settings["INFERENCE_NUM_THREADS"] = compute.threads
        if compute.precision == "exact":
            self._settings["INFERENCE_PRECISION_HINT"] = "f32"
        self._version = openvino.__version__.split("-")[0]
        self._compiled: dict[tuple[int, ...], Any] = {}
        self.means = f"OpenVINO {self._version}"

    def run(self, volumes: Volumes, rule: SliceRule, axis: int) -> Shares:
        """The probability of each class in every slice, in steps of 1/255.

        Args:
            volumes: Shades, as `slices.prepare` gives them.
            rule: What the channels show.
            axis: Along which slices are counted.
        """
        shape = next(iter(volumes.values())).shape
        compiled = self._compile(shape[:axis] + shape[axis + 1 :])
        # Requests that are waited for in turn: callbacks into Python can deadlock when a
        # compiled network is given up.
        at_once = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        requests = [compiled.create_infer_request() for _ in range(at_once)]
        shares: list[np.ndarray] = []
        for n in range(shape[axis] + at_once):
            request = requests[n % at_once]
            if n >= at_once:
                request.wait()
                shares.append(request.get_output_tensor(0).data[0].copy())
            if n < shape[axis]:
                image = three_slices(volumes, rule.colors, axis, n).astype(np.float32)
                request.start_async([image[None]])
        return np.stack(shares, axis=axis + 1)

    def _compile(self, size: tuple[int, ...]) -> Any:
        """The network for one size of image; scans of a study mostly share it."""
        if size not in self._compiled:
            network = self._network.clone()
            network.reshape({"image": [1, 3, *size]})
            self._compiled[size] = self._core.compile_model(network, "CPU", self._settings)
            precision = self._compiled[size].get_property("INFERENCE_PRECISION_HINT")
            self.means = f"OpenVINO {self._version}, {precision.get_type_name()}"
        return self._compiled[size]


def look_at_slices(engine: SliceEngine, volumes: Volumes, rule: SliceRule, grid: Grid) -> Shares:
    """The probability of each class, averaged over the rule's axes, without stray regions.

    Args:
        engine: The network.
        volumes: Shades, as `slices.prepare` gives them.
        rule: What the network wants.
        grid: Where the volumes' voxels lie.

    Source:
        xu2017, section 3. Departs from it: the paper has one axis.
    """
    axes = rule.axis_numbers(grid)
    shares = engine.run(volumes, rule, axes[0])
    if len(axes) > 1:
        total = shares.astype(np.uint16)
        for axis in axes[1:]:
            total += engine.run(volumes, rule, axis)
        shares = (total // len(axes)).astype(np.uint8)
    stray = stray_regions(shares[1:].max(axis=0) > shares[0], grid, axes[0])
    shares[:, stray] = 0
    shares[0, stray] = 255
    return shares
