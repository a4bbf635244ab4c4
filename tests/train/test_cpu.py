"""How a process that trains on a CPU is set up; each test in a process of its own."""

import platform
import subprocess
import sys

import pytest

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
