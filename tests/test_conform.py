"""Between grids and back: what must be exact is, and the rest is worked by hand."""

import itertools

import numpy as np
import pytest

from fewlabel.conform import GridRule, conform, part_of, restore, upright
from fewlabel.grid import Grid
from fewlabel.labels import Label, LabelProtocol
from fewlabel.volume import Scan
from tests.band_model import box_grid, head_at, turned_scan

ALL_48 = list(
    itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3))
)
FOUR = LabelProtocol("four", tuple(Label(n, f"structure {n}") for n in (1, 2, 3)))


def line(values, spacing_mm=1.0, origin_mm=0.0):
    """A scan of one row of voxels along x."""
    affine = np.diag([spacing_mm, 1.0, 1.0, 1.0])
    affine[0, 3] = origin_mm
    data = np.array(values, dtype=np.float32).reshape(-1, 1, 1)
    return Scan(data, Grid((len(values), 1, 1), affine))


def one_hot(labels, n_classes, dtype=np.uint8):
    shares = np.stack([labels == n for n in range(n_classes)])
    return shares.astype(dtype) * (255 if dtype == np.uint8 else 1)


def rotated(grid, degrees):
    """The grid turned round the z axis through its middle."""
    turn = np.eye(4)
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn[:2, :2] = [[cos, -sin], [sin, cos]]
    middle = grid.corners_mm().mean(axis=0)
    there, back = np.eye(4), np.eye(4)
    there[:3, 3], back[:3, 3] = -middle, middle
    return Grid(grid.shape, back @ turn @ there @ grid.affine)


def test_the_field_is_the_smallest_multiple_that_covers_what_the_rule_wants():
    assert GridRule(spacing_mm=2.0).field == (96, 112, 96)
    assert GridRule(spacing_mm=1.5).field == (128, 160, 128)  # 224 / 1.5 = 149.3
    assert GridRule(spacing_mm=1.0, multiple=1, field_mm=(10, 11.5, 12)).field == (10, 12, 12)


def test_upright_holds_every_voxel_center_of_a_tilted_grid():
    tilted = rotated(box_grid((2.0, 3.0, 1.0), 60.0), 30)

    grid = upright(tilted, 1.5)

    inside = (tilted.corners_mm() - grid.affine[:3, 3]) / 1.5
    assert inside.min() > -1e-4
    assert (inside.max(axis=0) <= np.array(grid.shape) - 1 + 1e-4).all()
    assert np.array_equal(grid.affine[:3, :3], 1.5 * np.eye(3))


def test_a_part_that_begins_outside_is_filled_with_the_darkest_intensity():
    scan = line([5, 7, 9])

    moved = conform(scan, part_of(scan.grid, (-2, 0, 0), (6, 1, 1)))

    assert moved.data.ravel().tolist() == [5, 5, 5, 7, 9, 5]


def test_a_part_beside_the_scan_is_dark_all_over():
    scan = line([5, 7, 9])

    moved = conform(scan, part_of(scan.grid, (40, 0, 0), (2, 1, 1)))

    assert moved.data.ravel().tolist() == [5, 5]


def test_finer_voxels_lie_on_straight_lines_between_the_old_ones():
    scan = line([0, 4, 8])

    moved = conform(scan, Grid((5, 1, 1), np.diag([0.5, 1.0, 1.0, 1.0])))

    assert moved.data.ravel().tolist() == [0, 2, 4, 6, 8]


def test_voxels_twice_as_large_average_with_weights_one_two_one():
    scan = line([0, 0, 8, 0, 0, 4, 0])

    moved = conform(scan, Grid((4, 1, 1), np.diag([2.0, 1.0, 1.0, 1.0])))

    # At the ends only 2 and 1 of the weights 1 2 1 lie inside.
    assert moved.data.ravel() == pytest.approx([0, 8 * 2 / 4, 4 * 1 / 4, 4 * 1 / 3])


def test_every_orientation_gives_the_same_picture_to_the_last_bit():
    scan = head_at(box_grid((2.0, 2.5, 4.0), 100.0))
    target = upright(scan.grid, 3.0)
    expected = conform(scan, target).data

    for order, signs in ALL_48:
        turned = turned_scan(scan, order, signs)
        assert upright(turned.grid, 3.0).matches(target)
        assert np.array_equal(conform(turned, target).data, expected)


