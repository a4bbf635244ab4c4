import nibabel
import numpy as np
import pytest

from fewlabel.errors import GridMismatch, OutputError, ScanError
from fewlabel.grid import Grid
from fewlabel.labels import Label, LabelProtocol
from fewlabel.volume import LabelMap, Scan
from fewlabel.warp import (
    Displacement,
    affine_field,
    compose,
    folds,
    followed_by,
    invert,
    jacobian,
    on_grid,
    vote,
    warp_labels,
    warp_scan,
)
from fewlabel.warp_io import read_field, write_field, write_scan

FAR = LabelProtocol("far", (Label(1, "a"), Label(2, "b"), Label(30, "c")))


def ramp(grid):
    """Intensity = 100 x + 10 y + z, in mm: says where it was looked up."""
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"))
    mm = np.tensordot(grid.affine[:3, :3], index, 1) + grid.affine[:3, 3, None, None, None]
    return Scan((np.array([100, 10, 1]) @ mm.reshape(3, -1)).reshape(grid.shape).astype("f4"), grid)


def constant(mm, grid):
    data = np.broadcast_to(np.array(mm, dtype=np.float32)[:, None, None, None], (3, *grid.shape))
    return Displacement(np.ascontiguousarray(data), grid)


def grid(*spacing, origin=(0, 0, 0), shape=(6, 5, 4)):
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = origin
    return Grid(shape, affine)


def oblique():
    """Turned by 90 degrees about z and tilted: i runs mostly to the front."""
    c, s = np.cos(0.3), np.sin(0.3)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, -1, 0], [c, 0, -s], [s, 0, c]]) * [1.0, 2.0, 1.5]
    affine[:3, 3] = [9, 1, 2]
    return Grid((7, 5, 6), affine)


@pytest.mark.parametrize(
    "moving", [grid(1, 1, 1), grid(2, 1, 0.5), grid(-1, 1, 1, origin=(5, 0, 0)), oblique()]
)
def test_a_voxel_shows_what_lies_its_displacement_in_mm_away(moving):
    center = moving.affine[:3, :3] @ [2, 2, 1.5] + moving.affine[:3, 3]
    fixed = Grid((1, 1, 1), np.array([[1, 0, 0, center[0]], [0, 1, 0, center[1]],
                                      [0, 0, 1, center[2]], [0, 0, 0, 1.0]]))  # fmt: skip
    warped = warp_scan(ramp(moving), constant([0.5, -0.25, 0.25], fixed))
    x, y, z = center
    assert warped.data.item() == pytest.approx(
        100 * (x + 0.5) + 10 * (y - 0.25) + z + 0.25, rel=1e-5
    )


def test_two_millimeters_to_the_right_are_one_voxel_of_two_and_backward_in_a_flipped_grid():
    wide, flipped = grid(2, 1, 1), grid(-1, 1, 1, origin=(5, 0, 0))
    assert warp_scan(ramp(wide), constant([2, 0, 0], wide)).data[0, 0, 0] == 200
    at_x_3 = warp_scan(ramp(flipped), constant([2, 0, 0], flipped)).data[2, 0, 0]
    assert at_x_3 == 500  # voxel 2 lies at x = 3, voxel 0 at x = 5


def test_outside_of_the_moving_scan_it_is_dark_and_background():
    fixed = grid(1, 1, 1)
    data = np.full(fixed.shape, 7.0, dtype=np.float32)
    data[0] = 3
    assert warp_scan(Scan(data, fixed), constant([50, 0, 0], fixed)).data.max() == 3
    labels = LabelMap(np.ones(fixed.shape, dtype=np.int16), fixed, FAR)
    assert warp_labels(labels, constant([50, 0, 0], fixed)).data.max() == 0


