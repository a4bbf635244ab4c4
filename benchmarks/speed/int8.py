"""Eight-bit arithmetic: what it saves, and what it changes.

    python -m benchmarks.speed.int8 [--model adult-aseg32] [--data ../shared/data] [--threads 2]

Needs NNCF (`pip install nncf`) in an environment of its own. The network is quantized after
training (activations and weights, mixed preset), calibrated on the fields of scans in ibsr18, and
then run beside its 16-bit and 32-bit forms on scans of malc, which take turns. Each form's labels
on the field are compared with those of 32 bits: mean Dice over structures. Rows go to
benchmarks/results/int8.csv.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

from benchmarks.common import RESULTS, add_rows, agreement, provenance
from fewlabel import intensity
from fewlabel.cohort import Case
from fewlabel.conform import GridRule, conform
from fewlabel.datasets import index_folder
from fewlabel.field import first_look
from fewlabel.io import read_scan
from fewlabel.model import ModelFolder, find_model
from fewlabel.ov import openvino

ROOT = Path(__file__).parents[2]
FORMS = {
    "f32": {"INFERENCE_PRECISION_HINT": "f32"},
    "fast": {},
    "int8": {},
    "int8 but the ends": {},
}
"""What OpenVINO is told; `fast` is what `fewlabel segment` runs."""


def fields(cases: Sequence[Case], model: ModelFolder) -> list[np.ndarray]:
    """What the network gets to see of scans."""
    rule = model.card.grid
    assert isinstance(rule, GridRule)
    scale = getattr(intensity, model.card.intensity)
    found = []
    for case in cases:
        scan = read_scan(case.scans["T1w"])
        found.append(scale(conform(scan, first_look(scan, rule)).data)[None, None])
    return found


def quantized(model: ModelFolder, images: list[np.ndarray], *, ends: bool) -> Any:
    """The network in eight bits.

    Args:
        model: Whose network.
        images: To calibrate on.
        ends: Quantize the first and the last convolutions, too.
    """
    import nncf

    network = read(model, images[0].shape)
    names = [op.get_friendly_name() for op in network.get_ordered_ops()
             if op.get_type_name() in ("Convolution", "ConvolutionBackpropData")]  # fmt: skip
    ignored = None if ends else nncf.IgnoredScope(names=[*names[:2], *names[-3:]])
    return nncf.quantize(
        network, nncf.Dataset(images), preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(images), ignored_scope=ignored,
    )  # fmt: skip


def read(model: ModelFolder, shape: tuple[int, ...]) -> Any:
    network = openvino.Core().read_model(model.onnx)
    network.reshape({"image": list(shape)})
    return network


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--model")
    ask.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    ask.add_argument("--threads", type=int, default=2)
    ask.add_argument("--calibrate", type=int, default=6, help="scans")
    ask.add_argument("--score", type=int, default=4, help="scans")
    ask.add_argument("--note", default="")
    asked = ask.parse_args()
    model = find_model(asked.model)
    known = fields(index_folder(asked.data / "ibsr18").cohort.cases[: asked.calibrate], model)
    new = fields(index_folder(asked.data / "malc").cohort.cases[: asked.score], model)
    whole = read(model, new[0].shape)
    networks = {"f32": whole, "fast": whole, "int8": quantized(model, known, ends=True),
                "int8 but the ends": quantized(model, known, ends=False)}  # fmt: skip
    core, threads = openvino.Core(), {"INFERENCE_NUM_THREADS": asked.threads}
    ready = {
        form: core.compile_model(networks[form], "CPU", {**FORMS[form], **threads})
        for form in FORMS
    }
    seconds: dict[str, list[float]] = {form: [] for form in FORMS}
    dice: dict[str, list[float]] = {form: [] for form in FORMS}
    for image in new:
        answers = {}
        for form, network in ready.items():
            network([image])
            begin = time.perf_counter()
            answers[form] = network([image])[0][0].argmax(0)
            seconds[form].append(time.perf_counter() - begin)
        for form, answer in answers.items():
            dice[form].append(agreement(answer, answers["f32"]))
    rows = [
        {**provenance(asked.note), "model": model.card.name, "form": form, "scans": len(new),
         "network_s": f"{median(seconds[form]):.2f}", "dice_with_f32": f"{mean(dice[form]):.4f}",
         "least": f"{min(dice[form]):.4f}"}
        for form in FORMS
    ]  # fmt: skip
    add_rows(RESULTS / "int8.csv", rows)
    for row in rows:
        print(*(f"{key} {row[key]}" for key in ("form", "network_s", "dice_with_f32", "least")))


if __name__ == "__main__":
    main()
