"""Processes that train together."""

import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from fewlabel.train.checkpoint import load_weights

ROOT = Path(__file__).parents[2]


def test_two_processes_learn_what_one_learns_with_twice_the_batches(settings, tmp_path):
    path = settings("first_steps: 6\nsecond_steps: 4\nnorm: false\noptimizer: {ema: 0.9}")
    one = _start(path, tmp_path / "one", "--set", "optimizer.accumulate=2")
    two = _start(path, tmp_path / "two", "--device", "cpu", "--devices", "2")
    for process in (one, two):
        said = process.communicate()[0]
        assert process.returncode == 0, said
        assert said.count("Trained:") == 1, said

    for stage in ("first", "second"):
        expected = load_weights(tmp_path / "one" / stage / "final.safetensors")["net"]
        found = load_weights(tmp_path / "two" / stage / "final.safetensors")["net"]
        for name, weight in expected.items():
            torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-6)


def _free_port():
    """One below those that systems give to connections, so that nobody takes it meanwhile."""
    for port in np.random.default_rng().permutation(np.arange(20_000, 30_000)):
        with socket.socket() as free, suppress(OSError):
            free.bind(("127.0.0.1", int(port)))
            return port
    raise AssertionError("all ports are taken")


def _start(path, run, *options):
    port = str(_free_port())
    script = str(ROOT / "tests" / "train" / "run_tiny.py")
    command = [sys.executable, script, "train", str(path), "--out", str(run), *options]
    own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MASTER_PORT": port}
    return subprocess.Popen(
        command,
        env=os.environ | own,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
