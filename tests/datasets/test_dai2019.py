"""Empty files where the data sets of dai2019 lie."""

import pytest

from fewlabel.cli_datasets import dataset
from fewlabel.cohort import read_cohort
from fewlabel.datasets.dai2019 import haa, malc, ukb_first
from fewlabel.errors import CohortError


def fill(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def release(folder):
    for part, first, count in (("training", 1000, 15), ("testing", 1100, 20)):
        numbers = range(first, first + count)
        fill(folder / f"{part}-images", *(f"{n}_3.nii.gz" for n in numbers))
        fill(folder / f"{part}-labels", *(f"{n}_3_glm.nii.gz" for n in numbers))


def test_malc_is_found_at_any_depth_with_its_official_split(tmp_path, capsys):
    release(tmp_path / "release" / "MICCAI-2012-Multi-Atlas-Challenge-Data")

    dataset("malc", tmp_path, out=tmp_path / "m.tsv")

    cohort = read_cohort(tmp_path / "m.tsv")
    assert [len(cohort.part(split)) for split in ("train", "val", "test")] == [15, 0, 20]
    assert {case.protocol for case in cohort.cases} == {"neuromorphometrics138"}
    assert cohort.cases[0].id == "malc-1000_3"
    assert cohort.cases[0].labels.name == "1000_3_glm.nii.gz"
    assert "15 train, 20 test" in capsys.readouterr().out


def test_what_a_download_of_malc_lacks_is_named(tmp_path):
    release(tmp_path)
    (tmp_path / "training-labels" / "1003_3_glm.nii.gz").unlink()
    (tmp_path / "testing-images" / "1119_3.nii.gz").unlink()

    with pytest.raises(CohortError) as refusal:
        malc(tmp_path)

    assert "training-labels has no 1003_3_glm.nii.gz" in str(refusal.value)
    assert "testing-images has 19 scans, needed are 20" in str(refusal.value)


def test_another_folder_than_that_of_malc_is_refused_with_what_is_needed(tmp_path):
    with pytest.raises(CohortError, match="training-images has 0 scans, needed are 15"):
        malc(tmp_path)


def test_hammers_atlases_are_dealt_as_many_as_in_the_paper(tmp_path):
    names = [f"a{n:02d}" for n in range(1, 21)]
    fill(tmp_path / "n20r67", *(f"{name}.nii" for name in names))
    fill(tmp_path / "n20r67", *(f"{name}-seg.nii.gz" for name in names))

    cohort = haa(tmp_path)

    assert [len(cohort.part(split)) for split in ("train", "val", "test")] == [5, 2, 13]
    assert cohort.cases[6].id == "haa-a07"
    assert cohort.cases[6].labels.name == "a07-seg.nii.gz"

    (tmp_path / "n20r67" / "a20-seg.nii.gz").unlink()
    with pytest.raises(CohortError, match=r"there is no a20-seg\.nii"):
        haa(tmp_path)


def test_uk_biobank_scans_that_first_failed_on_are_left_out_and_counted(tmp_path, capsys):
    for name in ("1000001_20252_2_0", "1000001_20252_3_0", "1000002_20252_2_0"):
        fill(tmp_path / name / "T1", "T1.nii.gz")
    for name in ("1000001_20252_2_0", "1000001_20252_3_0"):
        fill(tmp_path / name / "T1" / "T1_first", "T1_first_all_fast_firstseg.nii.gz")

    dataset("ukb-first", tmp_path, out=tmp_path / "u.tsv")

    cases = read_cohort(tmp_path / "u.tsv").cases
    assert [(case.person, case.session) for case in cases] == [("1000001", "2"), ("1000001", "3")]
    assert {case.protocol for case in cases} == {"fsl15"}
    assert "1 scans lack T1.nii.gz or FIRST's result: 1000002_20252_2_0" in capsys.readouterr().out

    with pytest.raises(CohortError, match="unpack each archive of bulk field 20252"):
        ukb_first(tmp_path / "1000002_20252_2_0")
