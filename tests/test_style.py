"""Slopes: structures that are drawn higher, or more to the front, than a network draws them."""

import numpy as np
import pytest

from fewlabel.engine import Compute
from fewlabel.grid import Grid
from fewlabel.segmenter import Segmenter
from fewlabel.shares import Shares
from fewlabel.style import LARGEST_SHIFT, Style, center_of, lean
from fewlabel.volume import Scan
from tests.band_model import band_model, box_grid, head_at

SHAPE = (20, 24, 18)
RAS = Grid(SHAPE, np.diag([2.0, 2.0, 2.0, 1.0]))
UP = np.array([[0, 0, 0], [0, 0, 1.0], [0, 0, 0]], dtype=np.float32)


def soft_balls(seed=0):
    """Probabilities of air, a ball, and another one beside it, all with wide borders."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"))
    far = [np.linalg.norm(index - np.reshape(c, (3, 1, 1, 1)), axis=0)
           for c in ((7, 12, 9), (14, 12, 9))]  # fmt: skip
    logits = np.stack([np.zeros(SHAPE), 6 - far[0], 5 - far[1]])
    logits += np.random.default_rng(seed).normal(0, 0.3, logits.shape)
    odds = np.exp(logits)
    return np.rint(255 * odds / odds.sum(axis=0)).astype(np.uint8)


def kept(dense, most_bytes=np.inf):
    """The same in slabs of three planes."""
    shares = Shares(len(dense), dense.shape[1:], most_bytes)
    for first in range(0, dense.shape[1], 3):
        shares.add(first, dense[:, first : first + 3])
    return shares


def plainly(dense, slopes, grid):
    """What `lean` should give, voxel by voxel, in floating point."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), axis=-1)
    odds = dense.astype(float)
    for number, slope in enumerate(slopes):
        if slope.any():
            likely = np.argwhere(dense[number] >= 128).mean(axis=0)
            rise = (index - likely) @ grid.affine[:3, :3].T @ slope / 10
            odds[number] *= np.exp(np.clip(rise, -LARGEST_SHIFT, LARGEST_SHIFT))
    return dense.sum(axis=0, dtype=float) * odds / odds.sum(axis=0)


@pytest.mark.parametrize("most_bytes", [np.inf, 2000.0, 0.0], ids=["memory", "both", "file"])
def test_all_ways_to_keep_probabilities_lean_alike(most_bytes):
    dense = soft_balls()
    slopes = np.array([[0, 0, 0], [1.0, -0.5, 2.0], [-4.0, 0, 0.3]], dtype=np.float32)
    expected = plainly(dense, slopes, RAS)
    shares = kept(dense, most_bytes)

    lean(shares, slopes, RAS)
    lean(dense, slopes, RAS)

    np.testing.assert_array_equal(np.stack(list(shares)), dense)
    assert np.abs(dense - expected).max() < 0.51  # of 255


def test_a_slope_moves_a_structure_and_leaves_its_size():
    dense = soft_balls()
    before = dense.argmax(axis=0) == 1
    lean(dense, UP, RAS)
    after = dense.argmax(axis=0) == 1

    moved = np.argwhere(after).mean(axis=0) - np.argwhere(before).mean(axis=0)
    assert moved[2] > 0.4
    assert np.abs(moved[:2]).max() < 0.2
    assert after.sum() == pytest.approx(before.sum(), rel=0.15)


def test_probabilities_still_add_up():
    dense = soft_balls()
    lean(dense, UP, RAS)

    assert np.abs(dense.sum(axis=0, dtype=int) - 255).max() <= 2  # by rounding


def test_rounding_up_does_not_turn_a_certain_voxel_into_an_impossible_one():
    dense = np.zeros((4, 1, 1, 9), dtype=np.uint8)
    dense[1, ..., 2:] = 255
    dense[2, ..., 2:], dense[3, ..., 2:] = 1, 1  # 257 in all
    slopes = np.array([[0, 0, 0], [0, 0, 3.0], [0, 0, 0], [0, 0, 0]], dtype=np.float32)
    lean(dense, slopes, Grid((1, 1, 9), np.diag([5.0, 5.0, 5.0, 1.0])))

    assert dense[1, 0, 0, -1] == 255


def test_right_front_and_up_are_those_of_the_head_however_voxels_are_stored():
    dense = soft_balls()
    slopes = np.array([[0, 0, 0], [1.0, -0.5, 2.0], [0, 0, 0]], dtype=np.float32)
    flipped = np.ascontiguousarray(dense[:, ::-1].transpose(0, 3, 1, 2))
    affine = np.zeros((4, 4))
    affine[0, 1], affine[1, 2], affine[2, 0], affine[3, 3] = -2, 2, 2, 1

    lean(dense, slopes, RAS)
    lean(flipped, slopes, Grid(flipped.shape[1:], affine))

    np.testing.assert_array_equal(flipped.transpose(0, 2, 3, 1)[:, ::-1], dense)


def test_what_is_nowhere_likely_has_no_center_and_stays():
    dense = soft_balls()
    dense[1] = np.minimum(dense[1], 127)
    before = dense.copy()
    lean(dense, UP, RAS)

    assert center_of(dense, 1) is None
    assert center_of(kept(dense), 1) is None
    np.testing.assert_array_equal(dense, before)


def test_centers_do_not_depend_on_how_probabilities_are_kept():
    dense = soft_balls()

    np.testing.assert_allclose(center_of(kept(dense), 2), center_of(dense, 2))
    np.testing.assert_allclose(center_of(dense, 2), np.argwhere(dense[2] >= 128).mean(axis=0))


def test_a_model_with_slopes_draws_its_structures_elsewhere(tmp_path):
    exact = Compute(threads=1, precision="exact")
    plain = band_model(tmp_path / "plain")
    leaning = band_model(tmp_path / "leaning", slopes={"Right-Lump": (0.0, 0.0, 1.5)})
    scan = head_at(box_grid())
    lump = plain.card.protocol.class_of("Right-Lump")

    found = [Segmenter(model, exact)(scan).labels for model in (plain, leaning)]

    places = [np.argwhere(labels.data == lump) @ labels.grid.affine[:3, :3].T for labels in found]
    assert places[1].mean(axis=0)[2] > places[0].mean(axis=0)[2] + 0.3


def test_a_model_with_slopes_says_the_same_of_a_scan_stored_another_way(tmp_path):
    model = band_model(tmp_path / "leaning", slopes={"Right-Lump": (0.7, 0.0, 1.5)})
    segment = Segmenter(model, Compute(threads=1, precision="exact"))
    scan = head_at(box_grid())
    affine = scan.grid.affine.copy()
    affine[:3, 3] += affine[:3, 0] * (scan.grid.shape[0] - 1)
    affine[:3, 0] *= -1
    mirrored = Scan(np.ascontiguousarray(scan.data[::-1]), Grid(scan.grid.shape, affine))

    one, other = segment(scan).labels, segment(mirrored).labels

    np.testing.assert_array_equal(other.data[::-1], one.data)


def test_the_style_of_a_card_names_every_class(tmp_path):
    card = band_model(tmp_path / "m", offsets={"CSF": 0.5}, slopes={"Ball": (0.1, 0.2, 0.3)}).card

    np.testing.assert_allclose(card.style.offsets, [0, 0, 0, 0.5])
    np.testing.assert_allclose(card.style.slopes[1], [0.1, 0.2, 0.3])
    assert not card.style.slopes[[0, 2, 3]].any()
    assert Style.plain(4).offsets.shape == (4,)
