import torch

from fewlabel.nets.age import AgeHead
from fewlabel.nets.unet import UNet


def test_an_untrained_head_says_the_middle_of_the_ages_it_expects():
    torch.manual_seed(0)
    head = AgeHead(8)
    head.expect((30.0, 34.0))

    ages = head(torch.randn(3, 8, 4, 4, 4))

    assert ages.shape == (3,)
    assert (ages - 32).abs().max() < 2


def test_what_a_head_expects_goes_with_its_weights():
    first, second = AgeHead(4), AgeHead(4)
    first.expect((28.0, 44.0))

    second.load_state_dict(first.state_dict())

    assert second.range_weeks == (28.0, 44.0)


def test_one_age_alone_is_no_reason_to_divide_or_multiply_by_nothing():
    head = AgeHead(4)
    head.expect((40.0, 40.0))

    ages = head(torch.randn(1, 4, 2, 2, 2))
    ages.sum().backward()

    assert head.out.weight.grad.abs().sum() > 0


def test_fields_of_any_size_have_an_age():
    net = UNet({"a": 3}, channels=(4, 8, 8), age=True)

    for shape in ((8, 8, 8), (12, 16, 8)):
        assert net(torch.randn(2, 1, *shape))["age_weeks"].shape == (2,)


def test_a_network_tells_the_age_beside_its_logits_only_if_asked():
    image = torch.randn(1, 1, 8, 8, 8)
    plain, telling = (UNet({"a": 3}, channels=(4, 8), depths=1, age=age) for age in (False, True))

    assert set(plain(image)) == {"a"}
    assert set(telling(image)) == set(telling.deep(image)) == {"a", "age_weeks"}
    assert torch.equal(telling.deep(image)["age_weeks"], telling(image)["age_weeks"])
    assert plain.age is None
    assert not any("age" in name for name in plain.state_dict())
