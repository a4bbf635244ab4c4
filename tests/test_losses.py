import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from fewlabel.losses import cross_entropy, dice_and_cross_entropy, soft_dice
from fewlabel.objective import supervise


def logits_of(probabilities):
    """One sample of a row of voxels, from a list of probabilities for each voxel."""
    return torch.tensor(probabilities).log().T[None, :, :, None, None]


def classes_of(row):
    return torch.tensor(row)[None, :, None, None]


def test_cross_entropy_is_the_mean_over_labeled_voxels():
    logits = logits_of([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])

    loss = cross_entropy(logits, classes_of([0, 1, -1]))

    assert loss == pytest.approx(-(math.log(0.5) + math.log(0.8)) / 2)


def test_a_label_that_covers_two_classes_has_the_sum_of_their_probabilities():
    logits = logits_of([[0.5, 0.2, 0.3], [0.1, 0.7, 0.2]])
    merge = torch.tensor([[0, 1, 0]])  # the third class was not looked for

    loss = cross_entropy(logits, classes_of([0, 1]), merge)

    assert loss == pytest.approx(-(math.log(0.5 + 0.3) + math.log(0.7)) / 2)


def test_a_class_that_could_be_under_any_label_is_never_held_against_the_network():
    logits = logits_of([[0.5, 0.2, 0.3], [0.1, 0.7, 0.2]])
    merge = torch.tensor([[0, 1, -1]])

    loss = cross_entropy(logits, classes_of([0, 1]), merge)

    assert loss == pytest.approx(-(math.log(0.5 + 0.3) + math.log(0.7 + 0.2)) / 2)


def test_soft_dice_counts_twice_the_overlap_over_both_sizes_and_leaves_the_background_out():
    logits = logits_of([[0.5, 0.5], [0.2, 0.8], [0.9, 0.1]])

    loss = soft_dice(logits, classes_of([0, 1, -1]))

    assert loss == pytest.approx(1 - 2 * 0.8 / (1 + 0.5 + 0.8))


def test_soft_dice_adds_up_the_classes_that_a_label_covers():
    logits = logits_of([[0.5, 0.2, 0.3], [0.1, 0.7, 0.2]])
    merge = torch.tensor([[0, 1, 1]])

    loss = soft_dice(logits, classes_of([0, 1]), merge)

    assert loss == pytest.approx(1 - 2 * 0.9 / (1 + 0.5 + 0.9))


def test_structures_that_the_labels_lack_do_not_count_in_soft_dice():
    logits = logits_of([[0.5, 0.1, 0.4], [0.1, 0.8, 0.1]])

    loss = soft_dice(logits, classes_of([0, 1]))

    assert loss == pytest.approx(1 - 2 * 0.8 / (1 + 0.1 + 0.8))


def test_soft_dice_of_labels_without_any_structure_is_zero():
    assert soft_dice(torch.randn(1, 3, 2, 2, 2), torch.zeros(1, 2, 2, 2, dtype=torch.long)) == 0


def test_a_batch_with_no_labels_gives_zero_and_no_gradient():
    logits = torch.randn(2, 3, 4, 4, 4, requires_grad=True)
    classes = torch.full((2, 4, 4, 4), -1)

    parts = dice_and_cross_entropy(logits, classes)
    (parts.cross_entropy + parts.dice + cross_entropy(logits, classes)).backward()

    assert parts.cross_entropy == 0
    assert parts.dice == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_voxels_that_nobody_looked_at_have_no_gradient():
    logits = torch.randn(1, 3, 6, 6, 6, requires_grad=True)
    classes = torch.randint(-1, 3, (1, 6, 6, 6))

    sum(dice_and_cross_entropy(logits, classes)).backward()

    hidden = (classes == -1)[:, None].expand_as(logits)
    assert (logits.grad[hidden] == 0).all()
    assert (logits.grad[~hidden] != 0).all()


def traced(logits, classes, merge, *, log):
    """The same two losses, sample by sample and class by class, left to autograd."""
    nats, overlaps = [], []
    for z, y, m in zip(logits.softmax(1), classes, merge, strict=True):
        known = y >= 0
        free = z[m < 0].sum(0)
        by_label = {
            int(label): z[m == label].sum(0) + free * (y == label)
            for label in m.unique()
            if label >= 0
        }
        for label, p in by_label.items():
            nats.append(-p[y == label].log())
            if label != m[0] and (y == label).any():
                size = p[known].sum() + (y == label).sum()
                overlaps.append(2 * p[y == label].sum() / size)
    found = torch.stack(overlaps) if overlaps else logits.sum() * 0 + 1
    dice = -found.log() if log else 1 - found
    nats = torch.cat(nats)
    return nats.sum() / max(1, len(nats)), dice.mean()


