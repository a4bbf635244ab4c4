"""Plans: from a cohort to a table and back."""

from dataclasses import replace

import nibabel
import numpy as np
import pytest

from fewlabel.budget import Brain
from fewlabel.budget_make import Wish, make_plan
from fewlabel.budget_plan import read_plan, write_plan
from fewlabel.cohort import Case, Cohort, read_cohort, write_cohort
from fewlabel.errors import CohortError, ConfigError, ProtocolError, ScanError
from fewlabel.grid import Grid

SHAPE = (20, 24, 28)


@pytest.fixture
def cohort(tmp_path):
    """Three scans to train on, all brain, and one to test on; 5 mm voxels, stored to the left."""
    cases = []
    for name, split in (("a", "train"), ("b", "train"), ("c", "train"), ("d", "test")):
        data = np.zeros(SHAPE, dtype=np.int16)
        texture = np.arange(16 * 20 * 20).reshape(16, 20, 20) % 97
        data[2:18, 2:22, 4:24] = 500 + 3 * texture
        path = tmp_path / f"{name}_T1w.nii.gz"
        nibabel.save(nibabel.Nifti1Image(data, np.diag([-5.0, 5.0, 5.0, 1.0])), path)
        case = Case(name, name, name, {"T1w": path}, protocol="phantom8", split=split)
        cases.append(case)
    write_cohort(Cohort(tuple(cases)), tmp_path / "cohort.tsv")
    return tmp_path / "cohort.tsv"


def test_a_plan_keeps_to_the_training_scans_and_says_what_it_costs(cohort):
    plan = make_plan(cohort, Wish(slices=9, strategy="axial", minutes_per_slice=20.0))
    assert {name: len(slices) for name, slices in plan.slices.items()} == {"a": 3, "b": 3, "c": 3}
    assert plan.as_text() == (
        "9 slices of 3 scans, 3 a scan (9 axial); about 3.0 h (axial, seed 0)"
    )


def test_a_plan_is_written_for_people_and_read_again(cohort, tmp_path):
    plan = make_plan(cohort, Wish(slices=7, seed=5))
    write_plan(plan, tmp_path / "plans" / "plan.tsv")
    again = read_plan(tmp_path / "plans" / "plan.tsv")
    assert again.slices == {
        name: tuple(replace(one, position_mm=round(one.position_mm, 2)) for one in slices)
        for name, slices in plan.slices.items()
    }
    assert (again.modality, again.protocol, again.strategy) == ("T1w", "phantom8", "random, seed 5")
    assert again.cohort.resolve() == cohort.resolve()
    assert list(again.cases()) == list(plan.slices)


def test_a_line_has_the_number_that_itk_snap_shows_and_the_place_in_mm(cohort, tmp_path):
    plan = make_plan(cohort, Wish(slices=3, strategy="sagittal"))
    write_plan(plan, tmp_path / "plan.tsv")
    lines = (tmp_path / "plan.tsv").read_text().splitlines()
    names, first = lines[0].split("\t"), lines[1].split("\t")
    row = dict(zip(names, first, strict=True))
    index = int(row["index"])
    assert (row["slice"], row["of"]) == (str(index + 1), "20")
    assert float(row["position_mm"]) == -5.0 * index  # the first axis runs to the left
    assert (row["voxel_axis"], row["minutes"], row["doubt_mm2"]) == ("i", "10", "n/a")
    assert row["scan"] == "a_T1w.nii.gz"


def test_lines_may_be_taken_out_of_a_plan(cohort, tmp_path):
    path = tmp_path / "plan.tsv"
    write_plan(make_plan(cohort, Wish(slices=6)), path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-1]) + "\n")
    assert sum(len(slices) for slices in read_plan(path).slices.values()) == 5


def test_every_line_that_makes_no_sense_is_named(cohort, tmp_path):
    path = tmp_path / "plan.tsv"
    write_plan(make_plan(cohort, Wish(slices=6, strategy="axial")), path)
    lines = path.read_text().splitlines()
    lines[2] = lines[2].replace("\taxial\t", "\ttop\t")
    lines[4] = lines[4].replace("\tk\t", "\tk\t9")
    lines[5] = lines[5].replace("\tT1w\t", "\tT2w\t")
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(CohortError) as refusal:
        read_plan(path)
    said = str(refusal.value)
    assert "line 3 is" in said
    assert "line 5 is" in said
    assert "2 values for modality: T1w, T2w" in said


