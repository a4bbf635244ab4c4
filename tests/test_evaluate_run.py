"""`fewlabel evaluate RUN`: a run scored on the scans that it did not learn from."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import yaml

from fewlabel.cohort import Cohort, read_cohort, write_cohort
from fewlabel.datasets.choice import DataConfig
from fewlabel.engine import Compute
from fewlabel.errors import CohortError, ConfigError
from fewlabel.evaluate import score_pair
from fewlabel.evaluate_run import evaluate_run
from fewlabel.export import export_run
from fewlabel.io import read_labels, read_scan
from fewlabel.recipes import RECIPES
from fewlabel.scores import ScoreTable
from fewlabel.segmenter import Segmenter
from fewlabel.train_run import Means, train_run
from tests.commands import command

SETTINGS = {
    "recipe": "supervised",
    "protocols": ["phantom8"],
    "working": {"spacing_mm": 8.0},
    "patches": {"size": [16, 16, 16], "batch": 1},
    "channels": [4, 8],
    "steps": 4,
    "optimizer": {"kind": "adamw", "learning_rate": 0.02},
}
PHANTOM = {"phantom": {"cases": 4, "spacing_mm": 5.0, "validation": 1, "test": 2}}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Four people: two of them are tested on, one is validated on."""
    folder = tmp_path_factory.mktemp("data")
    DataConfig.model_validate(PHANTOM).load(folder)
    return folder / "phantoms"


def trained(place, data, change=lambda cohort: cohort, **settings):
    """A run of a few steps on a changed cohort."""
    cohort = DataConfig(cohort=data).load(place)
    write_cohort(change(cohort), place / "cohort.tsv")
    told = SETTINGS | {"data": {"cohort": str(place / "cohort.tsv")}} | settings
    (place / "settings.yaml").write_text(yaml.safe_dump(told))
    means = Means(device="cpu", workers=1, cache=data.parent / "cache")
    train_run(place / "settings.yaml", place / "run", means=means)
    return place / "run"


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    return trained(tmp_path_factory.mktemp("trained"), data)


@pytest.fixture(autouse=True)
def _own_cache(data, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(data.parent))


def changed(cohort, number, **what):
    """The cohort with one case that differs."""
    cases = list(cohort.cases)
    cases[number] = cases[number].__class__(**{**cases[number].__dict__, **what})
    return Cohort(tuple(cases))


def test_scores_are_those_of_exporting_and_segmenting_by_hand(run, tmp_path):
    found = evaluate_run(run, metrics=["dice"])

    segmenter = Segmenter(export_run(run, tmp_path / "model").model, Compute())
    rows = []
    for case in read_cohort(run / "cohort.tsv").part("test"):
        labels = segmenter(read_scan(case.scans["T1w"])).labels
        truth = read_labels(case.labels, case.drawn_in())
        rows += score_pair(labels, truth, case=case.id, metrics=["dice"]).rows
    assert found == ScoreTable(tuple(rows))
    assert {row.case for row in rows} == {"sub-01", "sub-02"}
    assert len(rows) == 2 * 8


def test_validation_scans_are_scored_if_asked_for(run):
    assert {row.case for row in evaluate_run(run, split="val", metrics=["dice"]).rows} == {"sub-03"}


