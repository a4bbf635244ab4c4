from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch.nn import functional as F

from fewlabel.nets.backbone import load_backbone, read_backbone
from fewlabel.nets.vgg_fcn import STAGES, VggFcn

GIVEN = (
    Path(__file__).parents[3] / "shared" / "weights" / "vgg16_imagenet_features_fp16.safetensors"
)
CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)


def convolved(x, weight, bias):
    """A 3x3 convolution with zeros around, one shift at a time, then ReLU; x is (c, h, w)."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    h, w = x.shape[1:]
    total = np.zeros((len(weight), h, w))
    for i in range(3):
        for j in range(3):
            shifted = padded[:, i : i + h, j : j + w].reshape(len(x), -1)
            total += (weight[:, :, i, j] @ shifted).reshape(-1, h, w)
    return np.maximum(total + bias[:, None, None], 0)


def pooled(x):
    c, h, w = x.shape
    return x.reshape(c, h // 2, 2, w // 2, 2).max(axis=(2, 4))


def reference_stages(image_bgr, weights):
    """The five stages of VGG-16, from the file's own numbers."""
    x = image_bgr - np.array(CAFFE_MEAN_BGR)[:, None, None]
    number, found = 0, []
    for n, stage in enumerate(STAGES):
        if n:
            x = pooled(x)
            number += 1
        for _ in stage:
            layer = f"features.{number}"
            x = convolved(x, weights[f"{layer}.weight"], weights[f"{layer}.bias"])
            number += 2
        found.append(x)
    return found


@pytest.mark.skipif(not GIVEN.is_file(), reason="the ImageNet weights are not here")
def test_the_stages_equal_a_reference_computation_with_the_given_weights():
    with safe_open(GIVEN, "np") as stored:
        weights = {key: stored.get_tensor(key).astype(np.float64) for key in stored.keys()}  # noqa: SIM118
    rgb = np.random.default_rng(0).uniform(0, 255, (3, 16, 32))
    net = VggFcn({"a": 2}, mean=CAFFE_MEAN_BGR[::-1])
    load_backbone(net, read_backbone(GIVEN))

    found = net.stages(torch.from_numpy(rgb[None]).float())

    for own, expected in zip(found, reference_stages(rgb[::-1], weights), strict=True):
        scale = np.abs(expected).max()
        assert scale > 1  # neither dead nor trivial
        assert np.abs(own[0].detach().numpy() - expected).max() < 1e-4 * scale


@torch.no_grad()
def test_maps_are_combined_as_if_they_were_enlarged_and_joined_first():
    torch.manual_seed(0)
    net = VggFcn({"a": 3}, side_maps=4)
    x = 255 * torch.rand(1, 3, 32, 16)
    maps = [side(s) for side, s in zip(net.sides, net.stages(x), strict=True)]
    large = [F.interpolate(m, (32, 16), mode="bilinear", align_corners=False) for m in maps]

    joined = net.combine["a"](torch.cat(large, dim=1))

    assert torch.allclose(net(x)["a"], joined, rtol=1e-4, atol=1e-3 * float(joined.abs().max()))


def test_the_adult_network_has_no_coarsest_stage():
    adult, neonate = VggFcn({"a": 4}, stages=4), VggFcn({"a": 4})

    assert (adult.stride, neonate.stride) == (8, 16)
    assert (len(adult.sides), len(neonate.sides)) == (4, 5)
    assert sum(isinstance(m, torch.nn.Conv2d) for m in adult.features) == 10
    assert sum(isinstance(m, torch.nn.Conv2d) for m in neonate.features) == 13


@torch.no_grad()
def test_evened_out_maps_have_a_root_mean_square_of_one():
    torch.manual_seed(0)
    net = VggFcn({"a": 2}, stages=3, mean=(100.0, 100.0, 100.0))
    x = 255 * torch.rand(2, 3, 16, 16)
    net.even_out(x)

    for maps, scale in zip(net.stages(x), net.scale, strict=True):
        assert float((maps * scale).square().mean()) == pytest.approx(1, rel=1e-3)
