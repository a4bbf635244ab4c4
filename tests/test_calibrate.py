"""What a model's results are like, and how well their Dice is foretold."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from fewlabel.calibrate import Task, calibrate, look, tasks_for, write_calibrated
from fewlabel.cohort import Case, Cohort, write_cohort
from fewlabel.damage import INTACT, MILD, facing_up
from fewlabel.engine import Compute
from fewlabel.errors import CohortError
from fewlabel.grid import Grid
from fewlabel.io import write_labels
from fewlabel.model import read_model
from fewlabel.norms_fit import fit_lines
from fewlabel.segmenter import Segmenter
from fewlabel.show import calibrated_as_lines
from fewlabel.volume import LabelMap, Scan
from fewlabel.warp_io import write_scan
from tests.band_model import BANDS, band_model, box_grid, head_at
from tests.commands import command

ONE = Compute(threads=1)
BANDS_TSV = "index\tname\n7\tBall\n46\tRight-Lump\n24\tCSF\n"
PEOPLE = 9


def head(n):
    """A head of its own size, with a little noise."""
    grid = box_grid()
    affine = grid.affine.copy()
    affine[:3] *= 0.94 + 0.015 * n
    noise = np.random.default_rng(n).normal(0, 8, grid.shape)
    return Scan((head_at(grid).data + noise).astype(np.float32), Grid(grid.shape, affine))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A model, and people drawn by somebody who sees less lump than it; one was trained on."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "bands.tsv").write_text(BANDS_TSV)
    model = band_model(folder / "plain")
    drawer = Segmenter(band_model(folder / "other", offsets={"Right-Lump": -1.0}), ONE)
    cases = []
    for n in range(PEOPLE + 1):
        scan, place = head(n), folder / f"sub-{n}_T1w.nii.gz"
        write_scan(scan, place)
        drawn = folder / f"sub-{n}_dseg.nii.gz"
        write_labels(drawer(scan).labels, drawn)
        cases.append(Case(f"sub-{n}", f"sub-{n}", f"sub-{n}", {"T1w": place}, drawn,
                          str(folder / "bands.tsv"), age_weeks=52.18 * (30 + n),
                          split="train" if n == PEOPLE else "test"))  # fmt: skip
    return model, cases


@pytest.fixture(scope="module")
def looks(study):
    """What is measured of each task, once for all tests."""
    model, cases = study
    segmenter = Segmenter(model, ONE)
    return {
        (task.case.id, task.damage): look(segmenter, task) for task in tasks_for(cases[:PEOPLE])
    }


@pytest.fixture
def measured(looks, monkeypatch):
    """Those are taken instead of looking again."""
    monkeypatch.setattr("fewlabel.calibrate.look", lambda _, task: looks[task.case.id, task.damage])


@pytest.fixture
def found(study, measured):  # noqa: ARG001  (it takes the place of looking)
    model, cases = study
    return calibrate(model, cases[:PEOPLE], "study", ONE)


def test_it_tells_how_good_results_are_and_how_well_that_is_foretold(found):
    assert list(found.dice) == [f"sub-{n}" for n in range(PEOPLE)]
    assert 0.8 < np.mean(list(found.dice.values())) < 0.999
    assert found.intact.values == PEOPLE * len(BANDS.names)
    assert found.intact.error < 0.05
    assert found.intact.covered > 0.8
    assert found.damaged.values == 5 * 4 * len(BANDS.names)
    assert "9 scans of 9 people" in next(calibrated_as_lines(found))
    assert found.without == ("CSF",)  # as brain extraction decides how much of it there is


@pytest.mark.usefixtures("measured")
def test_structures_that_only_one_person_has_are_not_foretold(study, looks, monkeypatch):
    model, cases = study
    own = dict(zip(("sub-0", "sub-1", "sub-2"), BANDS.names, strict=True))

    def alone(_, task):
        found = looks[task.case.id, task.damage]
        name = own[task.case.id]
        return replace(found, known=replace(found.known, dice={name: found.known.dice[name]}))

    monkeypatch.setattr("fewlabel.calibrate.look", alone)
    found = calibrate(model, cases[:3], "study", ONE)

    assert found.intact.values == 0
    assert any("no structure that was drawn in scans of others" in line
               for line in calibrated_as_lines(found))  # fmt: skip


def test_the_norms_say_what_scans_they_come_from(found):
    assert found.norms.scans == "9 scans of study"
    assert found.norms.people == PEOPLE
    assert found.norms.ages_years == pytest.approx((30, 38), abs=0.1)
    assert found.norms.spacing_mm == pytest.approx(3 * (0.94 + 0.015 * 8))


def test_every_scan_is_looked_at_and_every_second_one_damaged_too(study):
    _, cases = study
    tasks = tasks_for(cases[:3])

    assert [task.case.id for task in tasks if task.intact] == ["sub-0", "sub-1", "sub-2"]
    assert [task.damage for task in tasks if task.case.id == "sub-1"] == [INTACT]
    assert [task.damage for task in tasks if task.case.id == "sub-2"] == list(MILD)


@pytest.mark.usefixtures("measured")
def test_nobody_is_foretold_by_scans_of_their_own(study, monkeypatch):
    model, cases = study
    asked = []
    monkeypatch.setattr(
        "fewlabel.calibrate.fit_lines",
        lambda known: (asked.append({one.person for one in known}), fit_lines(known))[1],
    )
    calibrate(model, cases[:PEOPLE], "study", ONE)

    everybody = {f"sub-{n}" for n in range(PEOPLE)}
    assert [everybody - people for people in asked] == [{f"sub-{n}"} for n in range(PEOPLE)]


def test_the_model_that_is_written_tells_what_dice_to_expect(study, found, tmp_path):
    model, _ = study
    written = write_calibrated(model, found.norms, tmp_path / "Mine")

    assert read_model(tmp_path / "Mine").card.name == "mine"
    assert model.quality is None  # the one before is as it was
    assert Segmenter(model, ONE)(head(4)).expected_dice is None
    result = Segmenter(written, ONE)(head(4))
    quality = result.record["quality"]
    assert quality["calibrated_on"] == "9 scans of study"
    least = min(quality["expected_dice"], key=lambda name: quality["expected_dice"][name]["dice"])
    assert re.fullmatch(rf"expected Dice 0\.\d\d, least 0\.\d\d \({least}\)", result.expected_dice)
    assert quality["expected_dice"]["Ball"]["dice"] == pytest.approx(
        np.mean([found.norms.structures["Ball"].dice.mean]), abs=0.05
    )


@pytest.mark.usefixtures("measured")
def test_three_people_are_enough_to_foretell_dice_but_not_to_say_what_is_usual(study, tmp_path):
    model, cases = study
    found = calibrate(model, cases[:3], "study", ONE)

    assert "Too few scans to say what is usual (8" in list(calibrated_as_lines(found))[-1]
    written = write_calibrated(model, found.norms, tmp_path / "mine")
    whole = head(0)
    small = Scan(
        whole.data, Grid(whole.grid.shape, np.diag([0.5, 0.5, 0.5, 1]) @ whole.grid.affine)
    )
    quality = Segmenter(written, ONE)(small).record["quality"]
    assert "Ball" in quality["expected_dice"]
    assert not {finding["rule"] for finding in quality["findings"]} & {"volume", "size"}


def test_too_few_people_are_refused_before_any_scan_is_looked_at(study, monkeypatch):
    model, cases = study
    monkeypatch.setattr("fewlabel.calibrate.Segmenter", None)

    same = [replace(case, person="sub-x") for case in cases[:5]]
    with pytest.raises(CohortError, match="The 6 labeled scans to calibrate on are of 2 people"):
        calibrate(model, [*same, cases[5]], "study", ONE)


@pytest.mark.parametrize("where", ["nowhere", "far away"])
def test_labels_that_hold_nothing_are_named(study, tmp_path, where):
    model, (case, *_) = study
    grid, file = head(0).grid, tmp_path / "wrong.nii.gz"
    shift = np.eye(4)
    shift[0, 3] = 0 if where == "nowhere" else 5000
    drawn = np.full(grid.shape, where == "far away", np.int16)
    write_labels(LabelMap(drawn, Grid(grid.shape, shift @ grid.affine), BANDS), file)

    with pytest.raises(CohortError, match="labels of sub-0 hold no structure where its scan is"):
        look(Segmenter(model, ONE), Task(replace(case, labels=file), INTACT))


def test_structures_that_nobody_looked_for_have_no_dice(study):
    model, (case, *_) = study
    some = replace(case, looked_for=("Ball",))

    assert list(look(Segmenter(model, ONE), Task(some, INTACT)).known.dice) == ["Ball"]


@pytest.mark.usefixtures("measured")
def test_the_command_leaves_out_what_the_model_learned_from(study, tmp_path, capsys):
    model, cases = study
    write_cohort(Cohort(tuple(cases)), tmp_path / "labeled.tsv")

    assert command("calibrate", tmp_path / "labeled.tsv", "--model", model.folder, "--out",
                   tmp_path / "mine", "--threads", 1) == 0  # fmt: skip
    said = capsys.readouterr()
    assert "9 scans of 9 people" in said.out
    assert "sub-8, clean" in said.err
    assert "sub-9" not in said.err
    kept = json.loads((tmp_path / "mine" / "quality.json").read_text())
    assert kept["scans"] == "9 scans of labeled"


@pytest.mark.parametrize("name", MILD)
def test_damage_keeps_voxels_in_place_and_the_scan_as_it_was(name):
    scan = facing_up(head(1))
    before = scan.data.copy()
    after = MILD[name](scan, np.random.default_rng(0))

    assert after.grid == scan.grid
    assert after.data.dtype == np.float32
    assert np.isfinite(after.data).all()
    assert np.array_equal(scan.data, before)
    assert (name == INTACT) == np.array_equal(after.data, before)


@pytest.mark.parametrize("shape", [(3, 2, 3), (40, 5, 40), (16, 16, 1)])
@pytest.mark.parametrize("name", MILD)
def test_small_and_dark_scans_can_be_damaged(name, shape):
    for data in (np.zeros(shape, np.float32), np.ones(shape, np.float32)):
        scan = Scan(data, Grid(shape, np.eye(4)))
        assert np.isfinite(MILD[name](scan, np.random.default_rng(0)).data).all()


def test_scans_that_the_model_may_have_learned_from_are_told(study, tmp_path, capsys):
    model, cases = study
    bare = tuple(replace(case, split="") for case in cases[:2])
    write_cohort(Cohort(bare), tmp_path / "labeled.tsv")

    with pytest.raises(CohortError, match="2 labeled scans to calibrate on are of 2 people"):
        command("calibrate", tmp_path / "labeled.tsv", "--model", model.folder, "--out",
                tmp_path / "mine")  # fmt: skip
    assert "has no splits. If bands learned from any of these scans" in capsys.readouterr().err


def test_relatives_are_one_person_to_calibrate_on(study):
    model, cases = study
    twins = [replace(case, family="twins") for case in cases[:2]]

    with pytest.raises(CohortError, match="are of 2 people"):
        calibrate(model, [*twins, cases[2]], "scans", ONE)
