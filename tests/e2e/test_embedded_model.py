"""The embedded model on the example scan: what holds for every scan, on a real network."""

from functools import cache

import numpy as np
import pytest

from fewlabel.engine import Compute
from fewlabel.io import read_scan
from fewlabel.model import DEFAULT, find_model
from fewlabel.predict import EXAMPLE
from fewlabel.segmenter import Segmenter
from tests.band_model import turned_scan


@cache
def segmenter():
    return Segmenter(find_model(DEFAULT), Compute(threads=2))


@cache
def reference():
    scan = read_scan(EXAMPLE)
    return scan, segmenter()(scan)


def test_every_structure_is_found_and_the_brain_has_a_human_size():
    _, found = reference()

    assert all(mm3 > 0 for mm3 in found.volumes_mm3.values())
    assert 1.2e6 < found.volumes_mm3["Total-Brain"] < 1.9e6  # mm3; an average brain in MNI space
    assert found.warnings == ()


def test_left_structures_lie_on_the_left():
    _, found = reference()
    labels = found.labels

    for name in labels.protocol.names:
        where = np.argwhere(labels.data == labels.protocol.class_of(name))
        x = (where @ labels.grid.affine[:3, :3].T + labels.grid.affine[:3, 3])[:, 0].mean()
        assert not (name.startswith("Left") and x > 0), name
        assert not (name.startswith("Right") and x < 0), name


@pytest.mark.parametrize(
    ("order", "signs"), [((0, 1, 2), (-1, 1, 1)), ((2, 0, 1), (1, -1, -1))], ids=str
)
def test_another_orientation_gives_equal_labels_voxel_for_voxel(order, signs):
    scan, found = reference()

    turned = segmenter()(turned_scan(scan, order, signs)).labels

    flips = tuple(slice(None, None, sign) for sign in signs)
    assert np.array_equal(turned.data, found.labels.data.transpose(order)[flips])
