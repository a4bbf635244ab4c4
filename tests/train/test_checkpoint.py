"""Files of a run when the disk is full or a file is damaged."""

import errno
import resource
import signal

import pytest
import torch

from fewlabel.errors import OutputError
from fewlabel.train.checkpoint import (
    load_checkpoint,
    load_weights,
    save_checkpoint,
    save_weights,
)
from fewlabel.train.history import History
from fewlabel.train_run import Means, train_run

CPU = torch.device("cpu")


@pytest.fixture
def small_disk():
    """Makes every write beyond so many bytes of a file fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_leaves_the_last_checkpoint_and_says_how_to_go_on(tmp_path, small_disk):
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"step": 1, "weights": torch.zeros(10)})

    small_disk(10_000)
    with pytest.raises(OutputError) as refusal:
        save_checkpoint(path, {"step": 2, "weights": torch.zeros(100_000)})

    assert f"Cannot write {path}" in refusal.value.what
    assert "`--resume`; the last complete checkpoint is untouched" in refusal.value.fix
    assert load_checkpoint(path, CPU)["step"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def test_weights_that_do_not_fit_on_the_disk_leave_the_former_ones(tmp_path, small_disk):
    path = tmp_path / "best.safetensors"
    save_weights(path, {"net": {"w": torch.ones(2)}})

    small_disk(10_000)
    with pytest.raises(OutputError, match="Cannot write"):
        save_weights(path, {"net": {"w": torch.ones(100_000)}})

    assert load_weights(path)["net"]["w"].tolist() == [1, 1]


def test_a_run_whose_disk_fills_up_goes_on_once_there_is_room(
    settings, tmp_path, outcome, monkeypatch
):
    path = settings("optimizer: {ema: 0.9}")
    train_run(path, tmp_path / "whole")
    run = tmp_path / "run"
    save, saved = torch.save, []

    def fail_at_the_fourth(content, place):
        saved.append(content["step"])
        if len(saved) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(content, place)

    with monkeypatch.context() as disk:
        disk.setattr(torch, "save", fail_at_the_fourth)
        with pytest.raises(OutputError, match=r"last\.pt: the disk is full"):
            train_run(path, run, means=Means(checkpoint_every=3))
    assert load_checkpoint(run / "first" / "last.pt", CPU)["step"] == 9
    train_run(path, run, resume=True)

    assert outcome(run) == outcome(tmp_path / "whole")


def test_a_damaged_checkpoint_is_refused(tmp_path):
    path = tmp_path / "last.pt"
    path.write_bytes(b"not a checkpoint")

    with pytest.raises(OutputError, match="Cannot read the checkpoint"):
        load_checkpoint(path, CPU)


def test_damaged_weights_are_refused(tmp_path):
    path = tmp_path / "final.safetensors"
    path.write_bytes(b"nonsense")

    with pytest.raises(OutputError, match="Cannot read the weights"):
        load_weights(path)


def test_history_forgets_half_a_row_and_all_that_will_be_done_again(tmp_path):
    history = History(tmp_path / "history.csv")
    history.add("first", 10, {"total": 0.5})
    history.add("second", 5, {"total": 0.25})
    history.add("second", 10, {"total": 0.125})
    with history.path.open("a") as file:
        file.write("second,11,tot")

    history.rewind({"first"}, "second", 5)
    history.add("second", 10, {"total": 0.125})

    assert history.path.read_text().splitlines() == [
        "stage,step,quantity,value",
        "first,10,total,0.5",
        "second,5,total,0.25",
        "second,10,total,0.125",
    ]


def test_history_on_a_full_disk_says_how_to_go_on(tmp_path, small_disk):
    history = History(tmp_path / "history.csv")
    small_disk(30)

    with pytest.raises(OutputError, match=r"Cannot write .*history\.csv"):
        history.add("first", 10, {"total": 0.5})
