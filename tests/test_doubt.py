"""What a model is unsure of, with a network whose answers are a formula of the intensity."""

import nibabel
import numpy as np
import pytest

from fewlabel.cohort import Case
from fewlabel.doubt import look_with, not_drawn, propose_with
from fewlabel.engine import Compute
from fewlabel.labels import LabelProtocol
from fewlabel.segmenter import Segmenter
from tests.band_model import BANDS, CENTERS, band_model, box_grid, head_at, turned_scan

SHARPNESS = 40.0


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    return Segmenter(band_model(tmp_path_factory.mktemp("bands") / "bands"), Compute(threads=1))


@pytest.fixture
def case_of(tmp_path):
    def save(scan):
        path = tmp_path / "head_T1w.nii.gz"
        nibabel.save(nibabel.Nifti1Image(scan.data.astype(np.int16), scan.grid.affine), path)
        return Case("head", "head", "head", {"T1w": path})

    return save


def doubt_by_formula(scan):
    """1 less the largest probability that the network gives to an intensity of 0 to 1000."""
    distance = (scan.data[..., None] / 1000 - np.array(CENTERS)) ** 2
    likely = np.exp(-SHARPNESS * distance)
    return 1 - likely.max(axis=-1) / likely.sum(axis=-1)


def test_doubt_of_each_slice_adds_up_to_that_of_its_voxels(segmenter, case_of):
    head = head_at(box_grid())
    brain = look_with(segmenter)(case_of(head), "T1w")
    expected = doubt_by_formula(head) * 9  # voxels of 3 x 3 mm in a slice
    for axis, others in enumerate(((1, 2), (0, 2), (0, 1))):
        along = expected.sum(axis=others)
        low, high = brain.extent[axis]
        found = brain.doubt_mm2[axis][low:high]
        assert found == pytest.approx(along[low:high], rel=0.1, abs=30)


def test_the_brain_is_where_the_model_sees_one(segmenter, case_of):
    brain = look_with(segmenter)(case_of(head_at(box_grid())), "T1w")
    # 60 mm to either side, 72 to the front: 20 and 24 voxels of 3 mm round the middle
    half = (brain.extent[:, 1] - brain.extent[:, 0]) / 2
    assert half == pytest.approx([20, 24, 20], abs=1.5)


def test_orientation_makes_no_difference(segmenter, case_of):
    head = head_at(box_grid())
    look = look_with(segmenter)
    upright = look(case_of(head), "T1w")
    turned = look(case_of(turned_scan(head, (2, 0, 1), (-1, 1, -1))), "T1w")
    assert (turned.extent == upright.extent).all()
    for one, other in zip(turned.doubt_mm2, upright.doubt_mm2, strict=True):
        assert one == pytest.approx(other, abs=1e-3)


def test_a_proposal_lies_on_the_scan_and_in_the_protocol_that_is_asked_for(segmenter, case_of):
    head = turned_scan(head_at(box_grid()), (2, 0, 1), (-1, 1, -1))
    two = LabelProtocol("two", (BANDS.labels[1], BANDS.labels[0]))
    found = propose_with(segmenter, two, "T1w")(case_of(head))
    assert found.grid.matches(head.grid)
    assert found.protocol == two
    ball, lump = (found.data == 2).sum(), (found.data == 1).sum()
    assert ball > lump > 100


def test_structures_that_a_model_does_not_draw_are_named(segmenter):
    own = LabelProtocol("own", (*BANDS.labels, BANDS.labels[0].__class__(99, "Fornix")))
    assert not_drawn(segmenter, own) == ["Fornix"]
    assert not_drawn(segmenter, BANDS) == []
