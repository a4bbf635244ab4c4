"""Ways to fine-tune side by side: under one budget, and going on where they stopped."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import fewlabel.tune as tuning
from fewlabel.errors import ConfigError, OutputError
from fewlabel.nets.unet import UNet
from fewlabel.scores import Score, ScoreTable
from fewlabel.train.checkpoint import save_weights
from fewlabel.tune import Way, as_markdown, as_tsv, tune
from tests.commands import command, free_port

SETTINGS = {
    "recipe": "finetune",
    "data": {"phantom": {"cases": 4, "spacing_mm": 5.0, "validation": 1, "test": 1}},
    "patches": {"size": [16, 16, 16], "batch": 1},
    "steps": 2,
    "optimizer": {"kind": "adamw", "learning_rate": 0.02},
}


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Of a network of three levels that knows as good as nothing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    torch.manual_seed(0)
    net = UNet({"phantom8": 9}, channels=(4, 8, 8))
    run = tmp_path / "source"
    save_weights(run / "train" / "final.safetensors", {"net": net.state_dict()})
    told = {"recipe": "supervised", "protocols": ["phantom8"], "working": {"spacing_mm": 8.0}}
    (run / "settings.yaml").write_text(yaml.safe_dump(told))
    path = tmp_path / "finetune.yaml"
    path.write_text(yaml.safe_dump(SETTINGS | {"source": str(run)}))
    return path


def way(strategy, scores, *, numbers=10, seconds=5.0):
    rows = [
        Score(case, structure, "dice", value, "")
        for case, found in scores.items()
        for structure, value in found.items()
    ]
    return Way(strategy, 2, numbers, seconds, ScoreTable(tuple(rows)))


def test_ways_are_trained_scored_and_compared_and_a_second_call_goes_on(settings, tmp_path, capsys):
    out = tmp_path / "ways"
    words = ("finetune", settings, "--out", out, "--device", "cpu", "--workers", "1")

    assert command(*words, "--strategies", "shallow", "frozen") == 0
    first = capsys.readouterr()
    trained = (out / "inner-1" / "finetune" / "final.safetensors").stat().st_mtime_ns
    assert command(*words, "--strategies", "shallow", "frozen") == 0

    assert (out / "inner-1" / "finetune" / "final.safetensors").stat().st_mtime_ns == trained
    assert first.out == capsys.readouterr().out == (out / "comparison.md").read_text()
    table = [line.split("\t") for line in (out / "comparison.tsv").read_text().splitlines()]
    assert table[0][:4] == ["strategy", "paper", "weights", "numbers"]
    assert [row[:3] for row in table[1:]] == [
        ["frozen", "no fine-tuning", "0"],
        ["inner-1", "shallow", "19"],  # two levels and an up-block
    ]
    assert "frozen from the run" in first.err
    assert "19 of 34 weights move" in first.err


def test_the_mean_is_over_structures_that_every_way_knows():
    frozen = way("frozen", {"a": {"CSF": 0.5}, "b": {"CSF": 0.7}}, numbers=0, seconds=0.0)
    full = way("full", {"a": {"CSF": 0.6, "GM": 0.2}, "b": {"CSF": 0.8, "GM": 0.4}})

    lines = as_tsv([frozen, full]).splitlines()
    page = as_markdown([frozen, full], "test")

    # SD of two values that are 0.2 apart: 0.2 / sqrt(2) = 0.1414
    assert lines[0].split("\t")[5:] == ["cases", "dice", "dice_sd", "dice CSF", "dice GM"]
    assert lines[1].split("\t")[4:] == ["0", "2", "0.6000", "0.1414", "0.6000", "nan"]
    assert lines[2].split("\t")[4:] == ["5", "2", "0.7000", "0.1414", "0.7000", "0.3000"]
    assert "| `full` | full fine-tuning | 2 | 10 | 0.700 ± 0.141 (N = 2) | 5 |" in page
    assert "Structures that not every way knows are below" in page
    assert "| GM |  | 0.300 |" in page


def test_cases_that_could_not_be_scored_are_named():
    scored = way("full", {"a": {"CSF": 0.6}})
    partly = Way("full", 2, 10, 5.0, ScoreTable(scored.scores.rows, {"b": "unreadable"}))

    assert "- `full` could not be scored on b." in as_markdown([partly], "test")


def test_ways_that_share_no_structure_have_no_mean():
    page = as_tsv([way("frozen", {"a": {"CSF": 0.5}}), way("full", {"a": {"GM": 0.5}})])

    assert page.splitlines()[1].split("\t")[5:8] == ["0", "nan", "nan"]


def test_a_folder_with_other_things_is_refused(settings, tmp_path):
    (tmp_path / "ways").mkdir()
    (tmp_path / "ways" / "thesis.tex").touch()

    with pytest.raises(OutputError, match=r"holds other things .* such as thesis.tex"):
        tune(settings, tmp_path / "ways")


def test_settings_of_another_recipe_are_refused(tmp_path):
    path = tmp_path / "other.yaml"
    path.write_text("recipe: supervised\ndata: {cohort: x.tsv}\nprotocols: [phantom8]\n")

    with pytest.raises(ConfigError, match="not of the recipe `finetune`"):
        tune(path, tmp_path / "ways")


def test_an_unknown_strategy_is_refused_before_anything_is_done(settings, tmp_path):
    with pytest.raises(ConfigError, match="strategy is 'inner-3'"):
        tune(settings, tmp_path / "ways", ["frozen", "inner-3"])

    assert not (tmp_path / "ways").exists()


def test_a_way_on_which_a_scan_was_refused_is_scored_again(settings, tmp_path, monkeypatch):
    done, calls = ScoreTable((Score("a", "CSF", "dice", 0.5, ""),)), []
    out = tmp_path / "ways"
    scores = out / "frozen" / "scores_test.csv"
    monkeypatch.setattr(tuning, "train_run", lambda *_, **__: None)
    monkeypatch.setattr(tuning, "counts", lambda _: (0, 0))
    monkeypatch.setattr(tuning, "evaluate_run", lambda run, **_: calls.append(run) or done)
    scores.parent.mkdir(parents=True)
    ScoreTable(done.rows, {"b": "it was wrong"}).write_csv(scores)

    for _ in range(2):
        (way,) = tune(settings, out, ["frozen"])

    assert calls == [out / "frozen"]
    assert way.scores.unscored == {}


def test_only_the_first_of_several_processes_scores(settings, tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(tuning, "train_run", lambda _, run, **__: trained.append(run.name))
    monkeypatch.setattr(tuning, "first_process", lambda: False)

    assert tune(settings, tmp_path / "ways", ["frozen", "full"]) == ()
    assert trained == ["frozen", "full"]
    assert not (tmp_path / "ways").exists()


def test_two_processes_go_from_one_way_to_the_next(settings, tmp_path):
    program, out = Path(sys.executable).with_name("fewlabel"), tmp_path / "ways"
    done = subprocess.run(
        [program, "finetune", settings, "--out", out, "--strategies", "inner-1", "full",
         "--device", "cpu", "--devices", "2"],
        env=os.environ | {"OMP_NUM_THREADS": "1", "MASTER_PORT": str(free_port())},
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert done.stdout == (out / "comparison.md").read_text()
    assert "| `full` |" in done.stdout