@pytest.mark.parametrize(("order", "signs"), ALL_48, ids=str)
def test_labels_come_back_unchanged_from_any_of_the_48_orientations(order, signs):
    labels = np.random.default_rng(0).integers(0, 4, (3, 4, 5))
    scan = turned_scan(Scan(labels.astype(np.float32), Grid((3, 4, 5), np.eye(4))), order, signs)
    working = upright(scan.grid, 1.0)
    shares = one_hot(conform(scan, working).data, 4)

    back = restore(shares, working, scan.grid, FOUR)

    assert np.array_equal(back.data, scan.data)


@pytest.mark.parametrize("degrees", [0.0, 20.0])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 2.0, 3.5), (5.0, 1.0, 1.0)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(("at_once", "threads"), [(2_000_000, 1), (700, 3)])
def test_looking_only_where_a_class_can_win_changes_nothing(  # nor does it plane by plane
    spacing, degrees, dtype, at_once, threads, monkeypatch
):
    monkeypatch.setattr("fewlabel.conform._AT_ONCE", at_once)
    rng = np.random.default_rng(1)
    working = box_grid((2.0, 2.0, 2.0), 40.0)
    logits = rng.normal(size=(4, *working.shape)) * 3
    logits[0, 2:-3, 3:-2, 4:-4] -= 6
    logits[3, :, :, 9:] -= 9
    shares = np.exp(logits) / np.exp(logits).sum(axis=0)
    shares = (np.rint(shares * 255) if dtype == np.uint8 else shares).astype(dtype)
    native = rotated(box_grid(spacing, 36.0), degrees)

    fast = restore(shares, working, native, FOUR, threads).data

    each = [conform(Scan(s.astype(np.float32), working), native).data for s in shares]
    whole = np.argmax(each, axis=0)
    inside = conform(Scan(np.ones(working.shape, np.float32), working), native).data > 0
    margin = np.sort(each, axis=0)[-1] - np.sort(each, axis=0)[-2]
    sure = inside & (margin > 1e-4 * np.max(each))
    assert sure.mean() > 0.9
    assert np.array_equal(fast[sure], whole[sure])


@pytest.mark.parametrize("degrees", [0.0, 20.0])
@pytest.mark.parametrize("spacing", [(0.7, 0.8, 0.9), (2.2, 3.1, 4.0)])
def test_labels_do_not_depend_on_how_many_planes_are_decided_at_once(spacing, degrees, monkeypatch):
    working = box_grid((2.0, 2.0, 2.0), 40.0)
    shares = np.random.default_rng(2).dirichlet(np.ones(4), working.shape)
    shares = np.moveaxis(np.rint(shares * 255), -1, 0).astype(np.uint8)
    native = rotated(box_grid(spacing, 36.0), degrees)
    whole = restore(shares, working, native, FOUR).data

    monkeypatch.setattr("fewlabel.conform._AT_ONCE", 1)
    found = restore(shares, working, native, FOUR, threads=2).data

    assert (found == whole).mean() > 0.9995  # positions are rounded to 1e-5 voxels


def test_voxels_that_the_working_grid_does_not_reach_are_background():
    working = Grid((2, 2, 2), np.eye(4))
    native = part_of(working, (-3, 0, 0), (8, 2, 2))

    back = restore(one_hot(np.full((2, 2, 2), 2), 4), working, native, FOUR)

    assert back.data[:, 0, 0].tolist() == [0, 0, 0, 2, 2, 0, 0, 0]


def test_a_scan_without_any_structure_comes_back_empty():
    working = Grid((2, 2, 2), np.eye(4))

    assert not restore(one_hot(np.zeros((2, 2, 2)), 4), working, working, FOUR).data.any()


def test_of_two_equal_probabilities_the_lower_class_wins():
    working = Grid((1, 1, 1), np.eye(4))
    shares = np.array([1, 0, 127, 127], dtype=np.uint8).reshape(4, 1, 1, 1)

    assert restore(shares, working, working, FOUR).data.ravel().tolist() == [2]
