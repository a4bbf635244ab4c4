import torch

from fewlabel.nets.unet import UNet


def test_logits_have_the_size_of_the_image_for_every_head():
    net = UNet({"a": 3, "b": 5}, channels=(4, 8, 8))
    logits = net(torch.zeros(1, 1, 8, 12, 16))

    assert {name: tuple(part.shape) for name, part in logits.items()} == {
        "a": (1, 3, 8, 12, 16),
        "b": (1, 5, 8, 12, 16),
    }


def test_deep_logits_halve_in_size_from_level_to_level():
    net = UNet({"a": 3}, channels=(4, 8, 8), depths=2, residual=True, in_channels=2)
    finest, coarser = net.deep(torch.zeros(1, 2, 8, 8, 8))["a"]

    assert finest.shape == (1, 3, 8, 8, 8)
    assert coarser.shape == (1, 3, 4, 4, 4)


def test_heads_share_the_encoder_and_nothing_else():
    net = UNet({"a": 3, "b": 3}, channels=(4, 8, 8))
    net(torch.randn(1, 1, 8, 8, 8))["a"].sum().backward()

    assert all(weight.grad is not None for weight in net.encoder.parameters())
    assert all(weight.grad is None for weight in net.decoders["b"].parameters())


def test_the_input_must_divide_by_the_stride_the_network_names():
    assert UNet({"a": 2}, channels=(4, 4, 4, 4)).stride == 8


def test_one_layer_at_full_resolution_gives_logits_for_every_voxel():
    net = UNet({"a": 3}, channels=(4, 8), fine=2, in_channels=2, depths=2)
    finest, coarser = net.deep(torch.zeros(1, 2, 8, 12, 4))["a"]

    assert net.stride == 4
    assert finest.shape == (1, 3, 8, 12, 4)
    assert coarser.shape == (1, 3, 4, 6, 2)


def test_the_layer_at_full_resolution_sees_the_image_itself():
    net = UNet({"a": 3}, channels=(4, 8), fine=2).eval()
    nothing = torch.zeros_like(next(net.encoder.levels[0].parameters()))
    next(net.encoder.levels[0].parameters()).data = nothing  # the levels below are blind
    image = torch.zeros(1, 1, 8, 8, 8)
    image[0, 0, 3, 4, 5] = 1

    logits = net(image)["a"][0]

    differs = (logits - logits[:, :1, :1, :1]).abs().sum(0) > 1e-6
    assert differs[2:5, 3:6, 4:7].any()
    assert not differs[6, 6, 1]


def test_a_window_of_the_finest_layer_says_what_the_whole_says_there():
    net = UNet({"a": 3}, channels=(4, 8), fine=2, fine_norm=False, first=7, depths=2).eval()
    image = torch.rand(1, 1, 16, 12, 8)
    window = (slice(4, 12), slice(0, 8), slice(2, 8))

    whole, coarse = net.deep(image)["a"]
    part, coarse_again = net.deep(image, window)["a"]

    assert torch.equal(coarse, coarse_again)
    inside = (slice(None), slice(None), slice(1, -1), slice(0, -1), slice(1, None))  # but its rim
    torch.testing.assert_close(part[inside], whole[(..., *window)][inside])
