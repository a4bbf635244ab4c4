"""Networks of many classes on a CPU in little memory.

A network's last layer turns each voxel's features into logits, alone. So only features are
computed for a whole image, and logits and probabilities for a few voxels at a time: memory does not
grow with the number of classes, and answers are those of the whole network. Features at twice the
resolution of all other layers are computed a few planes at a time, too.
"""

import math
from functools import cache
from pathlib import Path
from typing import Any

from fewlabel.conform import GridRule
from fewlabel.engine import Compute, Engine
from fewlabel.engine_compiled import compiled
from fewlabel.engine_memory import SHARES_PART, fitting_window
from fewlabel.engine_parts import compile_parts, split
from fewlabel.engine_windows import in_windows
from fewlabel.style import Offsets


def stream_engine(
    onnx: Path, head: str, rule: GridRule, compute: Compute, offsets: Offsets | None = None
) -> Engine:
    """An ONNX file on the CPU, in windows where it was trained so or memory is limited.

    Args:
        onnx: See `engine_parts.split`.
        head: Which output.
        rule: The field, and the window that the network was trained on.
        compute: Threads, precision and the limit of memory.
        offsets: Added to the logits.

    Raises:
        ConfigError: If the limit is too low for the smallest window.
        ModelFolderError: If the file is no such network.
    """
    from fewlabel.ov import openvino

    core: Any = openvino.Core()
    cut = cache(lambda: split(core, onnx, head, offsets))
    limit, window = math.inf, rule.seen
    if compute.max_memory_gb is not None:
        limit = compute.max_memory_gb * 1e9
        window = fitting_window(rule, cut(), compute, limit)
    about = head, window, None if offsets is None else offsets.tobytes()
    network = compiled(
        core, onnx, about, compute, lambda: compile_parts(core, cut(), window, compute)
    )
    parts = network.parts(alone=window == rule.field)
    run = in_windows(parts, window, limit * SHARES_PART)
    return Engine(run, parts.means, window, network.channels, network.tells_age)
