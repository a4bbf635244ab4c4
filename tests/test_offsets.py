"""Choosing offsets."""

import itertools
import statistics

import numpy as np
import pytest

from fewlabel.labels import load_protocol
from fewlabel.offsets import _PRICE, _STEPS, LARGEST, Evidence, fit


def made_up(seed: int, person: str = "a") -> Evidence:
    """Five classes, of which two are one to the labels, and one is unknown to them."""
    rng = np.random.default_rng(seed)
    odds = rng.gamma(0.4, size=(5, 400))
    shares = np.rint(255 * odds / odds.sum(axis=0)).astype(np.uint8)
    truth = rng.choice(4, 400, p=(0.4, 0.3, 0.2, 0.1)).astype(np.int16)
    meaning = np.array([0, 1, 2, 3, -1], dtype=np.int16)
    return Evidence(person, shares, truth, meaning, rng.integers(50, 90, (3, 4)).astype(float))


def slowly(found, pairs):
    """The same ascent, each step over all voxels and classes."""

    def worth(offsets):
        price = _PRICE * sum(float(offsets[pair[0]]) ** 2 for pair in pairs)
        return statistics.fmean(one.dice(offsets) for one in found) - price

    offsets = np.zeros(5, dtype=np.float32)
    best = worth(offsets)
    for step, pair in itertools.product(_STEPS, pairs):
        for move in (step, -step):
            while abs(offsets[pair[0]] + move) <= LARGEST + 1e-6:
                moved = offsets.copy()
                moved[list(pair)] += move
                if (value := worth(moved)) <= best:
                    break
                best, offsets = value, moved
    return offsets


@pytest.mark.parametrize("seed", range(8))
def test_looking_only_where_something_can_change_changes_nothing(seed):
    found, pairs = [made_up(seed), made_up(seed + 100, "b")], [(1,), (2, 3), (4,)]

    offsets = fit(found, pairs)

    np.testing.assert_array_equal(offsets, slowly(found, pairs))
    assert np.any(offsets)


def test_both_sides_share_an_offset_that_stays_within_its_limit():
    aseg = load_protocol("aseg32")
    left, right = aseg.class_of("Left-Amygdala"), aseg.class_of("Right-Amygdala")
    shares = np.zeros((aseg.n_classes, 4), dtype=np.uint8)
    shares[0], shares[left, :2], shares[right, 2:] = 150, 33, 75  # 1.5 and 0.7 in logarithms
    truth = np.array([left, left, right, right], dtype=np.int16)
    meaning = np.arange(aseg.n_classes, dtype=np.int16)
    found = [Evidence("a", shares, truth, meaning, np.zeros((3, aseg.n_classes)))]

    offsets = fit(found, [(left, right)])

    assert offsets[left] == offsets[right]
    assert 1.5 < offsets[left] <= LARGEST
    assert found[0].dice(offsets) == 1.0
