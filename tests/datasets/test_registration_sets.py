"""Empty files where the data sets for registration lie."""

import pytest

from fewlabel.cli_datasets import dataset
from fewlabel.cohort import read_cohort
from fewlabel.datasets.mindboggle101 import mindboggle101
from fewlabel.datasets.oai_knees import COUNTS, oai_knees
from fewlabel.datasets.oasis1 import COUNT, oasis1
from fewlabel.errors import CohortError


def fill(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def group(folder, name, people):
    for n in range(1, people + 1):
        person = folder / f"{name}_volumes" / f"{name}-{n}"
        fill(person, "t1weighted_brain.nii.gz", "labels.DKT31.manual+aseg.nii.gz")


def test_a_group_of_mindboggle_alone_is_whole_and_not_split(tmp_path, capsys):
    group(tmp_path / "data", "OASIS-TRT-20", 20)
    dataset("mindboggle101", tmp_path / "data", out=tmp_path / "m.tsv")
    cases = read_cohort(tmp_path / "m.tsv").cases
    assert len(cases) == 20
    assert {(case.split, case.protocol, case.site) for case in cases} == {
        ("", "dktaseg", "OASIS-TRT-20")
    }
    assert "20 cases, not split yet" in capsys.readouterr().out


def test_groups_of_mindboggle_are_split_as_in_the_paper_and_twins_are_a_family(tmp_path):
    group(tmp_path, "NKI-RS-22", 22)
    group(tmp_path, "Twins-2", 2)
    cohort = mindboggle101(tmp_path)
    assert {case.site for case in cohort.part("test")} == {"NKI-RS-22"}
    assert [case.family for case in cohort.part("train")] == ["Twins-2", "Twins-2"]


def test_what_a_download_of_mindboggle_lacks_is_named(tmp_path):
    group(tmp_path, "HLN-12", 11)
    (tmp_path / "HLN-12_volumes" / "HLN-12-3" / "t1weighted_brain.nii.gz").unlink()
    with pytest.raises(CohortError) as refusal:
        mindboggle101(tmp_path)
    assert "HLN-12 has 11 people, needed are 12" in str(refusal.value)
    assert "HLN-12-3 has no t1weighted_brain.nii.gz" in str(refusal.value)
    with pytest.raises(CohortError, match="there is none of MMRR-21"):
        mindboggle101(tmp_path / "HLN-12_volumes" / "HLN-12-1")


def test_oasis_knows_people_who_were_scanned_twice_and_what_is_missing(tmp_path):
    for n in range(1, COUNT):
        fill(tmp_path / f"OASIS_OAS1_{n:04d}_MR1", "norm.nii.gz", "seg4.nii.gz")
    with pytest.raises(CohortError, match=r"there are 413 folders OASIS_OAS1_\*, needed are 414"):
        oasis1(tmp_path)
    fill(tmp_path / "OASIS_OAS1_0001_MR2", "norm.nii.gz", "seg4.nii.gz")
    cases = oasis1(tmp_path).cases
    assert [case.id for case in cases if case.person == "OAS1_0001"] == [
        "OAS1_0001_MR1",
        "OAS1_0001_MR2",
    ]


def test_knees_are_split_as_published_and_a_partial_download_is_refused(tmp_path):
    for part, (count, _) in COUNTS.items():
        names = [f"oaizib_{n:03d}" for n in range(count)]
        fill(tmp_path / f"images{part}", *(f"{name}_0000.nii.gz" for name in names))
        fill(tmp_path / f"labels{part}", *(f"{name}.nii.gz" for name in names))
    cohort = oai_knees(tmp_path)
    assert (len(cohort.part("train")), len(cohort.part("test"))) == (404, 103)
    (tmp_path / "labelsTr" / "oaizib_007.nii.gz").unlink()
    (tmp_path / "imagesTs" / "oaizib_100_0000.nii.gz").unlink()
    with pytest.raises(CohortError) as refusal:
        oai_knees(tmp_path)
    assert "imagesTs has 102 scans, needed are 103" in str(refusal.value)
    assert "oaizib_007_0000.nii.gz has no" in str(refusal.value)
