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

    process = FORK.Process(target=_train, args=(path, killed, 11))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL, "it killed itself after step 11"
    rng = np.random.default_rng()
    for _ in range(3):  # and now at any moment, or not at all where this machine became faster
        process = FORK.Process(target=_train, args=(path, killed))
        process.start()
        process.join(rng.uniform(0.0, duration_s / 3))
        process.kill()
        process.join()
    process = FORK.Process(target=_train, args=(path, killed))
    process.start()
    process.join()

    assert process.exitcode == 0
    assert outcome(killed) == outcome(whole)
    assert not list(killed.rglob(".*.last.pt")), "drafts of killed processes are swept"


def _train(path, run, kill_after=None):
    steps = iter(range(1, 1000))

    def stop():
        if next(steps) == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    train_run(path, run, resume=True, means=Means(checkpoint_every=8, stop=stop))
