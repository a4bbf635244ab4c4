"""OpenVINO, imported so that it reports to nobody and threads can share it.

Where its package `openvino-telemetry` is installed, and it comes along with OpenVINO, each import
would make up an identity for the user, write it to their home and tell a server on the internet.
That package is out of sight while OpenVINO is imported.

Its Python functions find out about numpy when the first array passes through them. Should two
threads be the first ones at the same time, either waits for what the other holds, for ever (seen in
4 of 10 starts of two models at once, OpenVINO 2026.4). So an array passes through here.
"""

import sys

import numpy as np

_REPORTS = "openvino_telemetry"

_known = sys.modules.get(_REPORTS)
sys.modules[_REPORTS] = None  # type: ignore[assignment]  # an import of it fails
try:
    import openvino
    from openvino import opset13 as op
finally:
    del sys.modules[_REPORTS]
    if _known is not None:
        sys.modules[_REPORTS] = _known

op.constant(np.float32(0)).get_data()

__all__ = ["op", "openvino"]
