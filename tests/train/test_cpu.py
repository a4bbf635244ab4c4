"""How a process that trains on a CPU is set up."""

import platform
import subprocess
import sys

import pytest
import torch

from fewlabel.train.cpu import thin_in_32_bits

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
        with thin_in_32_bits([layer]), torch.autocast("cpu", torch.bfloat16, enabled=half):
            layer(image).float().square().sum().backward()
        found.append(layer.weight.grad.clone())

    assert (found[1] - found[0]).abs().max() < 0.02 * found[0].abs().max()


def test_what_the_hooks_changed_is_changed_back():
    layer = torch.nn.Conv3d(1, 1, 3, padding=1)
    with thin_in_32_bits([layer]), torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(RuntimeError):
            layer(torch.ones(1, 2, 2, 2, 2))  # two channels where it takes one
        assert torch.is_autocast_enabled("cpu")

    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.ones(1, 1, 2, 2, 2)).dtype == torch.bfloat16
