import torch

from fewlabel.labels import Label, LabelProtocol
from fewlabel.nets.mirror import Mirrored, last_of_one
from fewlabel.nets.unet import AGE, UNet

SIDES = LabelProtocol("sides", (Label(1, "Left-A"), Label(2, "Right-A"), Label(3, "Middle")))


def test_the_answer_for_a_mirrored_head_is_the_mirrored_answer_with_sides_exchanged():
    torch.manual_seed(0)
    net = Mirrored(UNet({"sides": 4}, channels=(4, 8)), {"sides": SIDES}).eval()
    image = torch.randn(1, 1, 8, 6, 4)

    with torch.no_grad():
        straight, mirrored = net(image)["sides"], net(image.flip(2))["sides"]

    assert torch.allclose(mirrored.flip(2)[:, [0, 2, 1, 3]], straight, atol=1e-6)


def test_it_is_the_mean_of_two_answers():
    torch.manual_seed(0)
    net = UNet({"sides": 4}, channels=(4, 8), fine=4).eval()
    image = torch.randn(1, 1, 8, 12, 4)

    with torch.no_grad():
        found = Mirrored(net, {"sides": SIDES}).eval()(image)["sides"]
        turned = net(image.flip(2))["sides"].flip(2)[:, [0, 2, 1, 3]]
        expected = (net(image)["sides"] + turned) / 2

    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_the_age_is_the_mean_of_two_ages():
    torch.manual_seed(0)
    net = UNet({"sides": 4}, channels=(4, 8), age=True).eval()
    image = torch.randn(2, 1, 8, 12, 4)

    with torch.no_grad():
        found = Mirrored(net, {"sides": SIDES}).eval()(image)[AGE]
        both = net(image)[AGE], net(image.flip(2))[AGE]

    assert not torch.equal(*both)
    torch.testing.assert_close(found, sum(both) / 2)


def test_the_last_layer_of_one_image_comes_back():
    net = UNet({"sides": 4}, channels=(4, 8))
    both = Mirrored(net, {"sides": SIDES}).last["sides"]

    weight, bias = last_of_one(both.weight, both.bias)

    torch.testing.assert_close(weight, net.last_of("sides")[0])
    torch.testing.assert_close(bias[[0, 2, 1, 3]], bias, msg="alike on both sides")
