"""Run folders: what they hold, and that a run can be had again."""

import json

import pytest
import torch

from fewlabel.errors import ConfigError, OutputError
from fewlabel.train.checkpoint import load_weights
from fewlabel.train_run import Means, train_run


def test_a_run_folder_tells_where_its_weights_come_from(settings, tmp_path):
    run = tmp_path / "run"

    train_run(settings("seed: 3"), run, changes=("first_steps=4", "second_steps=2"))

    provenance = json.loads((run / "provenance.json").read_text())
    assert provenance["seed"] == 3
    assert provenance["versions"]["torch"] == torch.__version__
    assert {"git_commit", "machine", "command", "threads", "manifests_sha256"} <= set(provenance)
    assert (run / "history.png").stat().st_size > 1000
    assert sorted(p.name for p in (run / "first").iterdir()) == [
        "best.safetensors",
        "final.safetensors",
        "last.pt",
    ]


def test_training_again_from_the_settings_of_a_run_gives_the_same_weights(
    settings, tmp_path, outcome
):
    first, second = tmp_path / "first", tmp_path / "second"
    train_run(settings(), first, changes=("optimizer.accumulate=2", "optimizer.ema=0.9"))
    train_run(first / "settings.yaml", second, means=Means(workers=3))

    assert outcome(first) == outcome(second)


def test_another_seed_gives_other_weights(settings, tmp_path, outcome):
    train_run(settings("first_steps: 2\nsecond_steps: 2"), tmp_path / "a")
    train_run(settings("first_steps: 2\nsecond_steps: 2\nseed: 1"), tmp_path / "b")

    assert outcome(tmp_path / "a")[0] != outcome(tmp_path / "b")[0]


def test_a_folder_that_is_in_use_is_refused(settings, tmp_path):
    with pytest.raises(OutputError, match="is not empty, and a run needs a folder of its own"):
        train_run(settings(), tmp_path)


def test_a_run_that_was_refused_before_its_first_step_may_begin_anew(settings, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(ConfigError, match="nothing to learn from"):
        train_run(settings("first_steps: 0"), run)

    train_run(settings("first_steps: 1\nsecond_steps: 1"), run)

    assert "first_steps: 1" in (run / "settings.yaml").read_text()


def test_resuming_with_other_settings_names_what_differs(settings, tmp_path):
    run = tmp_path / "run"
    train_run(settings("first_steps: 1\nsecond_steps: 1"), run)

    with pytest.raises(ConfigError) as refusal:
        train_run(settings("first_steps: 1\nsecond_steps: 1\nseed: 2"), run, resume=True)

    assert "seed was 0 and is now 2" in refusal.value.what
    assert "steps" not in refusal.value.what
    assert str(run / "settings.yaml") in refusal.value.fix


def test_a_run_that_is_asked_to_stop_goes_on_as_if_it_had_not(settings, tmp_path, outcome):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    path = settings("optimizer: {ema: 0.9, kind: sgd, momentum: 0.9}")
    train_run(path, whole)
    for steps in (7, 20, 5, 5):  # in the first stage, at its end, in the second stage
        left = iter([False] * (steps - 1) + [True])
        with pytest.raises(KeyboardInterrupt):
            train_run(path, cut, resume=True, means=Means(stop=lambda left=left: next(left)))
    train_run(path, cut, resume=True)

    assert outcome(whole) == outcome(cut)


def test_resuming_a_finished_run_changes_nothing(settings, tmp_path, outcome):
    run = tmp_path / "run"
    train_run(settings(), run)
    before = outcome(run)

    networks = train_run(settings(), run, resume=True)

    assert outcome(run) == before
    kept = load_weights(run / "second" / "final.safetensors")["net"]
    assert all(torch.equal(kept[name], w) for name, w in networks["net"].state_dict().items())


def test_a_gpu_that_is_not_there_is_refused(settings, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match="device is 'cuda', but torch finds no GPU"):
        train_run(settings(), tmp_path / "run", means=Means(device="cuda"))
    with pytest.raises(ConfigError, match="device is 'gpu'"):
        train_run(settings(), tmp_path / "run", means=Means(device="gpu"))


@pytest.mark.parametrize(
    "left",
    [
        [".0a1b2c3d.provenance.json"],
        ["provenance.json", ".0a1b2c3d.settings.yaml"],
        ["provenance.json", "settings.yaml", ".0a1b2c3d.history.csv"],
    ],
)
def test_a_run_killed_before_its_first_step_is_begun_anew(settings, tmp_path, left):
    run = tmp_path / "run"
    run.mkdir()
    for name in left:
        (run / name).write_text("")

    train_run(settings(), run, resume=True)

    assert (run / "history.csv").exists()
    assert (run / "settings.yaml").read_text() != ""
