import copy

import pytest
import torch
from torch import nn

from fewlabel.onnx_file import pack, round_weights, to_onnx
from fewlabel.ov import openvino


@pytest.fixture
def network():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1))
    with torch.no_grad():
        net[2].weight[0] *= 100  # one loud channel must not drown the others
        net[2].weight[1] = 0
    return net.eval()


@torch.no_grad()
def test_each_output_channel_is_rounded_on_its_own_scale(network):
    rounded = copy.deepcopy(network)
    round_weights(rounded, 8)

    before, after = network[2].weight.flatten(1), rounded[2].weight.flatten(1)
    step = before.abs().amax(dim=1) / 127
    assert ((after - before).abs().amax(dim=1) <= step / 2 + 1e-7).all()
    assert not after[1].any()
    assert torch.equal(rounded[0].weight, network[0].weight.half().float())  # small: 16 bits


@torch.no_grad()
@pytest.mark.parametrize(("bits", "most_bytes"), [(16, 25_000), (8, 16_000)])
def test_a_packed_file_computes_what_the_rounded_network_does(network, bits, most_bytes):
    round_weights(network, bits)
    content = pack(to_onnx(network, ("a",), 4, 3, 2), bits)
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(content, b""), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    image = torch.rand(1, 3, 8, 12)

    found = torch.from_numpy(compiled([image.numpy()])[0])

    assert torch.allclose(found, network(image), atol=1e-4)
    assert len(content) < most_bytes
