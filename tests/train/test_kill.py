"""A run that is killed with `kill -9`, again and again."""

import multiprocessing
import os
import signal
import time

import numpy as np

from fewlabel.train_run import Means, train_run

FORK = multiprocessing.get_context("fork")


def test_a_run_killed_at_any_moment_ends_with_the_weights_of_one_that_was_not(
    settings, tmp_path, outcome
):
    path = settings("first_steps: 30\nsecond_steps: 20\npause_s: 0.004\noptimizer: {ema: 0.9}")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    _train(path, tmp_path / "warm")  # what a first training here does once, children inherit
    process = FORK.Process(target=_train, args=(path, whole))
    began = time.monotonic()
    process.start()
    process.join()
    duration_s = time.monotonic() - began

    rng = np.random.default_rng()
    kills = 0
    for _ in range(50):
        process = FORK.Process(target=_train, args=(path, killed))
        process.start()
        process.join(rng.uniform(0.0, duration_s / 3) if kills < 4 else None)
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            kills += 1
        elif process.exitcode == 0:
            break

    assert kills >= 1
    assert outcome(killed) == outcome(whole)
    assert not list(killed.rglob(".*.last.pt")), "drafts of killed processes are swept"


def _train(path, run):
    train_run(path, run, resume=True, means=Means(checkpoint_every=8))