@pytest.mark.parametrize("nearest", [True, False])
def test_labels_are_never_interpolated(nearest):
    fixed, rng = grid(1, 1, 1), np.random.default_rng(0)
    classes = rng.choice(np.array([0, 1, 3, -1], dtype=np.int16), fixed.shape)
    shift = Displacement(rng.normal(0, 0.7, (3, *fixed.shape)).astype(np.float32), fixed)
    found = warp_labels(LabelMap(classes, fixed, FAR), shift, nearest=nearest).data
    assert set(np.unique(found)) <= {0, 1, 3, -1}  # 2 lies between 1 and 3


def test_the_vote_is_of_classes_not_of_voxels():
    """0.4 of the way from class 1 to 3 votes 1; where two neighbors say 3, they win together."""
    fixed = grid(1, 1, 1, shape=(2, 2, 1))
    labels = LabelMap(np.array([[[1], [3]], [[2], [3]]], dtype=np.int16), fixed, FAR)
    assert warp_labels(labels, constant([0, 0.4, 0], fixed)).data[0, 0, 0] == 1
    # from (0, 0): 0.45 right, 0.45 front. Shares: 1: 0.3025, 2: 0.2475, 3: 0.2475 + 0.2025
    moved = warp_labels(labels, constant([0.45, 0.45, 0], fixed)).data[0, 0, 0]
    assert moved == 3
    assert warp_labels(labels, constant([0.45, 0.45, 0], fixed), nearest=True).data[0, 0, 0] == 1


def test_labels_stored_in_fortran_order_are_looked_up_in_place():
    fixed = grid(1, 1, 1)
    classes = np.zeros(fixed.shape, dtype=np.int16, order="F")
    classes[3, 2, 1] = 2
    found = warp_labels(LabelMap(classes, fixed, FAR), constant([1, 0, 0], fixed)).data
    assert np.argwhere(found).tolist() == [[2, 2, 1]]


def test_of_equal_votes_the_earlier_one_counts():
    classes = np.array([[5, 1], [2, 2], [2, 2]], dtype=np.int16)
    weights = np.array([[0.5, 0.4], [0.25, 0.3], [0.25, 0.3]], dtype=np.float32)
    assert vote(classes, weights).tolist() == [5, 2]


def test_one_field_after_another_adds_up_and_an_affine_map_follows_exactly():
    fixed = grid(1, 1, 1)
    both = compose(constant([1, 0, 0], fixed), constant([0, 2, 0], fixed))
    assert np.allclose(both.mm[:, 2, 2, 2], [1, 2, 0])
    double = np.diag([2.0, 2.0, 2.0, 1.0])  # x = 3 moves by 1 to 4, which becomes 8: 5 further
    assert followed_by(constant([1, 0, 0], fixed), double).mm[:, 3, 0, 0].tolist() == [5, 0, 0]


def test_back_and_forth_is_nowhere():
    fixed = grid(1, 2, 1, shape=(12, 10, 11))
    x, y, z = np.meshgrid(*map(np.arange, fixed.shape), indexing="ij")
    mm = np.stack([np.sin(y / 2), 0.5 * np.cos(x / 2), 0.4 * np.sin(z / 2)]).astype(np.float32)
    field = Displacement(mm + np.array([300, 0, 0], dtype=np.float32)[:, None, None, None], fixed)
    moving = grid(1, 2, 1, origin=(300, 0, 0), shape=fixed.shape)
    there_and_back = compose(field, invert(field, moving)).mm[:, 2:-2, 2:-2, 2:-2]
    assert np.abs(there_and_back).max() < 0.05


def test_the_jacobian_is_a_ratio_of_volumes_in_any_grid():
    for lattice in (grid(2, 1, 0.5), grid(-1, 1, 1), oblique()):
        assert jacobian(affine_field(np.diag([2.0, 0.5, 3.0, 1.0]), lattice)) == pytest.approx(
            3, rel=1e-4
        )


