from dataclasses import replace
from pathlib import Path

import pytest

from fewlabel.cohort import (
    Case,
    Cohort,
    of_each,
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


def test_a_folder_is_no_manifest(tmp_path):
    with pytest.raises(CohortError, match="is a folder, and a manifest is needed") as refusal:
        read_cohort(tmp_path)
    assert f"fewlabel cohort {tmp_path} --out cohort.tsv" in refusal.value.fix


def test_a_file_that_is_not_there_is_named_with_its_column(tmp_path):
    (tmp_path / "cohort.tsv").write_text("case\tsex\tlabels\na\tF\tb.nii\n")

    with pytest.raises(CohortError) as refusal:
        read_cohort(tmp_path / "cohort.tsv")

    assert f"no file {tmp_path / 'F'} (column 'sex', taken for a modality)" in refusal.value.what
    assert f"no file {tmp_path / 'b.nii'} (column 'labels')" in refusal.value.what


def test_sessions_are_of_the_person_in_their_names(tmp_path):
    (tmp_path / "a.nii").touch()
    rows = "".join(f"{name}\ta.nii\n" for name in ("sub-01_ses-1", "sub-01_ses-2", "other_1"))
    (tmp_path / "cohort.tsv").write_text(f"case\tT1w\n{rows}")

    people = [case.person for case in read_cohort(tmp_path / "cohort.tsv").cases]

    assert people == ["sub-01", "sub-01", "other_1"]


def test_modalities_that_no_case_has_are_refused_with_those_there_are(cohort):
    with pytest.raises(CohortError, match="No case has a scan called FLAIR, only T1w, T2w"):
        cohort.seen_in(("FLAIR",))


def test_what_to_do_is_told_where_it_is_the_same_for_all(cohort):
    def refuse_all(_):
        raise CohortError("It is wrong.", fix="paint it anew.")

    with pytest.raises(CohortError) as refusal:
        of_each(refuse_all, cohort.cases)
    assert refusal.value.fix == "paint it anew."
