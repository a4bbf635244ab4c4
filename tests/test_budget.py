"""Choosing slices, on brains small enough to count."""

import numpy as np
import pytest

from fewlabel.brain_extent import bright_extent, extent_of
from fewlabel.budget import (
    AXES,
    Brain,
    Slice,
    choose,
    deal,
    doubt_by_slice,
    doubt_covered_mm2,
    hide,
)
from fewlabel.conform import turned
from fewlabel.errors import ConfigError
from fewlabel.grid import Grid
from fewlabel.labels import Label, LabelProtocol
from fewlabel.volume import LabelMap, Scan
from tests.band_model import turned_scan

CUBE = Grid((40, 40, 40), np.diag([2.0, 2.0, 2.0, 1.0]))
ONE = LabelProtocol("one", (Label(5, "Brain"),))


def brain(low=0, high=40, doubt=None, grid=CUBE):
    return Brain(grid, np.array([[low, high]] * 3), doubt)


def numbers(slices):
    return [one.index for one in slices]


def test_slices_lie_between_5_and_95_percent_of_the_brain():
    # 5 % of 20 slices is 1: of 10 to 29, 11 to 28 are left
    assert brain(10, 30).numbers(2) == range(11, 29)
    (chosen,) = choose([brain(10, 30)], "axial", 18)
    assert numbers(chosen) == list(range(11, 29))


def test_equidistant_slices_are_the_middles_of_equal_parts():
    # 2 to 37 are 36 slices; three parts of 12 begin at 2, 14, 26 and have their middle 6 further
    (chosen,) = choose([brain()], "equidistant", 3)
    assert numbers(chosen) == [8, 20, 32]


@pytest.mark.parametrize("axis", AXES)
def test_a_fixed_axis_is_kept_to_in_all_scans(axis):
    chosen = choose([brain(), brain(), brain()], axis, 9, seed=1)
    assert {one.axis for scan in chosen for one in scan} == {axis}
    assert [len(scan) for scan in chosen] == [3, 3, 3]


def test_random_draws_an_axis_for_each_scan_and_keeps_to_it_within_one():
    chosen = choose([brain()] * 30, "random", 90, seed=2)
    axes = [{one.axis for one in scan} for scan in chosen]
    assert all(len(found) == 1 for found in axes)
    assert set.union(*axes) == set(AXES)


def test_a_seed_decides_all_and_another_seed_otherwise():
    brains = [brain()] * 4
    assert choose(brains, "random", 20, seed=3) == choose(brains, "random", 20, seed=3)
    assert choose(brains, "random", 20, seed=3) != choose(brains, "random", 20, seed=4)


def test_a_budget_is_shared_out_evenly_and_what_does_not_fit_goes_to_others():
    rng = np.random.default_rng(0)
    assert sorted(deal(10, [9, 9, 9], rng)) == [3, 3, 4]
    assert deal(10, [2, 9, 9], rng)[0] == 2
    assert sum(deal(20, [2, 9, 9], rng)) == 20
    assert sorted(deal(2, [5, 5, 5], rng)) == [0, 1, 1]


@pytest.mark.parametrize("total", [0, -1, 73])
def test_a_budget_that_is_nothing_or_too_large_is_refused_with_what_there_is(total):
    with pytest.raises(ConfigError, match="2 scans have 72 between 5 and 95 %"):
        choose([brain(), brain()], "coronal", total)


def test_slices_are_numbered_as_in_the_file_in_all_orientations():
    head = np.zeros((8, 9, 10), dtype=np.float32)
    head[:, :, 6:] = 1  # the upper part is bright
    scan = Scan(head, Grid(head.shape, np.diag([1.0, 1.0, 1.0, 1.0])))
    for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
        for signs in ((1, 1, 1), (-1, -1, -1), (1, -1, 1)):
            stored = turned_scan(scan, order, signs)
            extent = np.array([[0, 8], [0, 9], [0, 10]])
            up = Brain(stored.grid, extent).slices(2, [7])[0]
            assert up.axis == "axial"
            assert up.voxel_axis == order.index(2)
            assert up.position_mm(stored.grid) == pytest.approx(7.0)
            assert (stored.data[up.cut()] == 1).all()


def test_itk_snap_counts_slices_from_one():
    assert Slice("axial", 2, 0).shown == 1


