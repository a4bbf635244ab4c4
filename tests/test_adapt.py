"""Offsets and slopes that make a model draw as somebody else does."""

import json

import numpy as np
import pytest

from fewlabel.adapt import adapt, write_adapted
from fewlabel.cohort import Case, Cohort, write_cohort
from fewlabel.engine import Compute
from fewlabel.errors import CohortError, ConfigError, OutputError
from fewlabel.io import write_labels
from fewlabel.model import read_model
from fewlabel.segmenter import Segmenter
from fewlabel.show import adapted_as_lines
from fewlabel.style_fit import fit
from fewlabel.volume import Scan
from fewlabel.warp_io import write_scan
from tests.band_model import band_model, box_grid
from tests.commands import command

ONE = Compute(threads=1, precision="exact")  # its logits are coarse in 16 bits, where there are any
DRAWN = {"Right-Lump": 1.2, "Ball": -0.6}
HIGHER = {"Right-Lump": (0.0, 0.0, 0.6)}
BANDS_TSV = "index\tname\n7\tBall\n46\tRight-Lump\n24\tCSF\n"


def ramp(seed):
    """A ball that is brightest in its middle: all intensities in between occur."""
    grid = box_grid()
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1)
    place = index @ grid.affine[:3, :3].T + grid.affine[:3, 3] - (0, 10, 20)
    bright = np.clip(1000 * (1 - np.linalg.norm(place, axis=-1) / (40 + 2 * seed)), 0, None)
    rng = np.random.default_rng(seed)
    return Scan((bright + rng.uniform(0, 20, grid.shape)).astype(np.float32), grid)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A model, and three people drawn by somebody who sees more lump than it, and higher."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "bands.tsv").write_text(BANDS_TSV)
    model = band_model(folder / "plain")
    drawer = Segmenter(band_model(folder / "other", offsets=DRAWN, slopes=HIGHER), ONE)
    cases = []
    for n in range(3):
        scan, place = ramp(n), folder / f"sub-{n}_T1w.nii.gz"
        write_scan(scan, place)
        drawn = folder / f"sub-{n}_dseg.nii.gz"
        write_labels(drawer(scan).labels, drawn)
        cases.append(Case(f"sub-{n}", f"sub-{n}", f"sub-{n}", {"T1w": place}, drawn,
                          str(folder / "bands.tsv"), split="train"))  # fmt: skip
    return model, cases


def test_a_model_learns_to_draw_as_somebody_else_does(study):
    model, cases = study
    found = adapt(model, cases, ONE)

    assert np.mean(list(found.before.values())) < 0.96
    assert np.mean(list(found.after.values())) > 0.98
    assert found.offsets["Right-Lump"] - found.offsets["Ball"] == pytest.approx(1.8, abs=0.5)
    assert found.slopes["Right-Lump"][2] > 0.2


def test_each_person_is_scored_with_offsets_that_others_have_chosen(study, monkeypatch):
    model, cases = study
    asked = []
    monkeypatch.setattr(
        "fewlabel.adapt.fit",
        lambda found, pairs: (asked.append([one.person for one in found]), fit(found, pairs))[1],
    )
    adapt(model, cases, ONE)

    assert asked == [
        ["sub-0", "sub-1", "sub-2"], ["sub-1", "sub-2"], ["sub-0", "sub-2"], ["sub-0", "sub-1"],
    ]  # fmt: skip


def test_one_person_does_not_tell_what_offsets_are_worth_for_others(study):
    model, cases = study
    found = adapt(model, cases[:1], ONE)

    assert found.gain is None
    assert "cannot be told" in next(adapted_as_lines(found))


def test_what_nobody_has_drawn_keeps_its_readiness(study, tmp_path):
    model, cases = study
    (tmp_path / "two.tsv").write_text("index\tname\n7\tBall\n46\tRight-Lump\n")
    partial = [Case(c.id, c.person, c.family, c.scans, c.labels, c.protocol, ("Ball", "Right-Lump"))
               for c in cases]  # fmt: skip

    assert "CSF" not in adapt(model, partial, ONE).offsets


