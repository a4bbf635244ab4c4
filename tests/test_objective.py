import math

import pytest
import torch

from fewlabel.losses import dice_and_cross_entropy
from fewlabel.nets.unet import UNet
from fewlabel.objective import ObjectiveConfig, age_error, losses_of

NAN = math.nan


@pytest.fixture
def net():
    torch.manual_seed(0)
    return UNet({"a": 3}, channels=(4, 8, 8), depths=2, age=True)


def batch(age_weeks):
    rng = torch.Generator().manual_seed(1)
    return {
        "image": torch.rand((2, 1, 8, 8, 8), generator=rng),
        "classes/a": torch.randint(0, 3, (2, 8, 8, 8), generator=rng),
        "merge/a": torch.arange(3).expand(2, 3),
        "age_weeks": torch.tensor(age_weeks),
    }


def test_age_error_is_the_mean_square_over_known_ages():
    found = torch.tensor([30.0, 41.0, 36.0])

    assert age_error(found, torch.tensor([32.0, 40.0, NAN])) == pytest.approx((4 + 1) / 2)


def test_scans_without_age_have_no_error_and_no_gradient():
    found = torch.tensor([30.0, 41.0], requires_grad=True)

    age_error(found, torch.tensor([NAN, 40.0])).backward()
    assert found.grad.tolist() == [0.0, 2.0]

    found.grad = None
    error = age_error(found, torch.tensor([NAN, NAN]))
    error.backward()
    assert error == 0
    assert found.grad.tolist() == [0.0, 0.0]


def test_unknown_ages_leave_the_head_alone_and_all_gradients_finite(net):
    losses_of(net, batch([NAN, NAN]), ObjectiveConfig())["total"].backward()

    assert all(weight.grad.abs().sum() == 0 for weight in net.age.parameters())
    assert all(weight.grad.isfinite().all() for weight in net.parameters())


def test_the_total_adds_up_what_counts(net):
    config = ObjectiveConfig(dice_weight=0.5, age_weight=0.01)

    losses = losses_of(net, batch([30.0, NAN]), config)

    parts = losses["cross-entropy"] + 0.5 * losses["dice"] + 0.01 * losses["squared age error"]
    assert losses["total"].item() == pytest.approx(parts.item())
    assert 0.5 < losses["squared age error"] < 100


def test_a_network_without_an_age_head_is_not_asked_for_ages():
    net = UNet({"a": 3}, channels=(4, 8))
    without = {key: value for key, value in batch([30.0, 31.0]).items() if key != "age_weeks"}

    assert set(losses_of(net, without, ObjectiveConfig())) == {"total", "cross-entropy", "dice"}


def test_the_finest_resolution_counts_twice_the_coarser_one(net):
    drawn = batch([NAN, NAN])
    finest, coarser = net.deep(drawn["image"])["a"]

    entropy = losses_of(net, drawn, ObjectiveConfig())["cross-entropy"]

    fine = dice_and_cross_entropy(finest, drawn["classes/a"]).cross_entropy
    coarse = dice_and_cross_entropy(coarser, drawn["classes/a"][:, ::2, ::2, ::2]).cross_entropy
    assert entropy.item() == pytest.approx(((fine + 0.5 * coarse) / 1.5).item())


def test_the_published_code_judges_coarse_logits_at_full_size(net):
    drawn = batch([NAN, NAN])
    finest, coarser = net.deep(drawn["image"])["a"]

    entropy = losses_of(net, drawn, ObjectiveConfig(coarse="logits"))["cross-entropy"]

    fine = dice_and_cross_entropy(finest, drawn["classes/a"]).cross_entropy
    spread = coarser.repeat_interleave(2, 2).repeat_interleave(2, 3).repeat_interleave(2, 4)
    coarse = dice_and_cross_entropy(spread, drawn["classes/a"]).cross_entropy
    assert entropy.item() == pytest.approx(((fine + 0.5 * coarse) / 1.5).item(), rel=1e-5)


def test_of_a_whole_field_only_the_patch_is_judged_at_full_resolution():
    torch.manual_seed(0)
    net = UNet({"a": 3}, channels=(4, 8), fine=2, fine_norm=False)
    first = batch([NAN, NAN])
    window = torch.tensor([[[0, 6], [2, 8], [0, 8]]] * 2)
    elsewhere = first["classes/a"].clone()
    elsewhere[:, 6:], elsewhere[:, :, :2], elsewhere[:, 0] = 0, 1, 2  # beyond it, and at its rim

    one = losses_of(net, first | {"window": window}, ObjectiveConfig())
    other = losses_of(net, first | {"window": window, "classes/a": elsewhere}, ObjectiveConfig())

    assert one["total"] == other["total"]
    assert one["total"] != losses_of(net, first, ObjectiveConfig())["total"]


def test_networks_that_cannot_be_had_in_parts_are_judged_everywhere(net):
    first = batch([NAN, NAN])
    window = torch.tensor([[[0, 4], [0, 4], [0, 4]]] * 2)

    judged = losses_of(net, first | {"window": window}, ObjectiveConfig())

    assert judged["total"] == losses_of(net, first, ObjectiveConfig())["total"]
