"""Choosing offsets and slopes."""

import numpy as np
import pytest

from fewlabel.evidence import Evidence, evidence_of
from fewlabel.grid import Grid
from fewlabel.labels import Label, LabelProtocol, load_protocol
from fewlabel.style import Style, center_of
from fewlabel.style_fit import LARGEST, _Soft, fit
from fewlabel.volume import LabelMap

SHAPE = (8, 10, 6)
GRID = Grid(SHAPE, np.diag([4.0, 4.0, 4.0, 1.0]))
THREE = LabelProtocol("three", tuple(Label(n, name) for n, name in enumerate("ABC", start=1)))
MEANING = np.array([0, 1, 2, 3, -1], dtype=np.int16)
"""Of five classes the last is unknown to the labels."""


def made_up(seed: int, person: str = "a") -> tuple[Evidence, np.ndarray, np.ndarray]:
    """Evidence, the probabilities that it comes from, and the truth; some voxels have none."""
    rng = np.random.default_rng(seed)
    odds = rng.gamma(0.4, size=(5, *SHAPE))
    shares = np.rint(255 * odds / odds.sum(axis=0)).astype(np.uint8)
    truth = rng.choice(5, SHAPE, p=(0.4, 0.25, 0.15, 0.1, 0.1)).astype(np.int16)
    truth[truth == 4] = -1
    return evidence_of(person, shares, GRID, LabelMap(truth, GRID, THREE), MEANING), shares, truth


def some_style(seed: int) -> Style:
    rng = np.random.default_rng(seed)
    offsets, slopes = rng.normal(0, 1, 5), rng.normal(0, 0.5, (5, 3))
    return Style(offsets.astype(np.float32), slopes.astype(np.float32))


def plainly(shares, truth, style):
    """Mean Dice of labels, computed on all voxels and classes at once."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), axis=-1)
    with np.errstate(divide="ignore"):
        logits = np.log(shares.astype(float))
    for n in range(5):
        center = center_of(shares, n)
        rise = 0.4 * (index - center) @ style.slopes[n]
        logits[n] += style.offsets[n] + np.clip(rise, -3, 3)
    logits = np.where(shares.max(axis=0) >= 250, np.log(np.maximum(shares, 1e-9)), logits)
    said = MEANING[logits.argmax(axis=0)]
    there = (truth >= 0) & (said >= 0)
    said, truth = said[there], truth[there]
    dice = [2 * np.sum((said == n) & (truth == n)) / (np.sum(said == n) + np.sum(truth == n))
            for n in (1, 2, 3)]  # fmt: skip
    return np.mean(dice)


@pytest.mark.parametrize("seed", range(4))
def test_few_entries_say_what_all_voxels_and_classes_would(seed):
    found, shares, truth = made_up(seed)
    style = some_style(seed)

    assert found.dice(style) == pytest.approx(plainly(shares, truth, style))


def test_gradients_are_those_of_small_differences():
    found, *_ = made_up(0)
    soft, style, little = _Soft(found, 1), some_style(3), 0.02
    _, by_offset, by_slope = soft.gain(style)

    def gain(n, axis, change):
        moved = Style(style.offsets.copy(), style.slopes.copy())
        if axis is None:
            moved.offsets[n] += change
        else:
            moved.slopes[n, axis] += change
        return soft.gain(moved)[0]

    for n in range(5):
        for axis, rise in [(None, by_offset[n]), *enumerate(by_slope[n])]:
            slow = (gain(n, axis, little) - gain(n, axis, -little)) / (2 * little)
            assert rise == pytest.approx(slow, abs=3e-4, rel=0.03)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_chosen_is_better_than_nothing(seed):
    found = [made_up(seed)[0], made_up(seed + 100, "b")[0]]

    style = fit(found, [(1,), (2, 3), (4,)])

    nothing = Style.plain(5)
    assert np.mean([e.dice(style) for e in found]) > np.mean([e.dice(nothing) for e in found])
    assert np.abs(style.offsets).max() <= LARGEST
    assert np.abs(style.slopes).max() <= LARGEST


def test_sides_are_mirror_images_and_what_has_none_does_not_lean_to_one():
    style = fit([made_up(5)[0]], [(1,), (2, 3)])

    assert style.offsets[2] == style.offsets[3]
    np.testing.assert_array_equal(style.slopes[2] * [-1, 1, 1], style.slopes[3])
    assert style.slopes[2].any()
    assert style.slopes[1, 0] == 0
    assert style.slopes[1, 1:].all()


def test_classes_that_are_not_asked_for_keep_their_readiness():
    style = fit([made_up(6)[0]], [(2,)])

    assert not style.offsets[[0, 1, 3, 4]].any()
    assert not style.slopes[[0, 1, 3, 4]].any()


def test_large_structures_have_no_slope():
    grid = Grid(SHAPE, np.diag([20.0, 20.0, 20.0, 1.0]))
    _, shares, truth = made_up(7)
    large = evidence_of("a", shares, grid, LabelMap(truth, grid, THREE), MEANING)

    style = fit([large], [(1,), (2, 3)])

    assert style.offsets[1:4].all()
    assert not style.slopes.any()


def test_a_share_of_the_voxels_says_about_the_same():
    found, *_ = made_up(8)
    style = Style.plain(5)
    whole, half = _Soft(found, 1).gain(style)[0], _Soft(found.every(2), 2).gain(style)[0]

    assert half == pytest.approx(whole, abs=0.05)
    assert set(found.every(2).voxel) == {n for n in found.voxel if n % 2 == 0}


def test_a_network_that_is_sure_of_everything_is_left_as_it_is():
    aseg = load_protocol("aseg32")
    left = aseg.class_of("Left-Amygdala")
    shares = np.zeros((aseg.n_classes, 4, 4, 4), dtype=np.uint8)
    shares[left, :2], shares[0, 2:] = 255, 255
    grid = Grid((4, 4, 4), np.eye(4))
    truth = LabelMap(shares.argmax(axis=0).astype(np.int16), grid, aseg)
    sure = evidence_of("a", shares, grid, truth, np.arange(aseg.n_classes, dtype=np.int16))

    style = fit([sure], [(left, aseg.class_of("Right-Amygdala"))])

    assert sure.dice(style) == 1.0
    assert not style.offsets.any()
    assert not style.slopes.any()


def test_both_sides_get_what_brings_them_to_the_truth():
    aseg = load_protocol("aseg32")
    left, right = aseg.class_of("Left-Amygdala"), aseg.class_of("Right-Amygdala")
    shares = np.zeros((aseg.n_classes, 4, 1, 1), dtype=np.uint8)
    shares[0], shares[left, :2], shares[right, 2:] = 150, 33, 75  # 1.5 and 0.7 in logarithms
    grid = Grid((4, 1, 1), np.eye(4))
    truth = LabelMap(np.array([left, left, right, right], np.int16).reshape(4, 1, 1), grid, aseg)
    meaning = np.arange(aseg.n_classes, dtype=np.int16)
    found = evidence_of("a", shares, grid, truth, meaning)

    style = fit([found], [(left, right)])

    assert 1.5 < style.offsets[left] <= LARGEST
    assert found.dice(style) == 1.0
