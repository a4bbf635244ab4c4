import math

import numpy as np
import pytest

from fewlabel.cli_datasets import dataset
from fewlabel.cohort import read_cohort
from fewlabel.datasets.mrbrains13 import challenge_scores, mrbrains13
from fewlabel.datasets.neobrains12 import neobrains12
from fewlabel.errors import CohortError
from fewlabel.grid import Grid
from fewlabel.labels import load_protocol
from fewlabel.volume import LabelMap


def neobrains(folder, coronal_tests=5):
    """Empty files where the challenge's lie."""
    for name, tests in (("40wAxial", 5), ("30wCoronal", 5), ("40wCoronal", coronal_tests)):
        for n in (1, 2) if name != "40wCoronal" else ():
            put(folder / "trainingDataNeoBrainS12" / name / f"example{n}", "manualSegm.nii.gz")
        for n in range(tests):
            put(folder / "testDataNeoBrainS12" / name / f"image{n}")
    return folder


def put(folder, *more):
    folder.mkdir(parents=True)
    for name in ("T1_1-2.nii.gz", "T2_1-1.nii.gz", *more):
        (folder / name).touch()


def mrbrains(folder, tests=True):
    for number in range(1, 6):
        fill(folder / "TrainingData" / str(number), "LabelsForTraining.nii")
    for number in range(1, 16) if tests else ():
        fill(folder / "TestData" / str(number))
    return folder


def fill(folder, *more):
    folder.mkdir(parents=True)
    for name in ("T1.nii", "T1_1mm.nii", "T1_IR.nii", "T2_FLAIR.nii", *more):
        (folder / name).touch()


@pytest.mark.parametrize(("experiment", "train"), [("exp1", 2), ("exp2", 2), ("exp3", 4)])
def test_each_experiment_on_neonates_has_its_training_and_test_images(tmp_path, experiment, train):
    cohort = neobrains12(neobrains(tmp_path), experiment)

    assert len(cohort.part("train")) == train
    assert len(cohort.part("test")) == 5
    assert all(
        case.labels and case.scans["T2w"].name == "T2_1-1.nii.gz" for case in cohort.part("train")
    )
    assert len({case.person for case in cohort.cases}) == len(cohort.cases)


def test_the_third_experiment_trains_on_both_and_tests_on_neither(tmp_path):
    cohort = neobrains12(neobrains(tmp_path), "exp3")

    assert {case.id.split("-")[0] for case in cohort.part("train")} == {"40wAxial", "30wCoronal"}
    assert {case.id.split("-")[0] for case in cohort.part("test")} == {"40wCoronal"}


def test_an_incomplete_download_of_neonates_is_named_in_full(tmp_path):
    neobrains(tmp_path, coronal_tests=4)
    first = tmp_path / "trainingDataNeoBrainS12" / "30wCoronal" / "example1"
    (first / "manualSegm.nii.gz").unlink()
    (first.with_name("example2") / "T2_1-1.nii.gz").unlink()

    with pytest.raises(CohortError) as refusal:
        neobrains12(tmp_path, "exp3")

    assert "example2 has no T2_*.nii.gz" in refusal.value.what
    assert "30wCoronal has 0 examples with T2_*.nii.gz and manualSegm.nii.gz" in refusal.value.what
    assert "40wCoronal has 4 test images, there should be 5" in refusal.value.what


def test_another_folder_is_not_taken_for_the_challenge(tmp_path):
    with pytest.raises(CohortError, match="40wAxial has 0 examples"):
        neobrains12(tmp_path, "exp1")
    with pytest.raises(CohortError, match=r"1 has no T1\.nii, no T1_IR\.nii, no T2_FLAIR\.nii"):
        mrbrains13(tmp_path)


@pytest.mark.parametrize("tests", [True, False])
def test_adults_have_five_scans_to_train_on_and_fifteen_to_test_on(tmp_path, tests):
    cohort = mrbrains13(mrbrains(tmp_path, tests))

    assert len(cohort.part("train")) == 5
    assert len(cohort.part("test")) == 15 * tests
    assert cohort.cases[0].protocol == "mrbrains8"
    assert cohort.cases[0].scans["T1w"].name == "T1.nii"


def test_a_missing_label_map_of_adults_is_named(tmp_path):
    (mrbrains(tmp_path) / "TrainingData" / "3" / "LabelsForTraining.nii").unlink()

    with pytest.raises(CohortError, match=r"3 has no LabelsForTraining\.nii"):
        mrbrains13(tmp_path)


def test_the_command_writes_a_manifest_that_can_be_read(tmp_path, capsys):
    mrbrains(tmp_path / "download")

    dataset("mrbrains13", tmp_path / "download", out=tmp_path / "m.tsv")

    assert "5 train, 15 test" in capsys.readouterr().out
    assert len(read_cohort(tmp_path / "m.tsv").cases) == 20


def test_the_challenges_numbers_are_of_grouped_tissues():
    full = load_protocol("mrbrains8")
    number = {name: full.class_of(name) for name in full.names}
    grid = Grid((4, 2, 1), np.diag([1.0, 1.0, 3.0, 1.0]))
    cortex, deep = number["cortical gray matter"], number["basal ganglia"]
    white, lesion, stem = (number[n] for n in ("white matter", "white matter lesions", "brainstem"))
    truth = LabelMap(
        np.array([[cortex, deep], [white, lesion], [stem, 0], [0, 0]], np.int16)[:, :, None],
        grid,
        full,
    )
    found = LabelMap(
        np.array([[deep, cortex], [white, 0], [white, 0], [0, 0]], np.int16)[:, :, None], grid, full
    )

    scores = challenge_scores(found, truth)

    assert scores["DC"]["gray matter"] == 1.0
    assert scores["DC"]["white matter"] == pytest.approx(2 * 1 / 3)  # the brain stem is not scored
    assert scores["AVD"]["white matter"] == pytest.approx(50.0)
    assert scores["HD95"]["gray matter"] == 0.0
    assert math.isnan(scores["AVD"]["cerebrospinal fluid"])
