"""Processes that train together."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from fewlabel.train.checkpoint import load_weights
from tests.commands import free_port

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


def _start(path, run, *options):
    port = str(free_port())
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
