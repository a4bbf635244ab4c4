import numpy as np
import pytest
from pydantic import ValidationError

from fewlabel.grid import Grid
from fewlabel.intensity import equalize
from fewlabel.slices import (
    Channel,
    SliceRule,
    prepare,
    slice_grid,
    stray_regions,
    three_slices,
    top_hat,
)
from fewlabel.volume import Scan

COLORS = SliceRule().colors


def grid_of(shape, spacing=(1.0, 1.0, 1.0)):
    return Grid(shape, np.diag([*spacing, 1.0]))


# Equalization


def test_equal_numbers_of_voxels_get_equally_spaced_shades():
    data = np.array([0, 0, 0, 0, 1, 2, 10, 100], dtype=np.float32).reshape(2, 2, 2)

    assert equalize(data).ravel().tolist() == [0, 0, 0, 0, 63.75, 127.5, 191.25, 255]


def test_empty_space_around_the_head_does_not_change_its_shades():
    head = np.random.default_rng(0).uniform(1, 9, (4, 5, 6)).astype(np.float32)
    head[0, 0, 0] = 0
    padded = np.pad(head, 7)

    assert np.allclose(equalize(padded)[7:-7, 7:-7, 7:-7], equalize(head), atol=2)


def test_an_image_of_one_intensity_becomes_all_zeros():
    assert not equalize(np.full((2, 2, 2), 3, dtype=np.float32)).any()


# Three-slice images


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_first_and_the_last_slice_have_nothing_beyond_them(axis):
    ramp = np.arange(1, 5, dtype=np.uint8)
    volume = np.broadcast_to(np.moveaxis(ramp[:, None, None], 0, axis), (4, 4, 4))

    shown = [three_slices({"T1w": volume}, COLORS, axis, n)[:, 0, 0].tolist() for n in (0, 1, 3)]

    assert shown == [[0, 1, 2], [1, 2, 3], [3, 4, 0]]


def test_modalities_can_be_the_colors():
    rule = SliceRule(channels=("T1w", "FLAIR", "top-hat FLAIR"))
    volumes = {
        name: np.full((3, 3, 3), n, dtype=np.uint8)
        for n, name in enumerate(("T1w", "FLAIR", "top-hat FLAIR"))
    }

    assert three_slices(volumes, rule.colors, 2, 0)[:, 0, 0].tolist() == [0, 1, 2]
    assert rule.modalities == ("T1w", "FLAIR")


def test_a_top_hat_shows_a_small_bright_spot_and_not_a_large_one():
    volume = np.zeros((30, 30, 2), dtype=np.uint8)
    volume[5:7, 5:7] = 100
    volume[15:25, 15:25] = 200

    shown = top_hat(volume, grid_of((30, 30, 2)), axis=2)

    assert (shown[5:7, 5:7] == 255).all()
    assert not shown[15:25, 15:25].any()


def test_channels_that_mean_nothing_are_refused():
    with pytest.raises(ValidationError, match="'T1w-2' is not like 'T1w', 'T1w-1'"):
        SliceRule(channels=("T1w-2", "T1w", "T1w+1"))
    with pytest.raises(ValidationError, match="Several axes need `spacing_mm` and `slice_mm`"):
        SliceRule(axes=("axial", "coronal"))
    assert COLORS[0] == Channel("T1w", -1)


# Where the network looks


def ball(shape=(40, 50, 20), spacing=(1.0, 1.0, 3.0), noise=0.0):
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    off = (index - (np.array(shape) - 1) / 2) * np.array(spacing)
    inside = (off**2).sum(axis=-1) < 12**2
    rng = np.random.default_rng(0)
    return Scan(
        (100 * inside + noise * rng.random(shape)).astype(np.float32), grid_of(shape, spacing)
    )


@pytest.mark.parametrize("noise", [0.0, 5.0])
def test_the_network_looks_at_the_head_and_not_at_the_air(noise):
    grid = slice_grid(ball(noise=noise), SliceRule())

    assert grid.shape[:2] == (32, 32)
    assert 9 <= grid.shape[2] <= 13  # the ball is 8 slices thick
    assert grid.spacing_mm == (1.0, 1.0, 3.0)
    assert np.abs(grid.corners_mm().mean(axis=0) - [19.5, 24.5, 28.5]).max() < 3  # its center


