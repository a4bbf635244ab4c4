"""Numbers worked by hand, and against implementations that are not ours."""

import math

import numpy as np
import pytest
from scipy.ndimage import binary_erosion
from scipy.spatial.distance import cdist

from fewlabel.errors import ConfigError, GridMismatch
from fewlabel.grid import Grid
from fewlabel.labels import Label, LabelProtocol, load_protocol
from fewlabel.metrics import (
    MEASURES,
    dice,
    hausdorff95_mm,
    intraclass_correlation,
    joint_counts,
    mean_surface_distance_mm,
    measure,
    surface_distances_mm,
    volume_difference_mm3,
    volumes_mm3,
)
from fewlabel.volume import LabelMap

SPACINGS = [(1.0, 1.0, 1.0), (0.5, 1.0, 3.0)]


def blobs(seed, spacing=(1.0, 1.0, 1.0), shape=(16, 18, 14)):
    """Three overlapping balls of random places, in classes 1 to 3, as a predictor might err."""
    rng = np.random.default_rng(seed)
    data = np.zeros(shape, np.int16)
    mm = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) * spacing
    for number in (1, 2, 3):
        center = np.array([5 + 3 * number, 9, 7]) * spacing + rng.normal(0, 0.8, 3)
        data[((mm - center) ** 2).sum(-1) < (4 + rng.random()) ** 2] = number
    protocol = LabelProtocol("tissue", (Label(10, "CSF"), Label(20, "GM"), Label(30, "WM")))
    return LabelMap(data, Grid(shape, np.diag([*spacing, 1.0])), protocol)


def test_dice_counts_twice_the_overlap_over_both_sizes(labels_of):
    scores = dice(labels_of([[1, 1, 2, 2]]), labels_of([[1, 2, 2, 2]]))

    assert scores["CSF"] == pytest.approx(2 * 1 / (2 + 1))
    assert scores["GM"] == pytest.approx(2 * 2 / (2 + 3))


def test_dice_of_a_structure_that_neither_side_has_is_undefined(labels_of):
    assert math.isnan(dice(labels_of([[1, 0]]), labels_of([[1, 0]]))["WM"])


@pytest.mark.parametrize(("ours", "theirs"), [(3, 0), (0, 3)])
def test_dice_of_a_structure_that_only_one_side_has_is_zero(labels_of, ours, theirs):
    assert dice(labels_of([[ours, 0]]), labels_of([[theirs, 0]]))["WM"] == 0.0


@pytest.mark.parametrize(("ours", "theirs"), [([1, 1, 1], [1, 1, -1]), ([1, 1, -1], [1, 1, 1])])
def test_dice_leaves_out_voxels_that_nobody_annotated(labels_of, ours, theirs):
    assert dice(labels_of([ours]), labels_of([theirs]))["CSF"] == 1.0


def test_dice_refuses_volumes_that_lie_elsewhere(labels_of):
    half_a_voxel_up = labels_of([[1, 1]], origin=(0.0, 0.0, 0.5))

    with pytest.raises(GridMismatch, match="comparing labels: the volumes do not share voxels"):
        dice(labels_of([[1, 1]]), half_a_voxel_up)


def test_a_prediction_is_mapped_to_the_protocol_of_the_truth():
    fine, coarse = load_protocol("neuromorphometrics138"), load_protocol("aseg32")
    gyri = [fine.class_of("Left AIns anterior insula"), fine.class_of("Left Cun cuneus")]
    grid = Grid((1, 1, 2), np.eye(4))
    predicted = LabelMap(np.array([[gyri]], np.int16), grid, fine)
    cortex = coarse.class_of("Left-Cerebral-Cortex")
    reference = LabelMap(np.array([[[cortex, cortex]]], np.int16), grid, coarse)

    assert dice(predicted, reference)["Left-Cerebral-Cortex"] == 1.0


