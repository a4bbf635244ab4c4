"""The real data sets, indexed; skipped by name where they are not there."""

from pathlib import Path

import pytest

from fewlabel.cohort import problems_of
from fewlabel.datasets import index_folder
from fewlabel.splits import leaks

DATA = Path(__file__).parents[3] / "shared" / "data"


def indexed(name, desc=""):
    if not (DATA / name).is_dir():
        pytest.skip(f"{name} is not in ../shared/data")
    return index_folder(DATA / name, desc=desc)


@pytest.mark.parametrize(
    ("name", "desc", "cases", "labeled", "protocol"),
    [
        ("malc", "", 17, 17, "neuromorphometrics138"),
        ("oasis-trt", "dktaseg", 16, 16, "dktaseg"),
        ("ibsr18", "", 13, 10, "tissue3"),
        ("neonatal-templates", "", 17, 17, "drawem9"),
        ("fetal-spina-bifida", "", 15, 15, "fetal8"),
        ("hippocampus", "", 60, 60, "hippocampus2"),
        ("label-maps", "", 20, 20, "asegextra"),
    ],
)
def test_a_data_set_is_indexed_with_its_protocol(name, desc, cases, labeled, protocol):
    found = indexed(name, desc).cohort

    assert len(found.cases) == cases
    assert sum(case.labels is not None for case in found.cases) == labeled
    assert {case.protocol for case in found.cases if case.labels} == {protocol}
    assert problems_of(found) == []


def test_malc_comes_with_its_official_split():
    found = indexed("malc").cohort

    assert [len(found.part(split)) for split in ("train", "val", "test")] == [15, 2, 0]
    assert leaks({split: found.part(split) for split in ("train", "val")}) == []


def test_the_people_of_oasis_trt_are_known_to_be_those_of_malc():
    malc, trt = indexed("malc").cohort, indexed("oasis-trt", "dktaseg").cohort

    found = leaks({"source": malc.cases, "test": trt.cases})

    assert "Person OAS1_0061 is in source (sub-1000) and test (sub-01)." in found
    assert len(found) == 16


def test_modalities_ages_and_missing_labels_are_seen():
    neonates, ibsr = indexed("neonatal-templates"), indexed("ibsr18")

    assert set(neonates.cohort.cases[0].scans) == {"T1w", "T2w"}
    assert neonates.cohort.cases[0].age_weeks == 28
    assert ibsr.odd == ("3 cases have no labels: sub-02, sub-10, sub-15.",)