MERGES = {
    "whole": [0, 1, 2, 3, 4],
    "unknown": [0, 1, 0, 3, 0],
    "merged": [0, 1, 1, 3, 3],
    "free": [0, -1, 2, 2, -1],
    "another order": [0, 2, 1, 4, 3],
    "background last": [4, 1, 2, 4, 4],
}


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("merge", MERGES.values(), ids=MERGES)
@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 1000))
def test_values_and_gradients_are_those_that_autograd_finds(merge, log, seed):
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn((2, 5, 3, 4, 3), generator=rng, dtype=torch.float64, requires_grad=True)
    tables = torch.tensor([merge, [0, 1, 2, 3, 4]])
    classes = torch.randint(0, 5, (2, 3, 4, 3), generator=rng)
    classes = torch.stack([t[c] for t, c in zip(tables, classes, strict=True)])
    hidden = torch.rand(classes.shape, generator=rng) < 0.3
    classes[hidden] = -1

    ours = dice_and_cross_entropy(logits, classes, tables, log=log)
    theirs = traced(logits, classes, tables, log=log)
    for one, other in zip(ours, theirs, strict=True):
        assert one.item() == pytest.approx(other.item(), rel=1e-5)
        (gradient,) = torch.autograd.grad(one, logits, retain_graph=True)
        (expected,) = torch.autograd.grad(other, logits, retain_graph=True)
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-7)


def test_many_pieces_add_up_to_the_whole(monkeypatch):
    logits, classes = torch.randn(1, 3, 5, 5, 5), torch.randint(-1, 3, (1, 5, 5, 5))
    at_once = dice_and_cross_entropy(logits, classes)
    monkeypatch.setattr("fewlabel.losses._PIECE", 7)

    in_pieces = dice_and_cross_entropy(logits, classes)

    torch.testing.assert_close(tuple(in_pieces), tuple(at_once))


def test_whole_labels_give_the_cross_entropy_of_torch():
    logits, classes = torch.randn(2, 4, 3, 3, 3), torch.randint(0, 4, (2, 3, 3, 3))

    expected = F.cross_entropy(logits, classes)

    torch.testing.assert_close(cross_entropy(logits, classes), expected)
    torch.testing.assert_close(dice_and_cross_entropy(logits, classes).cross_entropy, expected)


def test_bfloat16_logits_get_a_bfloat16_gradient_near_that_of_float32():
    logits = torch.randn(1, 4, 6, 6, 6)
    classes = torch.randint(0, 4, (1, 6, 6, 6))
    gradients = []
    for kind in (torch.float32, torch.bfloat16):
        here = logits.to(torch.bfloat16).to(kind).requires_grad_()
        sum(dice_and_cross_entropy(here, classes)).backward()
        gradients.append(here.grad)

    assert gradients[1].dtype == torch.bfloat16
    torch.testing.assert_close(gradients[1].float(), gradients[0], rtol=0.01, atol=1e-5)


def test_a_certainly_wrong_network_still_gets_a_finite_gradient():
    logits = torch.tensor([[[0.0]], [[-300.0]], [[-300.0]]])[None, :, :, :, None].requires_grad_()
    merge = torch.tensor([[0, 1, 1]])

    parts = dice_and_cross_entropy(logits, torch.ones(1, 1, 1, 1, dtype=torch.long), merge)
    sum(parts).backward()

    assert parts.cross_entropy.item() == pytest.approx(300 - math.log(2))
    assert logits.grad.flatten().tolist() == pytest.approx([1, -0.5, -0.5], rel=1e-4)


def test_coarser_levels_count_half_and_see_the_label_they_are_centered_on():
    fine = torch.zeros(1, 2, 4, 2, 2)
    coarse = torch.zeros(1, 2, 2, 1, 1)
    coarse[:, 1] = 1.0
    classes = torch.full((1, 4, 2, 2), -1)
    classes[0, 2, 0, 0] = 1  # the center of the second coarse voxel
    classes[0, 1, 0, 0] = 0  # under the first, but not its center

    loss = supervise([fine, coarse], classes, None, cross_entropy)

    of_fine, of_coarse = math.log(2), math.log(1 + math.exp(-1))
    assert loss == pytest.approx((of_fine + 0.5 * of_coarse) / 1.5)
