"""Two layers computed as one give what they give one after the other."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fewlabel.conform import GridRule
from fewlabel.engine_fold import fold, together
from fewlabel.engine_stream import stream_engine
from fewlabel.ov import op, openvino
from tests.test_engine_fine import image_of, written
from tests.whole_engine import EXACT, answer_of, dense


@pytest.fixture(autouse=True)
def everywhere(monkeypatch):
    """Fields of these tests are small, and computers are of any kind."""
    monkeypatch.setattr("fewlabel.engine_fold._LARGE", 0)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def pair(  # noqa: PLR0913  (what may differ)
    spread, weights, images=1, *, stride=2, rim=1, first=True, bias=False, stored=np.float32
):
    """A transposed convolution, and a convolution of what it gives beside an image."""
    maps = op.parameter([1, len(spread), 3, 4, 5], np.float32)
    image = op.parameter([1, images, 6, 8, 10], np.float32)
    kernel = op.convert(op.constant(spread.astype(stored)), "f32")
    up = op.convolution_backprop_data(
        maps, kernel, [stride] * 3, pads_begin=[0] * 3, pads_end=[0] * 3, dilations=[1] * 3
    )
    up = op.add(up, op.constant(random(1, spread.shape[1], 1, 1, 1))) if bias else up
    beside = op.concat([up, image] if first else [image, up], 1)
    of_both = op.convert(op.constant(weights.astype(stored)), "f32")
    found = op.convolution(beside, of_both, [1] * 3, [rim] * 3, [rim] * 3, [1] * 3)
    return openvino.Model([op.result(op.relu(found))], [maps, image], "pair")


def kinds(model):
    return sorted(node.get_type_name() for node in model.get_ops())


def run(model, images=1):
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    given = [random(1, compiled.input(0).shape[1], 3, 4, 5, seed=1), random(1, images, 6, 8, 10)]
    return compiled(given)[0]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("stored", [np.float32, np.float16])
def test_they_give_the_same_up_to_the_border(first, images, stored):
    spread, weights = random(5, 4, 2, 2, 2), random(6, 4 + images, 3, 3, 3)
    before = run(pair(spread, weights, images, first=first, stored=stored), images)
    model = pair(spread, weights, images, first=first, stored=stored)
    fold(model)

    assert "Concat" not in kinds(model)
    assert np.allclose(run(model, images), before, atol=1e-4)
    assert before.std() > 1


def test_the_weights_are_those_of_torch_one_after_the_other():
    spread, weights, maps = random(3, 2, 2, 2, 2), random(4, 2, 3, 3, 3), random(1, 3, 4, 4, 4)
    kernel, *others = (torch.from_numpy(x) for x in (together(spread, weights), spread, weights))

    apart = F.conv3d(F.conv_transpose3d(torch.from_numpy(maps), others[0], stride=2), others[1],
                     padding=1)  # fmt: skip
    at_once = F.conv_transpose3d(torch.from_numpy(maps), kernel, stride=2, padding=1)

    assert torch.allclose(at_once, apart, atol=1e-4)


def test_what_is_not_such_a_pair_is_left_alone():
    usual = {"spread": random(5, 4, 2, 2, 2), "weights": random(6, 5, 3, 3, 3)}
    others = [
        usual | {"bias": True},  # its border would have to know where the bias ends
        usual | {"weights": random(6, 5, 1, 1, 1), "rim": 0},
    ]
    for other in others:
        model, before = pair(**other), kinds(pair(**other))
        fold(model)
        assert kinds(model) == before


@pytest.mark.parametrize(
    ("what", "other"),
    [("fewlabel.engine_fold._LARGE", 6 * 8 * 10 + 1), ("platform.machine", lambda: "arm64")],
)
def test_small_fields_and_other_processors_are_left_alone(monkeypatch, what, other):
    monkeypatch.setattr(what, other)
    model = pair(random(5, 4, 2, 2, 2), random(6, 5, 3, 3, 3))
    before = kinds(model)
    fold(model)

    assert kinds(model) == before


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("shape", [{}, {"fine_norm": True}, {"fine": 0, "first": 3}])
def test_a_network_says_what_it_says_without(tmp_path, mirrored, shape):
    onnx, size = written(tmp_path, mirrored=mirrored, **shape), (40, 16, 12)
    rule = GridRule(spacing_mm=1, multiple=4, field_mm=size)

    found = dense(stream_engine(onnx, "phantom8", rule, EXACT).run(image_of(size)))

    expected = answer_of(onnx, "phantom8", image_of(size)).shares
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert expected.std() > 5  # there is something to tell
