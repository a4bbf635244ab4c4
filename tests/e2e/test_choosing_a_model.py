"""The models that ship, chosen for a scan of an adult and for something of a newborn's size."""

import numpy as np

from fewlabel.grid import Grid
from fewlabel.io import read_scan
from fewlabel.people import UNKNOWN
from fewlabel.predict import EXAMPLE, segment
from fewlabel.suited import MADE_FOR, choose_model
from fewlabel.volume import Scan


def newborn():
    """An ellipsoid like a T2w brain at term: bright outside, darker rim, bright inside."""
    axes = np.ogrid[-48:48, -60:60, -46:46]
    halves = (38, 51, 37)
    far = np.sqrt(sum((a / n) ** 2 for a, n in zip(axes, halves, strict=True)))
    image = np.select([far < 0.85, far < 0.93, far < 1.0], [650.5 - 90 * far, 380, 900], 0)
    affine = np.diag([0.98, 0.98, 0.98, 1.0])
    affine[:3, 3] = -47, -59, -45
    return Scan(image.astype(np.float32), Grid(image.shape, affine))


def test_all_models_to_choose_from_are_there():
    assert choose_model(read_scan(EXAMPLE), UNKNOWN).model.card.name == "adult-aseg32"
    assert choose_model(newborn(), UNKNOWN).model.card.name == "neonate-drawem9"
    assert set(MADE_FOR) == {"adult-aseg32", "neonate-drawem9"}


def test_the_newborns_model_gives_tissues_on_the_scans_grid_and_an_age():
    scan = newborn()

    found = segment(scan, modality="T2w", threads=2)

    assert found.record["model"]["name"] == "neonate-drawem9"
    assert found.labels.grid.matches(scan.grid)
    assert 1e5 < found.volumes_mm3["Total-Brain"] < 6e5
    low, high = found.record["age"]["trained_on_weeks"]
    assert found.age is not None
    assert low - 4 < found.age.weeks < high + 4