def test_a_made_up_fold_is_counted():
    """Along i tissue goes 0, 1, 2, 1, 0, 1: the slope is 0 or less at voxels 2, 3 and 4."""
    fixed = grid(1, 1, 1)
    field = constant([0, 0, 0], fixed)
    field.mm[0] = (np.array([0, 1, 2, 1, 0, 1]) - np.arange(6))[:, None, None]
    assert folds(field).voxels == 3 * 5 * 4
    where = np.zeros(fixed.shape, dtype=bool)
    where[:3] = True
    assert folds(field, where).share == pytest.approx(1 / 3)
    assert folds(constant([9, 9, 9], fixed)).voxels == 0
    with pytest.raises(GridMismatch, match="mask has shape"):
        folds(field, where[:2])


def test_a_field_on_finer_turned_voxels_is_the_same_field():
    coarse = grid(2, 2, 2, shape=(6, 6, 6))
    field = affine_field(np.diag([1.1, 0.9, 1.0, 1.0]), coarse)
    affine = np.array([[0, -1, 0, 8], [1, 0, 0, 1], [0, 0, 1, 2], [0, 0, 0, 1.0]])
    for fine in (Grid((7, 6, 5), affine), Grid((3, 3, 3), oblique().affine)):
        expected = affine_field(np.diag([1.1, 0.9, 1.0, 1.0]), fine)
        assert np.allclose(on_grid(field, fine).mm, expected.mm, atol=1e-4)


def test_files_hold_vectors_to_the_left_and_back_as_itk_wants(tmp_path):
    fixed = grid(-1, 2, 1, origin=(5, 0, 0))
    write_field(constant([1, 2, 3], fixed), tmp_path / "d.nii.gz")
    image = nibabel.load(tmp_path / "d.nii.gz")
    assert image.shape == (6, 5, 4, 1, 3)
    assert int(image.header["intent_code"]) == 1007
    assert np.asarray(image.dataobj)[0, 0, 0, 0].tolist() == [-1, -2, 3]
    back = read_field(tmp_path / "d.nii.gz")
    assert back.grid.matches(fixed)
    assert back.mm[:, 1, 2, 3].tolist() == [1, 2, 3]


def test_itk_moves_points_where_we_say(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    fixed = oblique()
    field = affine_field(np.array([[1.1, 0.1, 0, 3], [0, 0.9, 0, -2], [0, 0, 1, 1],
                                   [0, 0, 0, 1.0]]), fixed)  # fmt: skip
    write_field(field, tmp_path / "d.nii.gz")
    image = sitk.Cast(sitk.ReadImage(str(tmp_path / "d.nii.gz")), sitk.sitkVectorFloat64)
    x, y, z = fixed.affine[:3, :3] @ [2, 2, 2] + fixed.affine[:3, 3]
    left, back, up = sitk.DisplacementFieldTransform(image).TransformPoint((-x, -y, z))
    assert np.allclose([-left, -back, up], np.array([x, y, z]) + field.mm[:, 2, 2, 2], atol=1e-3)


def test_a_scan_is_written_as_it_is(tmp_path):
    scan = ramp(oblique())
    write_scan(scan, tmp_path / "s.nii")
    image = nibabel.load(tmp_path / "s.nii")
    assert np.array_equal(np.asarray(image.dataobj), scan.data)
    assert np.allclose(image.affine, scan.grid.affine, atol=1e-5)
    with pytest.raises(OutputError, match="written as"):
        write_scan(scan, tmp_path / "s.png")


def test_what_is_no_field_is_refused(tmp_path):
    scan = ramp(grid(1, 1, 1))
    write_scan(scan, tmp_path / "s.nii")
    with pytest.raises(ScanError, match="no displacement field"):
        read_field(tmp_path / "s.nii")
    with pytest.raises(ScanError, match="Cannot read"):
        read_field(tmp_path / "missing.nii")
    with pytest.raises(ScanError, match="their grid has"):
        Displacement(np.zeros((3, 2, 2, 2), dtype=np.float32), grid(1, 1, 1))