def test_doubt_of_a_slice_is_the_area_that_is_unsure():
    # 3 voxels of 0.5 in the axial slice 1, each 1 x 2 mm there; 1 x 4 mm seen from the front
    doubt = np.zeros((3, 4, 5), dtype=np.float32)
    doubt[:, 2, 1] = 0.5
    sagittal, coronal, axial = doubt_by_slice(doubt, Grid((3, 4, 5), np.diag([1.0, 2.0, 4.0, 1.0])))
    assert axial.tolist() == [0, 3, 0, 0, 0]
    assert coronal.tolist() == [0, 0, 6, 0]
    assert sagittal.tolist() == [4, 4, 4]


def doubts(axial):
    along = np.zeros(40)
    along[list(axial)] = list(axial.values())
    return (np.zeros(40), np.zeros(40), along)


def test_the_most_doubted_slices_are_picked_but_no_neighbors():
    # 36 slices for 3: half the distance of 12 is kept, so 19 and 21 are too near to 20
    unsure = brain(doubt=doubts({19: 8.0, 20: 9.0, 21: 8.0, 30: 2.0, 8: 1.0}))
    (chosen,) = choose([unsure], "uncertain", 3)
    assert numbers(chosen) == [8, 20, 30]
    assert doubt_covered_mm2([unsure], [chosen]) == pytest.approx(4.0)


def test_doubted_slices_fit_even_if_all_must_be_taken():
    unsure = brain(doubt=doubts({20: 1.0}))
    (chosen,) = choose([unsure], "uncertain", 36)
    assert numbers(chosen) == list(range(2, 38))


def test_the_axis_along_which_doubt_adds_up_to_most_is_taken():
    flat = (np.zeros(40), np.full(40, 2.0), np.full(40, 1.0))
    (chosen,) = choose([brain(doubt=flat)], "uncertain", 2)
    assert {one.axis for one in chosen} == {"coronal"}


def test_doubt_is_found_again_in_a_scan_that_is_stored_upside_down():
    affine = np.diag([2.0, 2.0, -2.0, 1.0])
    unsure = brain(doubt=doubts({30: 5.0}), grid=Grid((40, 40, 40), affine))
    (chosen,) = choose([unsure], "uncertain", 1)
    assert numbers(chosen) == [9]
    assert unsure.doubt_of(chosen) == [5.0]


def test_without_a_model_nothing_is_uncertain():
    with pytest.raises(ConfigError, match="add --model"):
        choose([brain()], "uncertain", 1)


def test_hidden_labels_are_unannotated_everywhere_else():
    labels = LabelMap(np.ones((3, 3, 3), dtype=np.int16), Grid((3, 3, 3), np.eye(4)), ONE)
    labels.data[0, 0, 0] = 0
    seen = hide(labels, [Slice("axial", 2, 0), Slice("sagittal", 0, 2)])
    assert (seen.data[:, :, 0] == labels.data[:, :, 0]).all()
    assert (seen.data[2] == 1).all()
    assert (seen.data[:2, :, 1:] == -1).all()
    assert (labels.data >= 0).all()  # the map that was given is as it was


def test_the_extent_leaves_out_slices_that_hold_specks_only():
    # slices of 10 x 10 voxels of 4 mm2 hold 400 mm2, a speck 4
    mask = np.zeros((40, 40, 40), dtype=bool)
    mask[10:20, 15:25, 5:35] = True
    mask[12, 17, 38] = True
    assert extent_of(mask, CUBE).tolist() == [[10, 20], [15, 25], [5, 35]]
    assert extent_of(np.zeros_like(mask), CUBE).tolist() == [[0, 40]] * 3


def test_a_neck_is_no_brain():
    # a head 100 mm long and high on a neck of the same width: 0.8 * 100 mm count
    data = np.zeros((60, 60, 100), dtype=np.float32)
    data[5:45, 5:55, 0:90] = 100
    extent = bright_extent(Scan(data, Grid(data.shape, np.diag([2.0, 2.0, 2.0, 1.0]))))
    # voxels of depth 0 to 80 mm below the top, which are 41
    assert extent.tolist() == [[5, 45], [5, 55], [49, 90]]


def test_a_brain_alone_keeps_all_of_its_height():
    i, j, k = np.indices((40, 40, 40)) - 20.0
    ball = ((i / 14) ** 2 + (j / 18) ** 2 + (k / 13) ** 2 < 1).astype(np.float32)
    scan = Scan(ball, Grid(ball.shape, np.diag([4.0, 4.0, 4.0, 1.0])))
    whole = extent_of(turned(scan)[1] > 0, scan.grid)
    assert bright_extent(scan).tolist() == whole.tolist()
