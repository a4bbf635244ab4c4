"""What a layer at full resolution says plane by plane is what it says of the whole image."""

import numpy as np
import pytest
import torch

from fewlabel.conform import GridRule
from fewlabel.engine_memory import bytes_per_voxel
from fewlabel.engine_parts import split
from fewlabel.engine_stream import stream_engine
from fewlabel.labels import load_protocol
from fewlabel.nets.mirror import Mirrored
from fewlabel.nets.unet import UNet
from fewlabel.ov import openvino
from tests.test_model_weights import exported
from tests.whole_engine import EXACT, answer_in_windows, answer_of, dense

PHANTOM = load_protocol("phantom8")


@pytest.fixture(params=[False, True], ids=["plain", "mirrored"])
def onnx(request, tmp_path):
    return written(tmp_path, mirrored=request.param)


def written(tmp_path, *, mirrored=False, **shape):
    torch.manual_seed(0)
    about = {"channels": [4, 8], "fine": 4, "fine_norm": False, "first": 7} | shape
    network = UNet({"phantom8": 9}, **about).eval()
    for weight in network.parameters():  # as they begin, layers say next to nothing
        torch.nn.init.normal_(weight, std=0.5)
    whole = Mirrored(network, {"phantom8": PHANTOM}) if mirrored else network
    ages = (28.0, 44.0) if network.age else None
    return exported(tmp_path / "m", whole.eval(), tmp_path, ages_weeks=ages).onnx


def image_of(size):
    return np.random.default_rng(1).random((1, *size), dtype=np.float32)


@pytest.mark.parametrize("planes", [8, 32, 36, 60, 96])
def test_planes_of_a_window_agree_with_the_whole(onnx, planes):
    size = (planes, 16, 12)
    rule = GridRule(spacing_mm=1, multiple=4, field_mm=size)

    found = dense(stream_engine(onnx, "phantom8", rule, EXACT).run(image_of(size)))

    expected = answer_of(onnx, "phantom8", image_of(size)).shares
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert expected.std() > 20  # there is something to tell


def test_so_it_is_in_windows(onnx):
    size, window = (48, 24, 12), (40, 16, 12)
    rule = GridRule(spacing_mm=1, multiple=4, field_mm=size, window=window)

    found = dense(stream_engine(onnx, "phantom8", rule, EXACT).run(image_of(size)))

    expected = answer_in_windows(onnx, "phantom8", image_of(size), window).shares
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert expected.std() > 20


def test_only_maps_at_half_the_resolution_are_kept(onnx):
    cut = split(openvino.Core(), onnx, "phantom8")

    assert cut.fine.reach == 1
    assert {coarse.mirrored for coarse in cut.fine.coarse} <= {False, True}
    assert len({coarse.mirrored for coarse in cut.fine.coarse}) == len(cut.fine.coarse)
    assert bytes_per_voxel(cut, EXACT, 4).kept == len(cut.fine.coarse) * 4 * 4 / 8


def test_the_age_is_told_beside_it(tmp_path):
    size = (32, 16, 12)
    onnx = written(tmp_path, mirrored=True, residual=True, age=True)
    rule = GridRule(spacing_mm=1, multiple=4, field_mm=size)
    image = image_of(size)

    found = stream_engine(onnx, "phantom8", rule, EXACT).run(image).age_weeks

    assert found == pytest.approx(answer_of(onnx, "phantom8", image).age_weeks)
    assert found != pytest.approx(36, abs=1e-3), "not what an untrained head says"


@pytest.mark.parametrize("shape", [{"fine": 0, "first": 3}, {"fine_norm": True}])
def test_a_layer_with_a_norm_needs_the_whole_image(tmp_path, shape):
    assert split(openvino.Core(), written(tmp_path, **shape), "phantom8").fine is None
