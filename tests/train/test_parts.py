"""The small parts round the loop."""

import io
import os
import signal
import threading

import pytest
import torch
from rich.console import Console

from fewlabel.train import OptimizerConfig, Progress
from fewlabel.train.ahead import Ahead
from fewlabel.train.progress import asked_to_stop, shown


def test_warm_up_grows_linearly_and_poly_falls_to_nothing():
    config = OptimizerConfig(learning_rate=0.1, warmup_steps=4, decay="poly")

    rates = [config.rate_at(step, 10) for step in (0, 1, 9)]

    assert rates == pytest.approx([0.1 / 4, 0.1 * 2 / 4 * 0.9**0.9, 0.1 * 0.1**0.9])


def test_cosine_is_at_half_height_half_way():
    config = OptimizerConfig(learning_rate=0.1, decay="cosine")

    assert config.rate_at(50, 100) == pytest.approx(0.05)


def test_batches_come_in_order_however_many_threads_draw_them():
    with Ahead(iter([lambda n=n: {"n": torch.tensor(n)} for n in range(20)]), workers=4) as batches:
        assert [int(batches.next()["n"]) for _ in range(20)] == list(range(20))
        with pytest.raises(StopIteration):
            batches.next()


def test_a_batch_that_cannot_be_drawn_fails_when_its_turn_comes():
    def broken():
        raise ValueError("no such scan")

    with Ahead(iter([dict, broken])) as batches:
        batches.next()
        with pytest.raises(ValueError, match="no such scan"):
            batches.next()


def test_batches_are_drawn_while_the_loop_is_busy():
    drawn = threading.Event()

    def second():
        drawn.set()
        return {}

    with Ahead(iter([dict, second])) as batches:
        batches.next()
        assert drawn.wait(timeout=300), "nobody asked for the second batch yet"


def test_progress_is_plain_lines_where_there_is_no_terminal():
    said = io.StringIO()
    with shown(Console(file=said)) as watch:
        for step in (1, 2, 3):
            watch(Progress("fit", step, 3, {"total": 1 / step}, left_s=3.0 - step))

    assert said.getvalue().splitlines() == [
        "fit 1/3  total 1  left 0:00:02",
        "fit 3/3  total 0.3333  left 0:00:00",
    ]


def test_progress_is_a_bar_on_a_terminal():
    said = io.StringIO()
    console = Console(file=said, force_terminal=True, width=120)
    with shown(console) as watch:
        watch(Progress("fit", 3, 3, {"total": 0.5}, left_s=0.0))

    assert "fit" in said.getvalue()
    assert "3/3" in said.getvalue()


def test_a_first_request_to_stop_only_leaves_a_mark():
    before = signal.getsignal(signal.SIGTERM)
    with asked_to_stop() as asked:
        assert not asked()
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked()
    assert signal.getsignal(signal.SIGTERM) == before
