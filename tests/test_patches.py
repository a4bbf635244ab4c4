import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewlabel.patches import cut, draw_start, find_places, stitch, tile_starts, tile_weights


@pytest.fixture
def classes():
    """A large structure 1 and a rare structure 3; the last slice was not looked at."""
    found = np.zeros((10, 10, 10), dtype=np.int16)
    found[:5] = 1
    found[7, 8, 2] = 3
    found[:, :, 9] = -1
    return found


def test_sizes_count_what_was_looked_at(classes):
    places = find_places(classes, 4)

    assert places.sizes.tolist() == [900 - 450 - 1, 450, 0, 1]


def test_kept_voxels_are_of_their_class_and_no_more_than_asked_for(classes):
    places = find_places(classes, 4, most=20)

    assert len(places.voxels) == 21
    for number, i, j, k in places.voxels:
        assert classes[i, j, k] == number


def test_rare_structures_are_drawn_as_often_as_large_ones_at_full_rarity(classes):
    places = find_places(classes, 4)
    rng = np.random.default_rng(0)

    drawn = [places.draw(rng, rarity=1.0) for _ in range(400)]

    assert 150 < drawn.count((7, 8, 2)) < 250


def test_structures_are_drawn_by_size_without_rarity(classes):
    places = find_places(classes, 4)
    rng = np.random.default_rng(0)

    drawn = [places.draw(rng, rarity=0.0) for _ in range(400)]

    assert drawn.count((7, 8, 2)) < 10


def test_a_map_without_structures_has_no_place_to_draw():
    places = find_places(np.full((3, 3, 3), -1, dtype=np.int16), 4)

    assert places.draw(np.random.default_rng(0), 0.5) is None


@given(seed=st.integers(0, 10_000), voxel=st.tuples(*[st.integers(0, 39)] * 3))
def test_a_patch_lies_within_the_scan_and_holds_the_voxel_it_was_drawn_for(seed, voxel):
    start = draw_start(np.random.default_rng(seed), (40, 40, 40), (16, 16, 16), voxel)

    for first, at in zip(start, voxel, strict=True):
        assert 0 <= first <= 24
        assert first <= at < first + 16


def test_a_scan_smaller_than_the_patch_comes_to_lie_in_its_middle():
    start = draw_start(np.random.default_rng(0), (10, 40, 11), (16, 16, 16))

    assert start[0] == -3
    assert start[2] == -3


def test_what_lies_beyond_the_scan_gets_the_value_asked_for():
    part = cut(np.arange(3, dtype=np.int16).reshape(3, 1, 1), (-1, 0, 0), (5, 1, 2), -1)

    assert part[:, 0, 0].tolist() == [-1, 0, 1, 2, -1]
    assert part[:, 0, 1].tolist() == [-1] * 5


def test_a_part_wholly_beyond_the_scan_is_empty():
    assert (cut(np.ones((3, 3, 3)), (5, 0, 0), (2, 2, 2), 0) == 0).all()


def test_a_part_is_a_copy():
    data = np.zeros((4, 4, 4))

    cut(data, (0, 0, 0), (2, 2, 2), 0)[:] = 1

    assert not data.any()


@given(
    size=st.integers(1, 300), patch=st.integers(1, 100), overlap=st.sampled_from([0.0, 0.25, 0.5])
)
def test_tiles_cover_the_scan_and_overlap_as_asked(size, patch, overlap):
    starts = tile_starts(size, patch, overlap)

    assert starts[0] == 0
    assert starts[-1] == max(0, size - patch)
    steps = np.diff(starts)
    assert (steps <= max(1, int(patch * (1 - overlap))) + 1).all()


@pytest.mark.parametrize(("patch", "common"), [(64, 16), (96, 24), (200, 24)])
def test_large_tiles_overlap_no_more_than_they_need(patch, common):
    assert tile_starts(2 * patch - common, patch) == [0, patch - common]
    assert len(tile_starts(2 * patch - common + 1, patch)) == 3


def test_weights_are_largest_in_the_middle_and_never_zero():
    weights = tile_weights((5, 7, 9))

    assert np.unravel_index(weights.argmax(), weights.shape) == (2, 3, 4)
    assert weights.min() > 0


@pytest.mark.parametrize("shape", [(20, 17, 9), (5, 30, 8), (8, 8, 8)])
def test_stitching_a_voxelwise_prediction_gives_that_of_the_whole_scan(shape):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, shape)

    def predict(part):
        return np.stack([(part[0] == c).astype(np.float32) for c in range(3)])

    found = stitch(truth[None].astype(np.float32), (8, 8, 8), 3, predict, overlap=0.5)

    assert np.array_equal(found, truth)


def test_stitching_trusts_the_middle_of_patches_more_than_their_edges():
    edges_are_wrong = np.ones((8, 8, 8), dtype=bool)
    edges_are_wrong[2:6, 2:6, 2:6] = False

    def predict(_):
        return np.stack([~edges_are_wrong, edges_are_wrong]).astype(np.float32)

    found = stitch(np.zeros((1, 32, 32, 32), np.float32), (8, 8, 8), 2, predict, overlap=0.75)

    assert (found[6:26, 6:26, 6:26] == 0).all()
