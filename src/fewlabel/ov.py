"""OpenVINO, imported so that it starts soon, reports to nobody, and threads can share it.

Its package for converting models, `openvino.tools.ovc`, takes as long to import as all the rest.
And where `openvino-telemetry` is installed, which comes along with OpenVINO, it makes up an
identity for the user, writes it to their home and tells a server on the internet, at each import.
Both are out of sight while OpenVINO is imported, and can be imported afterwards.

Its Python functions find out about numpy when the first array passes through them. Should two
threads be the first ones at the same time, either waits for what the other holds, for ever (seen in
4 of 10 starts of two models at once, OpenVINO 2026.4). So an array passes through here.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


@contextmanager
def _hidden(*names: str) -> Iterator[None]:
    """Imports of these modules fail."""
    known = {name: sys.modules.get(name) for name in names}
    sys.modules.update(dict.fromkeys(names))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name, module in known.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module


def _convert_model(*given: Any, **named: Any) -> Any:
    """What `openvino.convert_model` is where nothing is hidden."""
    from openvino.tools.ovc import convert_model

    return convert_model(*given, **named)


with _hidden("openvino_telemetry", "openvino.tools.ovc"):
    import openvino
    from openvino import opset13 as op

if not hasattr(openvino, "convert_model"):
    openvino.convert_model = _convert_model
op.constant(np.float32(0)).get_data()

__all__ = ["op", "openvino"]
