"""How a process that trains on a CPU is set up."""

import platform
import subprocess
import sys

import pytest
import torch

from fewlabel.nets.unet import UNet
from fewlabel.train.cpu import convolving_well

FAULTS_OF_64_MB_ONCE_MORE = """
import resource
import torch
from fewlabel.train.cpu import keep_memory
keep_memory()
for _ in range(4):
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def printed_by(program: str) -> int:
    command = [sys.executable, "-c", program]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc of glibc only")
def test_freed_memory_is_used_again_without_asking_the_system() -> None:
    assert printed_by(FAULTS_OF_64_MB_ONCE_MORE) < 4000  # 64 MB are 16384 pages, some reclaimed


def test_elsewhere_than_on_glibc_memory_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from fewlabel.train import cpu

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert cpu.keep_memory() is False


@pytest.mark.parametrize("planes", [1, 2, 3, 4])
def test_gradients_in_16_bits_are_right_whatever_the_number_of_planes(planes):
    torch.manual_seed(0)
    layer = torch.nn.Conv3d(32, 32, 3, padding=1)
    image = torch.randn(1, 32, planes, 4, 4)
    found = []
    for half in (False, True):
        layer.zero_grad()
        with convolving_well([layer]), torch.autocast("cpu", torch.bfloat16, enabled=half):
            layer(image).float().square().sum().backward()
        found.append(layer.weight.grad.clone())

    assert (found[1] - found[0]).abs().max() < 0.02 * found[0].abs().max()


def test_what_the_hooks_changed_is_changed_back():
    layer = torch.nn.Conv3d(1, 1, 3, padding=1)
    with convolving_well([layer]), torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(RuntimeError):
            layer(torch.ones(1, 2, 2, 2, 2))  # two channels where it takes one
        assert torch.is_autocast_enabled("cpu")

    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.ones(1, 1, 2, 2, 2)).dtype == torch.bfloat16


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_small_single_images_are_left_to_onednn_and_numbers_are_the_same(frozen, stride):
    torch.manual_seed(0)
    layer = torch.nn.Conv3d(6, 8, 3, stride, padding=1)
    layer.weight.requires_grad_(not frozen)
    image = torch.randn(1, 6, 10, 12, 14, requires_grad=True)

    def step():
        layer.zero_grad()
        image.grad = None
        out = layer(image)
        out.square().sum().backward()
        return [out.detach(), image.grad, layer.bias.grad, *([] if frozen else [layer.weight.grad])]

    before = step()
    with convolving_well([layer]), torch.profiler.profile() as profile:
        after = step()

    asked = {event.key for event in profile.key_averages()}
    assert "aten::mkldnn_convolution" in asked
    assert "aten::slow_conv3d_forward" not in asked
    for one, other in zip(before, after, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-3)


def test_without_onednn_torch_computes_by_itself(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    layer = torch.nn.Conv3d(2, 3, 3, padding=1)
    with convolving_well([layer]), torch.profiler.profile() as profile:
        layer(torch.randn(1, 2, 6, 6, 6)).sum().backward()

    assert "aten::to_mkldnn" not in {event.key for event in profile.key_averages()}


def test_a_network_of_frozen_and_moving_parts_learns_the_same_either_way():
    torch.manual_seed(0)
    network = UNet({"a": 3}, channels=[4, 6, 8])
    network.encoder.requires_grad_(False)
    image, found = torch.randn(1, 1, 16, 16, 16), []
    for watched in ([], [network]):
        network.zero_grad()
        with convolving_well(watched):
            network(image)["a"].square().mean().backward()
        found.append([w.grad.clone() for w in network.decoders.parameters()])

    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-6) for a, b in zip(*found, strict=True))
