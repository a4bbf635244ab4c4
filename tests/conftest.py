"""Volumes small enough to count by hand."""

import importlib.util

import numpy as np
import pytest
from hypothesis import settings

from fewlabel.grid import Grid
from fewlabel.labels import Label, LabelProtocol
from fewlabel.volume import LabelMap

# A busy machine may take long, and what is tried must not depend on the day.
settings.register_profile("fewlabel", deadline=None, derandomize=True)
settings.load_profile("fewlabel")

if importlib.util.find_spec("torch"):
    import torch

    torch.set_num_threads(1)  # two busy cores made the suite eight times slower otherwise


@pytest.fixture
def tissue() -> LabelProtocol:
    return LabelProtocol("tissue", (Label(10, "CSF"), Label(20, "GM"), Label(30, "WM")))


@pytest.fixture
def labels_of(tissue):
    """Builds a label map from rows (i) of columns (j), one slice thick."""

    def build(rows, *, spacing=(1.0, 1.0, 1.0), origin=(0.0, 0.0, 0.0)):
        data = np.array(rows, dtype=np.int16)[:, :, None]
        affine = np.diag([*spacing, 1.0])
        affine[:3, 3] = origin
        return LabelMap(data, Grid(data.shape, affine), tissue)

    return build
