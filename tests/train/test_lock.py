"""One process at a time for a run folder."""

import errno
import fcntl
import multiprocessing
import os
import signal
import time

import pytest

from fewlabel.errors import OutputError
from fewlabel.train.lock import LOCK, held
from fewlabel.train_run import train_run

FORK = multiprocessing.get_context("fork")


def test_a_second_process_is_refused_by_the_name_of_the_first(tmp_path):
    with held(tmp_path), pytest.raises(OutputError) as refusal, held(tmp_path):
        pass

    assert f"The run in {tmp_path} is under way: process {os.getpid()} on " in refusal.value.what
    assert "a killed run can be taken up at once" in refusal.value.fix


def test_a_folder_can_be_held_again_once_it_was_let_go(tmp_path):
    for _ in range(2):
        with held(tmp_path / "run"):
            assert (tmp_path / "run" / LOCK).is_file()


def test_a_process_that_is_killed_lets_go(tmp_path):
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=_hold, args=(tmp_path, theirs))
    process.start()
    assert ours.recv() == "held"
    with pytest.raises(OutputError, match=f"process {process.pid} on "), held(tmp_path):
        pass

    os.kill(process.pid, signal.SIGKILL)
    process.join()

    with held(tmp_path):
        pass


def _hold(folder, pipe):
    with held(folder):
        pipe.send("held")
        time.sleep(600)


def test_where_there_are_no_locks_nothing_is_held(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", fail)
    with held(tmp_path), held(tmp_path):
        pass


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "run").write_text("x")

    with (
        pytest.raises(OutputError, match="a file is where a folder is needed"),
        held(tmp_path / "run"),
    ):
        pass


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_under_way_cannot_be_begun_or_taken_up_a_second_time(settings, tmp_path, resume):
    run = tmp_path / "run"
    path = settings("first_steps: 1\nsecond_steps: 1")
    if resume:
        train_run(path, run)
    before = contents(run)

    with held(run), pytest.raises(OutputError, match="is under way"):
        train_run(path, run, resume=resume)

    assert contents(run) == before


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != LOCK)
    return {path: path.read_bytes() for path in files}


def test_a_folder_with_other_things_in_it_is_left_alone(settings, tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("Dear")

    with pytest.raises(OutputError, match="is not empty"):
        train_run(settings(), tmp_path / "letters")

    assert [path.name for path in (tmp_path / "letters").iterdir()] == ["a.txt"]
