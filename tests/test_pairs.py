import numpy as np
import torch

from fewlabel.cohort import Case
from fewlabel.conformed import Conformed
from fewlabel.examples import make_examples
from fewlabel.labels import load_protocol
from fewlabel.pairs import Pairs, PairsAndPatches
from fewlabel.patches import find_places
from tests.heads import box

TWO = load_protocol("hippocampus2")


def examples(labeled):
    """Scans whose every voxel is their number; those with labels are all of class 1."""
    found = []
    for n, has in enumerate(labeled):
        grid = box(25.0)
        image = np.full((1, *grid.shape), n, dtype=np.float32)
        about = Case(str(n), str(n), str(n), {}, protocol="hippocampus2")
        classes = np.ones(grid.shape, dtype=np.int16)
        drawn = (classes, find_places(classes, 3), TWO) if has else (None, None, None)
        found.append(Conformed(about, grid, image, *drawn))
    return make_examples(found, {TWO.name: TWO})


def numbers(batch):
    return int(batch["moving"][0, 0, 0, 0, 0]), int(batch["fixed"][0, 0, 0, 0, 0])


def test_a_pair_is_of_two_scans_and_follows_from_its_number():
    pairs = Pairs(examples([False] * 4), TWO, 0.5, seed=3)
    drawn = [numbers(pairs(n)) for n in range(40)]
    assert all(moving != fixed for moving, fixed in drawn)
    assert drawn == [numbers(pairs(n)) for n in range(40)]
    assert len(set(drawn)) > 6
    assert bool((pairs(0)["moving_classes"] == -1).all())


def test_labels_move_from_the_labeled_to_the_unlabeled():
    pairs = Pairs(examples([False, True, True, False]), TWO, 1.0, seed=0, unlabeled=True)
    for n in range(20):
        moving, fixed = numbers(pairs(n))
        assert moving in (1, 2)
        assert fixed in (0, 3)
    assert bool((pairs(0)["moving_classes"] == 1).all())
    everyone = Pairs(examples([True, True]), TWO, 1.0, seed=0, unlabeled=True)
    assert {numbers(everyone(n)) for n in range(20)} == {(0, 1), (1, 0)}


def test_a_patch_lies_within_the_fixed_scan():
    pairs = Pairs(examples([False, True]), TWO, 1.0, seed=0)
    both = PairsAndPatches(pairs, lambda n: {"n": torch.tensor(n)}, (2, 3, 9), seed=0)
    batch = both(7)
    assert batch["n"] == 7
    first, second, third = batch["start"].tolist()
    assert 0 <= first <= 3
    assert 0 <= second <= 2
    assert third == 0  # the scan has 5 voxels there, less than the patch
