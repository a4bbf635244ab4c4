"""Where the network looks, and what is cleaned up."""

import itertools

import numpy as np
import pytest

from fewlabel.conform import GridRule, part_of, upright
from fewlabel.field import (
    OFF_CENTER_MM,
    around_body,
    extent,
    first_look,
    look_again,
    main_body,
)
from fewlabel.grid import Grid
from fewlabel.volume import Scan
from tests.band_model import box_grid, head_at, turned_scan

RULE = GridRule(spacing_mm=4.0)


def middle_mm(grid):
    return grid.corners_mm().mean(axis=0)


def test_the_first_look_is_near_the_head_wherever_it_is_in_a_large_scan():
    grid = box_grid((4.0, 4.0, 4.0), 300.0)
    for shift in ((0, 0, 0), (12, -9, -10), (-15, 10, 8)):
        moved = Grid(grid.shape, part_of(grid, shift, grid.shape).affine)

        field = first_look(head_at(moved), RULE)

        assert field.shape == (48, 64, 48)
        assert np.abs(middle_mm(field) - (0, 10, 20)).max() < OFF_CENTER_MM


def test_the_first_look_is_the_same_for_all_48_orientations():
    scan = head_at(box_grid((4.0, 3.0, 5.0), 180.0))
    expected = first_look(scan, RULE)

    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            assert first_look(turned_scan(scan, order, signs), RULE).matches(expected)


def test_a_head_gets_the_same_field_however_it_was_scanned():
    expected = first_look(head_at(box_grid((1.5, 1.5, 1.5), 180.0)), RULE)
    tilt = np.eye(4)
    tilt[:3, :3] = [[0.96, -0.28, 0.0], [0.28, 0.96, 0.0], [0.0, 0.0, 1.0]]
    large = box_grid((1.0, 3.0, 2.0), 230.0)

    for grid in (large, Grid(large.shape, tilt @ large.affine), box_grid((2.0, 2.0, 5.0), 201.0)):
        assert first_look(head_at(grid), RULE).matches(expected)


def test_a_scan_with_the_networks_own_voxels_keeps_them():
    grid = part_of(box_grid((4.0, 4.0, 4.0), 200.0), (0, 0, 0), (50, 50, 50))
    moved = Grid(grid.shape, grid.affine + np.eye(4, k=3)[:4, :4] * 1.3)

    for scan in (head_at(moved), turned_scan(head_at(moved), (2, 0, 1), (1, -1, -1))):
        steps = (first_look(scan, RULE).affine - upright(moved, 4.0).affine)[:3, 3] / 4.0
        assert np.allclose(steps, np.rint(steps), atol=1e-4)


def brain_in(shape, low, high):
    brain = np.zeros(shape, dtype=bool)
    brain[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return brain


@pytest.fixture
def large():
    return Grid((100, 100, 100), np.diag([4.0, 4.0, 4.0, 1.0]))


def test_a_brain_near_the_middle_needs_no_second_look(large):
    field = part_of(large, (20, 20, 20), (48, 64, 48))

    assert look_again(brain_in(field.shape, (8, 10, 10), (42, 52, 44)), field, large) is None


def test_a_brain_off_the_middle_is_moved_there(large):
    field = part_of(large, (20, 20, 20), (48, 64, 48))
    brain = brain_in(field.shape, (4, 2, 20), (34, 40, 46))

    better = look_again(brain, field, large)

    # The brain's middle is at voxel 20 + (18.5, 20.5, 32.5), thus 154, 162 and 210 mm. Rounded to
    # multiples of 8 mm: 152, 160 and 208; less half the field, and up to the next voxel.
    assert better.matches(part_of(large, (15, 9, 29), field.shape))


def test_a_brain_that_the_field_cuts_is_looked_at_again_but_not_if_the_scan_ends_there(large):
    brain = brain_in((48, 64, 48), (8, 10, 0), (42, 52, 42))  # 2.5 voxels too low
    inside, at_bottom = ((20, 20, 20), (20, 20, 0))

    assert look_again(brain, part_of(large, inside, brain.shape), large) is not None
    assert look_again(brain, part_of(large, at_bottom, brain.shape), large) is None


def test_nothing_found_asks_for_no_second_look(large):
    assert look_again(np.zeros((48, 64, 48), dtype=bool), large, large) is None


def test_extent_leaves_out_slices_with_less_than_asked():
    mask = brain_in((6, 6, 6), (1, 2, 3), (5, 5, 5))
    mask[0, 2, 3] = True

    assert [ends.tolist() for ends in extent(mask, 2.0)] == [[1, 2, 3], [5, 5, 5]]


def test_islands_become_background_and_the_main_body_stays():
    shares = np.zeros((2, 6, 1, 1), dtype=np.uint8)
    shares[1, :, 0, 0] = [255, 200, 0, 255, 0, 0]
    shares[0] = 255 - shares[1]

    kept = main_body(shares.copy())

    assert kept[1, :, 0, 0].tolist() == [255, 200, 0, 0, 0, 0]
    assert kept[0, :, 0, 0].tolist() == [0, 55, 255, 255, 255, 255]


def test_a_scan_of_one_intensity_is_looked_at_in_its_middle():
    grid = box_grid((4.0, 4.0, 4.0), 100.0)

    field = first_look(Scan(np.ones(grid.shape, np.float32), grid), RULE)

    assert np.abs(middle_mm(field)[:2] - (0, 10)).max() <= 4


def test_a_field_lower_than_a_head_lies_on_what_is_bright():
    """A crop of 36 x 52 x 40 mm, 400 mm up; a brain would be sought 58 mm below its top."""
    affine = np.eye(4)
    affine[:3, 3] = (0, 0, 400)
    data = np.random.default_rng(0).random((36, 52, 40), dtype=np.float32)
    rule = GridRule(spacing_mm=1.0, multiple=8, field_mm=(48, 64, 56))

    field = first_look(Scan(data, Grid(data.shape, affine)), rule)

    low, high = field.corners_mm().min(axis=0), field.corners_mm().max(axis=0)
    assert (low <= (0, 0, 400)).all()
    assert (high >= (35, 51, 439)).all()


def test_voxels_around_a_body_leave_out_empty_space():
    """Bright from 40 to 60 mm: with 6 voxels of margin 32 mm, and 32 is a multiple of 16."""
    data = np.zeros((100, 100, 100), dtype=np.float32)
    data[40:60, 40:60, 40:60] = 1

    found = around_body(Scan(data, Grid(data.shape, np.eye(4))), 1.0, 16)

    assert set(found.shape) <= {32, 48}
    assert (found.corners_mm().min(axis=0) <= 36).all()
    assert (found.corners_mm().max(axis=0) >= 63).all()