def test_a_model_that_draws_alike_already_is_left_as_it_is(study, tmp_path, capsys):
    model, cases = study
    alike = []
    for case in cases[:2]:
        drawn = tmp_path / f"{case.id}_dseg.nii.gz"
        write_labels(Segmenter(model, ONE)(ramp(int(case.id[-1]))).labels, drawn)
        alike.append(Case(case.id, case.person, case.family, case.scans, drawn, case.protocol))
    write_cohort(Cohort(tuple(alike)), tmp_path / "cohort.tsv")

    code = command("adapt", tmp_path / "cohort.tsv", "--model", model.folder, "--out",
                   tmp_path / "mine", "--threads", 1)  # fmt: skip
    assert code == 1
    assert "no reason to change bands" in capsys.readouterr().out
    assert not (tmp_path / "mine").exists()


def test_the_command_writes_a_model_folder_that_segments_so(study, tmp_path, capsys):
    model, cases = study
    write_cohort(Cohort(tuple(cases)), tmp_path / "cohort.tsv")
    out = tmp_path / "mine"

    assert command("adapt", tmp_path / "cohort.tsv", "--model", model.folder, "--out", out,
                   "--threads", 1) == 0  # fmt: skip
    said = capsys.readouterr().out
    assert "by 3 people left out in turn" in said
    mine = read_model(out)
    assert mine.card.name == "mine"
    assert mine.card.provenance["offsets and slopes chosen on"] == "bands 1.0, scans of 3 people"
    lump = mine.card.protocol.class_of("Right-Lump")
    before, after = (Segmenter(m, ONE)(ramp(0)).labels.data == lump for m in (model, mine))
    assert after.sum() > 1.05 * before.sum()
    told = json.loads((out / "model.json").read_text())
    assert told["slopes"]["Right-Lump"][2] > 0.2


def test_offsets_add_up_when_a_model_is_adapted_again(study, tmp_path):
    model, cases = study
    first = adapt(model, cases, ONE)
    once = write_adapted(model, first, tmp_path / "once")
    again = adapt(once, cases, ONE)

    for name, value in first.offsets.items():
        assert again.offsets[name] == pytest.approx(value, abs=0.5)


def test_labels_without_any_structure_are_refused(study, tmp_path):
    model, (case, *_) = study
    empty = Segmenter(model, ONE)(ramp(0)).labels
    empty.data[:] = 0
    write_labels(empty, tmp_path / "sub-0_dseg.nii.gz")
    drawn = tmp_path / "sub-0_dseg.nii.gz"

    with pytest.raises(CohortError, match=r"labels of sub-0 hold no structure where bands looks"):
        adapt(model, [Case("sub-0", "a", "a", case.scans, drawn, case.protocol)], ONE)


def test_cases_of_test_choose_nothing(study, tmp_path, capsys):
    _, cases = study
    kept = [Case(c.id, c.person, c.family, c.scans, c.labels, c.protocol, split="test")
            for c in cases]  # fmt: skip
    write_cohort(Cohort(tuple(kept)), tmp_path / "cohort.tsv")

    with pytest.raises(CohortError, match=r"None of the cases has labels"):
        command("adapt", tmp_path / "cohort.tsv", "--out", tmp_path / "mine")
    assert not capsys.readouterr().out


@pytest.mark.parametrize(("what", "value"), [("offsets", 1.0), ("slopes", [0.0, 0.0, 1.0])])
def test_a_structure_that_a_model_does_not_draw_is_refused(study, tmp_path, what, value):
    model, _ = study
    card = json.loads((model.folder / "model.json").read_text())
    card[what] = {"Vermis": value}
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(model.onnx.read_bytes())
    (folder / "model.json").write_text(json.dumps(card))

    with pytest.raises(Exception, match=rf"`{what}` names Vermis, which the model does not draw"):
        read_model(folder)


def test_a_place_that_holds_something_else_is_refused_before_anything_is_read(tmp_path):
    (tmp_path / "mine").mkdir()

    with pytest.raises(OutputError, match=r"mine exists and is no model folder"):
        command("adapt", tmp_path / "nowhere.tsv", "--out", tmp_path / "mine")


def test_a_split_that_there_is_not_is_refused_with_those_there_are(study, tmp_path):
    _, cases = study
    write_cohort(Cohort(tuple(cases)), tmp_path / "cohort.tsv")

    with pytest.raises(ConfigError, match=r"no cases in the split 'tain'; its splits are train"):
        command("adapt", tmp_path / "cohort.tsv", "--split", "tain", "--out", tmp_path / "mine")
