from dataclasses import replace
from pathlib import Path

import pytest

from fewlabel.cohort import (
    Case,
    Cohort,
    read_cohort,
    write_cohort,
)
from fewlabel.errors import CohortError


@pytest.fixture
def cohort(tmp_path):
    images = tmp_path / "data"
    images.mkdir()
    for name in ("a_T1w.nii", "a_T2w.nii", "a_dseg.nii", "b_T1w.nii"):
        (images / name).touch()
    first = Case(
        id="a", person="p1", family="f1", session="1", age_weeks=40.5, site="here", split="train",
        scans={"T1w": images / "a_T1w.nii", "T2w": images / "a_T2w.nii"},
        labels=images / "a_dseg.nii", protocol="aseg32",
        looked_for=("Left-Pallidum", "Right-Pallidum"),
    )  # fmt: skip
    second = Case("b", "p2", "p2", {"T1w": images / "b_T1w.nii"}, split="test")
    return Cohort((first, second))


def test_a_manifest_comes_back_as_it_was_written(cohort, tmp_path):
    manifest = tmp_path / "lists" / "cohort.tsv"

    write_cohort(cohort, manifest)
    found = read_cohort(manifest)

    for before, after in zip(cohort.cases, found.cases, strict=True):
        same = replace(after, scans=before.scans, labels=before.labels)
        assert same == before
        assert {m: p.resolve() for m, p in after.scans.items()} == dict(before.scans)


def test_a_manifest_holds_paths_relative_to_its_folder(cohort, tmp_path):
    write_cohort(cohort, tmp_path / "lists" / "cohort.tsv")

    assert "\t../data/a_dseg.nii\t" in (tmp_path / "lists" / "cohort.tsv").read_text()


def test_every_problem_of_a_manifest_is_listed_at_once(tmp_path):
    (tmp_path / "a.nii").touch()
    (tmp_path / "cohort.tsv").write_text(
        "case\tsplit\tprotocol\tlooked_for\tage_weeks\tT1w\n"
        "a\ttrain\taseg23\t\t\ta.nii\n"
        "a\tvalid\taseg32\tLeft-Palidum\told\tb.nii\n"
        "c\ttest\tn/a\tn/a\tn/a\tn/a\n"
    )

    with pytest.raises(CohortError) as refusal:
        read_cohort(tmp_path / "cohort.tsv")

    text = str(refusal.value)
    assert "has 7 problems" in text
    assert "a is there 2 times" in text
    assert f"there is no file {tmp_path / 'b.nii'}" in text
    assert "split is 'valid'; it is one of train, val, test" in text
    assert "There is no protocol 'aseg23'" in text
    assert "has no structure 'Left-Palidum'" in text
    assert "age_weeks is 'old'" in text
    assert "c: it has neither an image nor labels" in text


def test_a_file_that_is_no_manifest_is_refused(tmp_path):
    (tmp_path / "other.tsv").write_text("name\tage\nx\t3\n")

    with pytest.raises(CohortError, match="no column `case`"):
        read_cohort(tmp_path / "other.tsv")
    with pytest.raises(CohortError, match="Cannot read the manifest"):
        read_cohort(tmp_path / "nowhere.tsv")


def test_paths_are_not_opened_when_a_manifest_is_read(cohort, tmp_path):
    write_cohort(cohort, tmp_path / "cohort.tsv")

    assert isinstance(read_cohort(tmp_path / "cohort.tsv").cases[0].labels, Path)  # an empty file
