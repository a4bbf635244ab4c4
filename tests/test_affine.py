import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from fewlabel.affine import affine_between, moved
from fewlabel.errors import ScanError
from fewlabel.grid import Grid
from fewlabel.volume import Scan
from tests.heads import PARTS, box, head


def pose(degrees, shift, stretch=1.0):
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() * stretch
    matrix[:3, 3] = shift
    return matrix


def worst_mm(found, truth):
    """How far the parts of the head are off."""
    centers = np.array([[*center, 1] for center, _, _ in PARTS]).T
    return np.linalg.norm(((found - truth) @ centers)[:3], axis=0).max()


@pytest.mark.parametrize("contrast", [lambda s: s, lambda s: 1.2 - s])
def test_a_turned_shifted_and_stretched_head_is_found_in_either_contrast(contrast):
    truth = pose((14, -6, 9), (8, -5, 11), 1.08)
    moving = head(box(), contrast=contrast)
    fixed = head(box(), truth)
    assert worst_mm(affine_between(moving, fixed), truth) < 1.5


def test_a_scan_in_another_orientation_and_far_away_is_found():
    """Stored left to right the other way, and with an origin 300 mm off."""
    affine = box().affine.copy()
    affine[0] = [-3, 0, 0, 51]
    flipped = head(Grid(box().shape, affine))
    far = affine.copy()
    far[:3, 3] += [0, -300, 100]
    moving = Scan(flipped.data, Grid(flipped.grid.shape, far))
    truth = pose((0, 0, 0), (0, -300, 100))
    assert worst_mm(affine_between(moving, head(box()), rigid=True), truth) < 1


def test_a_mirror_image_is_never_made():
    mirrored = head(box(), np.diag([-1.0, 1, 1, 1]))
    assert np.linalg.det(affine_between(mirrored, head(box()))) > 0


def test_a_scan_that_shows_half_of_it_is_found():
    half = Grid((35, 35, 18), box().affine)
    truth = pose((5, 0, 8), (4, 6, 0))
    moving = head(box())
    assert worst_mm(affine_between(moving, head(half, truth), rigid=True), truth) < 3


def test_moving_a_scan_changes_its_grid_alone():
    scan = head(box(6))
    shifted = moved(scan, pose((0, 0, 0), (10, 0, 0)))
    assert shifted.data is scan.data
    assert (shifted.grid.affine[:3, 3] - scan.grid.affine[:3, 3]).tolist() == [-10, 0, 0]


def test_an_empty_scan_is_refused():
    empty = Scan(np.zeros(box(6).shape, dtype=np.float32), box(6))
    with pytest.raises(ScanError, match="shows nothing"):
        affine_between(empty, head(box(6)))