def test_the_command_writes_the_table_that_folders_get(run, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    files = ("--out", tmp_path / "scores.csv", "--plot", tmp_path / "boxes.png")

    code = command("evaluate", run, *files)

    assert code == 0
    said = capsys.readouterr().out
    assert "per structure, over cases" in said
    assert "per case: mean over structures" in said
    assert "volume ICC" in said
    with (tmp_path / "scores.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["case", "structure", "metric", "value", "unit"]
    assert len(rows) == 2 * 8 * 6
    assert (tmp_path / "boxes.png").stat().st_size > 1000


def test_structures_are_compared_in_the_terms_asked_for(run, tmp_path, capsys):
    own = tmp_path / "own.tsv"
    own.write_text("index\tname\n1\tVentricle\n")

    command("evaluate", run, "--score-in", own, "--metrics", "dice", "--json")

    said = json.loads(capsys.readouterr().out)
    assert [one["structure"] for one in said["structures"]] == ["Ventricle"]


def test_structures_that_nobody_looked_for_are_not_scored(data, tmp_path):
    kept = ("Left-White", "Right-White")
    run = trained(tmp_path, data, lambda cohort: changed(cohort, 0, looked_for=kept))

    rows = evaluate_run(run, metrics=["dice"]).rows

    assert tuple(row.structure for row in rows if row.case == "sub-01") == kept
    assert len([row for row in rows if row.case == "sub-02"]) == 8


def test_a_scan_that_cannot_be_read_does_not_stop_the_others(data, tmp_path, capsys):
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"nothing")
    run = trained(tmp_path, data, lambda cohort: changed(cohort, 0, scans={"T1w": broken}))

    code = command("evaluate", run, "--metrics", "dice", "--json")

    said = json.loads(capsys.readouterr().out)
    assert code == 1
    assert list(said["cases"]["dice"]) == ["sub-02"]
    assert "broken.nii.gz" in said["unscored"]["sub-01"]


def test_a_run_that_is_not_at_its_end_is_refused(data, tmp_path):
    run = trained(tmp_path, data)
    (run / "train" / "final.safetensors").unlink()

    with pytest.raises(ConfigError) as refusal:
        evaluate_run(run)

    assert "is not at its end: its stage 'train' has no final weights" in refusal.value.what
    assert "--resume" in refusal.value.fix


def test_a_run_without_test_scans_is_refused_and_points_to_those_of_validation(data, tmp_path):
    def without(cohort):
        first = changed(cohort, 0, labels=None, protocol="")  # a test case that nobody labeled
        return Cohort((first.cases[0], *cohort.part("val"), *cohort.part("train")))

    run = trained(tmp_path, data, without)

    with pytest.raises(CohortError) as refusal:
        evaluate_run(run)

    assert "has no labeled scans in 'test'" in refusal.value.what
    assert "its cohort has 1 in 'train', 1 in 'val', 1 in 'test'" in refusal.value.what
    assert "`--split val`" in refusal.value.fix


def test_a_run_that_has_no_cohort_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(RECIPES, "tiny", "tests.train.tiny")
    (tmp_path / "tiny.yaml").write_text("recipe: tiny\nfirst_steps: 1\nsecond_steps: 1\n")
    train_run(tmp_path / "tiny.yaml", tmp_path / "run")

    with pytest.raises(CohortError, match=r"has no cohort\.tsv: it learned from no scans"):
        evaluate_run(tmp_path / "run")


def test_a_network_of_two_modalities_is_scored_on_both_together(data, tmp_path):
    def twice(cohort):
        cases = [replace(c, scans={"T2w": c.scans["T1w"], **c.scans}) for c in cohort.cases]
        cases[0] = replace(cases[0], scans={"T1w": cases[0].scans["T1w"]})
        return Cohort(tuple(cases))

    working = {"spacing_mm": 8.0, "modalities": ["T1w", "T2w"]}
    run = trained(tmp_path, data, twice, working=working)

    found = evaluate_run(run, metrics=["dice"])

    assert {row.case for row in found.rows} == {"sub-02"}
    assert list(found.unscored) == ["sub-01"]
    assert "T2w of the same head is lacking" in found.unscored["sub-01"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--metrics", "dise"), "There is no metric 'dise'"),
        (("--protocol", "phantom8"), "A run and its cohort know their protocols"),
    ],
)
def test_words_that_a_run_cannot_use_are_refused_at_once(run, words, said):
    with pytest.raises(ConfigError, match=said):
        command("evaluate", run, *words)


def test_predictions_without_a_truth_or_a_protocol_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="is no run folder, and there is no TRUTH"):
        command("evaluate", tmp_path)
    with pytest.raises(ConfigError, match="Nothing says what the numbers in"):
        command("evaluate", tmp_path, tmp_path)


def test_a_run_keeps_the_manifest_of_its_cases(run, data):
    kept = read_cohort(run / "cohort.tsv")

    assert [(case.id, case.split) for case in kept.cases] == [
        ("sub-01", "test"),
        ("sub-02", "test"),
        ("sub-03", "val"),
        ("sub-04", "train"),
    ]
    assert np.all([case.scans["T1w"].resolve().is_relative_to(data) for case in kept.cases])


def test_a_run_is_not_taken_up_with_cases_in_other_splits(data, tmp_path):
    run = trained(tmp_path, data)
    cohort = read_cohort(tmp_path / "cohort.tsv")
    exchanged = changed(changed(cohort, 0, split="train"), 3, split="test")
    write_cohort(exchanged, tmp_path / "cohort.tsv")

    with pytest.raises(CohortError) as refusal:
        train_run(tmp_path / "settings.yaml", run, resume=True)

    assert "sub-04 was in 'train' and is in 'test' now." in refusal.value.what
    assert "sub-01 is new in 'train'." in refusal.value.what