def test_what_is_no_plan_is_refused(cohort, tmp_path):
    with pytest.raises(CohortError, match="is no plan: it has no lines, or no column axis"):
        read_plan(cohort)
    with pytest.raises(CohortError, match="Cannot read the plan"):
        read_plan(tmp_path / "none.tsv")


def test_a_plan_for_scans_that_left_the_cohort_is_refused(cohort):
    plan = make_plan(cohort, Wish(slices=3))
    kept = tuple(case for case in read_cohort(cohort).cases if case.id != "b")
    write_cohort(Cohort(kept), cohort)
    with pytest.raises(CohortError, match="there is no case b"):
        plan.cases()


def test_fewer_scans_can_be_drawn(cohort):
    plan = make_plan(cohort, Wish(slices=6, scans=2))
    assert [len(slices) for slices in plan.slices.values()] == [3, 3]


def test_with_fewer_slices_than_scans_some_get_none_and_that_is_said(cohort):
    plan = make_plan(cohort, Wish(slices=2))
    assert len(plan.slices) == 2
    assert "1 of 3 scans get none" in plan.as_text()


@pytest.mark.parametrize(
    ("wish", "says"),
    [
        (Wish(slices=3, scans=4), "4 scans were asked for; there are 3"),
        (Wish(slices=3, modality="T2w"), "Not every case has T2w; there are T1w"),
        (Wish(slices=3, minutes_per_slice=0.0), "cannot cost 0 minutes"),
        (Wish(slices=3, strategy="uncertain"), "add --model"),
    ],
)
def test_wishes_that_cannot_be_met_are_refused(cohort, wish, says):
    with pytest.raises(ConfigError, match=says):
        make_plan(cohort, wish)


def test_an_unknown_protocol_is_refused_before_scans_are_read(cohort):
    with pytest.raises(ProtocolError, match="write 'phantom8'"):
        make_plan(cohort, Wish(slices=3, protocol="phantom9"))


def test_what_to_draw_must_be_said_if_the_cohort_does_not(cohort):
    cases = read_cohort(cohort).cases
    write_cohort(Cohort(tuple(replace(case, protocol="") for case in cases)), cohort)
    with pytest.raises(ConfigError, match="the cohort has no protocol"):
        make_plan(cohort, Wish(slices=3))
    assert make_plan(cohort, Wish(slices=3, protocol="drawem9")).protocol == "drawem9"


def test_scans_that_cannot_be_read_are_all_named(cohort, tmp_path):
    for name in ("a", "c"):
        (tmp_path / f"{name}_T1w.nii.gz").write_bytes(b"nothing")
    with pytest.raises(CohortError, match="2 problems") as refusal:
        make_plan(cohort, Wish(slices=3))
    assert not isinstance(refusal.value, ScanError)


def test_a_clever_choice_is_told_beside_random_and_equidistant_ones(cohort, tmp_path):
    along = np.zeros(28)
    along[12] = 300.0  # all doubt is in one slice

    def look(case, modality):
        assert modality == "T1w"
        scan = nibabel.load(case.scans[modality])
        extent = np.array([[0, 20], [0, 24], [0, 28]])
        doubt = (np.zeros(20), np.zeros(24), along)
        return Brain(Grid(SHAPE, np.asarray(scan.affine)), extent, doubt)

    plan = make_plan(cohort, Wish(slices=3, strategy="uncertain"), look)
    write_plan(plan, tmp_path / "plan.tsv")
    assert "unsure of 300 mm2 in a planned slice; with random slices it would be" in plan.as_text()
    assert "random and equidistant slices are hard to beat" in plan.as_text()
    doubts = [one.doubt_mm2 for slices in plan.slices.values() for one in slices]
    assert doubts == [300.0] * 3
    assert read_plan(tmp_path / "plan.tsv").slices["a"][0].doubt_mm2 == 300.0
