"""Segment brain MR images when labels are scarce."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fewlabel.version import VERSION

if TYPE_CHECKING:
    from fewlabel.errors import FewlabelError
    from fewlabel.grid import Grid
    from fewlabel.io import read_labels, read_scan, write_labels
    from fewlabel.labels import LabelProtocol, load_protocol
    from fewlabel.model import find_model, list_models
    from fewlabel.notebook import plot
    from fewlabel.predict import segment
    from fewlabel.segmenter import Segmentation
    from fewlabel.volume import LabelMap, Scan


__version__ = VERSION

_HOME = {
    "FewlabelError": "errors",
    "Grid": "grid",
    "LabelMap": "volume",
    "LabelProtocol": "labels",
    "Scan": "volume",
    "Segmentation": "segmenter",
    "find_model": "model",
    "list_models": "model",
    "load_protocol": "labels",
    "plot": "notebook",
    "read_labels": "io",
    "read_scan": "io",
    "segment": "predict",
    "write_labels": "io",
}
"""Module of each public name, imported when it is first used: `fewlabel --help` needs none."""

__all__ = [
    "FewlabelError",
    "Grid",
    "LabelMap",
    "LabelProtocol",
    "Scan",
    "Segmentation",
    "find_model",
    "list_models",
    "load_protocol",
    "plot",
    "read_labels",
    "read_scan",
    "segment",
    "write_labels",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module."""
    if name not in _HOME:
        raise AttributeError(f"module 'fewlabel' has no attribute {name!r}")
    return getattr(import_module(f"fewlabel.{_HOME[name]}"), name)