def test_joint_counts_hold_every_annotated_voxel_once(labels_of):
    counts = joint_counts(labels_of([[1, 2, 0, 3]]), labels_of([[1, 1, 0, -1]]))

    assert counts.tolist() == [[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_distances_of_two_bars_worked_by_hand(labels_of):
    """Bars of one voxel a row; ours begins one and ends two voxels (of 2 mm) later."""
    ours = labels_of([[0, 1, 1, 1, 1, 1]], spacing=(1.0, 2.0, 1.0))
    theirs = labels_of([[1, 1, 1, 1, 0, 0]], spacing=(1.0, 2.0, 1.0))

    found = surface_distances_mm(ours, theirs)["CSF"]

    assert found[0].tolist() == [0, 0, 0, 2, 4]
    assert found[1].tolist() == [2, 0, 0, 0]
    assert mean_surface_distance_mm(ours, theirs)["CSF"] == pytest.approx(8 / 9)
    # of 0 0 0 2 4 the 95th percentile lies 0.8 of the way from the fourth to the fifth
    assert hausdorff95_mm(ours, theirs)["CSF"] == pytest.approx(2 + 0.8 * 2)


def test_the_inside_of_a_structure_is_no_surface():
    grid = Grid((7, 7, 7), np.eye(4))
    protocol = LabelProtocol("one", (Label(1, "cube"),))
    data = np.zeros((7, 7, 7), np.int16)
    data[1:6, 1:6, 1:6] = 1

    found = surface_distances_mm(LabelMap(data, grid, protocol), LabelMap(data, grid, protocol))

    assert len(found["cube"][0]) == 5**3 - 3**3


def test_distances_know_absence(labels_of):
    ours, theirs = labels_of([[1, 2, 0]]), labels_of([[1, 0, 3]])

    for metric in (hausdorff95_mm, mean_surface_distance_mm):
        scores = metric(ours, theirs)
        assert scores == {"CSF": 0.0, "GM": math.inf, "WM": math.inf}
        assert math.isnan(metric(ours, ours)["WM"])


def test_no_surface_runs_where_the_annotation_ends():
    protocol = LabelProtocol("one", (Label(1, "bar"),))
    grid = Grid((9, 3, 3), np.eye(4))
    bar = np.zeros((9, 3, 3), np.int16)
    bar[2:7] = 1
    cut = bar.copy()
    cut[5:] = -1

    found = surface_distances_mm(LabelMap(bar, grid, protocol), LabelMap(cut, grid, protocol))

    # rows 2 to 4 count; their centers are surface only in row 2, next to background
    assert len(found["bar"][0]) == len(found["bar"][1]) == 3 * 8 + 1
    assert max(found["bar"][0]) == 0


@pytest.mark.parametrize("spacing", SPACINGS)
def test_distances_equal_brute_force(spacing):
    ours, theirs = blobs(0, spacing), blobs(1, spacing)

    for number, name in enumerate(ours.protocol.names, start=1):
        points = []
        for labels in (ours, theirs):
            mask = labels.data == number
            points.append(np.argwhere(mask & ~binary_erosion(mask)) * np.array(spacing))
        apart = cdist(*points)
        lists = (apart.min(1), apart.min(0))
        assert hausdorff95_mm(ours, theirs)[name] == pytest.approx(
            max(np.percentile(one, 95) for one in lists)
        )
        assert mean_surface_distance_mm(ours, theirs)[name] == pytest.approx(
            np.concatenate(lists).mean()
        )


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_scores_equal_those_of_monai(spacing):
    torch = pytest.importorskip("torch")
    monai = pytest.importorskip("monai.metrics")
    ours, theirs = blobs(2, spacing), blobs(3, spacing)
    one_hot = [
        torch.from_numpy(np.stack([labels.data == n for n in range(4)])[None]).float()
        for labels in (ours, theirs)
    ]

    overlap = monai.compute_dice(*one_hot, include_background=False)[0]
    far = monai.compute_hausdorff_distance(*one_hot, percentile=95, spacing=spacing)[0]
    mean = monai.compute_average_surface_distance(*one_hot, symmetric=True, spacing=spacing)[0]

    assert list(dice(ours, theirs).values()) == pytest.approx(overlap.tolist(), abs=1e-6)
    assert list(hausdorff95_mm(ours, theirs).values()) == pytest.approx(far.tolist(), abs=1e-4)
    assert list(mean_surface_distance_mm(ours, theirs).values()) == pytest.approx(
        mean.tolist(), abs=1e-4
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scores_are_near_those_of_surface_distance():
    """It weighs surface patches by area and puts them on voxel corners: near, never equal."""
    surface_distance = pytest.importorskip("surface_distance")
    ours, theirs = blobs(4), blobs(5)
    found = surface_distance.compute_surface_distances(
        ours.data == 3, theirs.data == 3, spacing_mm=(1.0, 1.0, 1.0)
    )

    robust = surface_distance.compute_robust_hausdorff(found, 95)
    means = surface_distance.compute_average_surface_distance(found)

    assert dice(ours, theirs)["WM"] == surface_distance.compute_dice_coefficient(
        ours.data == 3, theirs.data == 3
    )
    assert hausdorff95_mm(ours, theirs)["WM"] == pytest.approx(robust, abs=0.5)
    assert mean_surface_distance_mm(ours, theirs)["WM"] == pytest.approx(np.mean(means), abs=0.2)


def test_turning_the_head_does_not_change_a_distance():
    ours, theirs = blobs(6, (0.5, 1.0, 3.0)), blobs(7, (0.5, 1.0, 3.0))
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
    grid = Grid(ours.grid.shape, turn @ ours.grid.affine)

    turned = [LabelMap(labels.data, grid, labels.protocol) for labels in (ours, theirs)]

    assert hausdorff95_mm(*turned) == pytest.approx(hausdorff95_mm(ours, theirs))


def test_volumes_are_voxels_times_their_size(labels_of):
    labels = labels_of([[1, 1, 2, -1]], spacing=(0.5, 2.0, 3.0))

    assert volumes_mm3(labels) == pytest.approx({"CSF": 6.0, "GM": 3.0, "WM": 0.0})


def test_a_volume_difference_is_what_was_predicted_too_much(labels_of):
    ours, theirs = labels_of([[1, 1, 2, 1]]), labels_of([[1, 2, 2, -1]])

    scores = volume_difference_mm3(ours, theirs)

    assert (scores["CSF"], scores["GM"]) == (1.0, -1.0)
    assert math.isnan(scores["WM"])


def test_intraclass_correlation_is_that_of_shrout_and_fleiss():
    """Their table 2: six targets, four judges; table 4 gives ICC(2,1) = 0.29."""
    ratings = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]

    assert intraclass_correlation(np.array(ratings, float)) == pytest.approx(0.29, abs=0.005)


def test_intraclass_correlation_punishes_a_constant_excess():
    truth = np.array([1.0, 2.0, 3.0])

    same = intraclass_correlation(np.stack([truth, truth], 1))
    shifted = intraclass_correlation(np.stack([truth + 1, truth], 1))

    assert same == pytest.approx(1.0)
    # rows 2, columns 1.5, error 0: 2 / (2 + 2 * 1.5 / 3)
    assert shifted == pytest.approx(2 / 3)


@pytest.mark.parametrize("values", [[[1.0, 2.0]], [[1.0], [2.0]], [[1.0, 1.0], [1.0, 1.0]]])
def test_intraclass_correlation_of_too_little_is_undefined(values):
    assert math.isnan(intraclass_correlation(np.array(values)))


def test_measuring_several_at_once_gives_each_of_them():
    ours, theirs = blobs(8), blobs(9)

    assert measure(ours, theirs, list(MEASURES)) == {
        name: function(ours, theirs) for name, (function, _) in MEASURES.items()
    }


def test_an_unknown_metric_is_refused(labels_of):
    with pytest.raises(ConfigError, match=r"no metric 'jaccard'\.\n  To fix: use any of dice, h"):
        measure(labels_of([[1]]), labels_of([[1]]), ["jaccard"])
