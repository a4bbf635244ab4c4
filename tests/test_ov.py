"""OpenVINO reports to nobody, and several models may be opened at once."""

import subprocess
import sys

QUIET = """
import sys
from fewlabel.ov import openvino
print(openvino.__name__, sorted(name for name in sys.modules
                                if "telemetry" in name or name.startswith("openvino.tools.ovc")))
import openvino_telemetry
print("importable")
try:
    openvino.convert_model("nothing.onnx")
except Exception as refused:
    print("nothing.onnx" in str(refused), "openvino.tools.ovc" in sys.modules)
"""

AT_ONCE = """
import numpy as np
from fewlabel.engine import Compute
from fewlabel.model import find_model
from fewlabel.segmenter import Segmenter
model = find_model("adult-aseg32")
started = [Segmenter(model, Compute()) for _ in range(2)]
image = np.ones((200, 200, 60))
while not all(one._engine.done() for one in started):
    np.clip(image, 0, 1)
print("started")
"""


def in_a_process(program, *words):
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=100,
        check=True,
    )  # fmt: skip
    return done.stdout.split("\n")


def test_nothing_that_reports_is_loaded_and_it_can_be_imported_afterwards():
    first, second, third, *_ = in_a_process(QUIET)

    assert first == "openvino []"
    assert second == "importable"
    assert third == "True True", "models can be converted"


def test_models_that_are_opened_at_once_do_not_wait_for_each_other_for_ever():
    assert in_a_process(AT_ONCE)[0] == "started"