def test_pixels_can_be_made_of_one_size_and_slices_keep_their_own():
    volumes, grid = prepare({"T1w": ball()}, SliceRule(spacing_mm=0.5))

    assert grid.spacing_mm == pytest.approx((0.5, 0.5, 3.0))
    assert volumes["T1w"].shape == grid.shape
    assert volumes["T1w"].max() == 255


def test_the_acquired_axis_is_the_one_with_the_thickest_slices():
    rule = SliceRule(axes=("acquired",))
    stored = np.array([[0, 0, 1, 0], [1, 0, 0, 0], [0, 3, 0, 0], [0, 0, 0, 1]], dtype=float)

    assert rule.axis_numbers(grid_of((4, 4, 4), (1, 2, 1))) == (1,)
    assert rule.axis_numbers(Grid((4, 4, 4), stored)) == (2,)
    assert rule.axis_numbers(grid_of((4, 4, 4))) == (2,)


def test_an_empty_scan_is_looked_at_whole():
    scan = Scan(np.zeros((16, 16, 5), dtype=np.float32), grid_of((16, 16, 5)))

    assert slice_grid(scan, SliceRule()).shape == (16, 16, 5)


# Post-processing, on regions drawn by hand


def drawn(*rows):
    """One slice (i, j) from rows of characters; # is where something was found."""
    return np.array([[mark == "#" for mark in row] for row in rows])[:, :, None]


BRAIN = drawn(
    "........",
    ".####...",
    ".####...",
    ".####...",
    "........",
)  # fmt: skip
BESIDE = drawn(
    "......##",
    ".####.##",
    ".####.##",
    "........",
    "......#.",
)  # fmt: skip
ACROSS = drawn(
    "........",
    ".#####..",
    ".####...",
    "........",
    "........",
)  # fmt: skip


def test_regions_beside_the_outline_of_the_middle_slice_are_strays():
    found = np.concatenate([BESIDE, BRAIN, BRAIN], axis=2)

    stray = stray_regions(found, grid_of(found.shape), axis=2)

    assert np.array_equal(stray[:, :, 0], BESIDE[:, :, 0] & ~BRAIN[:, :, 0])
    assert not stray[:, :, 1:].any()


def test_a_region_may_lie_outside_by_a_fifth():
    found = np.concatenate([ACROSS, BRAIN, BRAIN], axis=2)

    assert not stray_regions(found, grid_of(found.shape), axis=2).any()  # 8 of 9 are inside
    assert stray_regions(found, grid_of(found.shape), axis=2, least_share=0.9)[:, :, 0].sum() == 9


def test_how_small_a_region_is_counts_in_mm2_of_its_own_plane():
    small = np.zeros((8, 8, 3), dtype=bool)
    small[1:7, 1:7] = True
    small[:, :, 0] = False
    small[3:5, 3:5, 0] = True  # 4 pixels

    def strays(spacing):
        return stray_regions(small, grid_of(small.shape, spacing), axis=2)[:, :, 0].sum()

    assert strays((1.0, 1.0, 9.0)) == 4  # 4 mm2, however thick the slice
    assert strays((1.0, 1.25, 1.0)) == 0  # 5 mm2
    assert strays((0.5, 2.4, 1.0)) == 4  # 4.8 mm2


@pytest.mark.parametrize("axis", [0, 1])
def test_slices_along_any_axis_are_cleaned_alike(axis):
    found = np.concatenate([BESIDE, BRAIN, BRAIN], axis=2)
    moved = np.moveaxis(found, 2, axis)

    expected = np.moveaxis(stray_regions(found, grid_of(found.shape), axis=2), 2, axis)

    assert np.array_equal(stray_regions(moved, grid_of(moved.shape), axis=axis), expected)


def test_touching_corners_join_a_region():
    found = np.zeros((6, 6, 1), dtype=bool)
    found[np.arange(6), np.arange(6)] = True

    assert not stray_regions(found, grid_of(found.shape), axis=2).any()


def test_nothing_found_leaves_nothing_to_remove():
    assert not stray_regions(np.zeros((3, 3, 3), dtype=bool), grid_of((3, 3, 3)), axis=0).any()
