"""Which model is chosen for a scan, and what is said about it."""

import json

import nibabel
import numpy as np
import pytest

from fewlabel.engine import Compute
from fewlabel.errors import ConfigError, ModelFolderError
from fewlabel.grid import Grid
from fewlabel.modalities import heads_of
from fewlabel.people import UNKNOWN, Age
from fewlabel.predict import segment, segment_files
from fewlabel.suited import choose_model, known_modalities
from fewlabel.volume import Scan
from tests.band_model import band_model
from tests.commands import command
from tests.two_channels import two_channel_model

ADULT, NEWBORN = "adult-aseg32", "neonate-drawem9"
ADULT_MM, NEWBORN_MM = (140.0, 175.0, 130.0), (80.0, 105.0, 75.0)


@pytest.fixture(autouse=True)
def shipped(tmp_path_factory, monkeypatch):
    """Two small models under the names of those that ship."""
    place = tmp_path_factory.mktemp("models")
    found = {
        ADULT: band_model(place / ADULT, name=ADULT),
        NEWBORN: two_channel_model(place / NEWBORN, name=NEWBORN),
    }
    monkeypatch.setattr("fewlabel.suited.find_model", lambda name=ADULT: found[name])
    return found


def head(extent_mm, seen=(slice(None),) * 3, spacing_mm=4.0):
    """A bright ellipsoid, wholly or in part within the scan."""
    sides = (np.array(extent_mm) / spacing_mm / 2 + 4).astype(int)
    axes = np.ogrid[tuple(slice(-n, n + 1) for n in sides)]
    far = sum((a * spacing_mm / (mm / 2)) ** 2 for a, mm in zip(axes, extent_mm, strict=True))
    image = np.where(far <= 1, 900 - 200.3 * far, 0).astype(np.float32)
    return Scan(image[seen], Grid(image[seen].shape, np.diag([spacing_mm] * 3 + [1.0])))


def saved(scan, path):
    nibabel.save(nibabel.Nifti1Image(scan.data, scan.grid.affine), path)
    return path


@pytest.mark.parametrize(("extent_mm", "name"), [(ADULT_MM, ADULT), (NEWBORN_MM, NEWBORN)])
def test_the_size_of_the_head_decides_and_is_told(extent_mm, name):
    found = choose_model(head(extent_mm), UNKNOWN)

    assert (found.model.card.name, found.doubt) == (name, None)
    assert f"{'adults' if name == ADULT else 'newborns'}: the head or brain is" in found.why


@pytest.mark.parametrize("axis", [0, 1, 2], ids=["right half", "front half", "upper half"])
def test_half_of_an_adults_head_is_not_a_newborns(axis):
    whole = head(ADULT_MM)
    half = [slice(None)] * 3
    half[axis] = slice(whole.data.shape[axis] // 2, None)

    found = choose_model(head(ADULT_MM, tuple(half)), UNKNOWN)

    assert found.model.card.name == ADULT
    assert (found.doubt is None) == (axis == 2)


def test_what_looks_like_neither_is_told():
    found = choose_model(head((40.0, 50.0, 40.0)), UNKNOWN)

    assert found.model.card.name == ADULT
    assert "neither of adults nor newborns" in found.doubt


@pytest.mark.parametrize(
    ("age", "name", "why"),
    [
        (Age(0.75, 39.0), NEWBORN, "39 weeks old"),
        (Age(0.05), NEWBORN, "0.05 years old"),
        (Age(54.0, 2818.0), ADULT, "54 years old"),
    ],
)
def test_a_known_age_counts_more_than_size(age, name, why):
    other = ADULT_MM if name == NEWBORN else NEWBORN_MM

    found = choose_model(head(other), age)

    assert found.model.card.name == name
    assert why in found.why
    assert f"as in {'adults' if name == NEWBORN else 'newborns'}. The model for" in found.doubt


@pytest.mark.parametrize("age", [Age(0.75, 39.0), Age(0.0)])
def test_a_known_age_that_the_size_does_not_speak_against_leaves_no_doubt(age):
    for extent_mm in (NEWBORN_MM, (40.0, 50.0, 40.0)):
        found = choose_model(head(extent_mm), age)

        assert (found.model.card.name, found.doubt) == (NEWBORN, None)


def test_a_child_is_between_all_models_and_it_is_told():
    found = choose_model(head(ADULT_MM), Age(6.0, 313.0))

    assert found.model.card.name == ADULT
    assert found.doubt.startswith("The person is 6 years old")


def test_a_second_image_is_refused_where_the_model_that_suits_would_not_look_at_it():
    assert choose_model(head(NEWBORN_MM), UNKNOWN, ["T2w"]).model.card.name == NEWBORN
    with pytest.raises(ConfigError, match=r"adult-aseg32, for adults: .* not look at T2w"):
        choose_model(head(ADULT_MM), UNKNOWN, ["T2w"])


def test_files_get_their_models_and_records_say_so(tmp_path):
    scans = [
        saved(head(ADULT_MM), tmp_path / "sub-1_T1w.nii.gz"),
        saved(head(NEWBORN_MM), tmp_path / "sub-2_T2w.nii.gz"),
        saved(head((40.0, 50.0, 40.0)), tmp_path / "sub-3_T1w.nii.gz"),
    ]

    found = list(segment_files(scans, None, compute=Compute(threads=1)))

    records = [json.loads(one.paths.record.read_text()) for one in found]
    assert [record["model"]["name"] for record in records] == [ADULT, NEWBORN, ADULT]
    assert all("the head or brain is" in record["model"]["why"] for record in records)
    assert "neither of adults nor newborns" in " ".join(records[2]["warnings"])
    assert all(set(record["seconds"]) >= {"read", "choose"} for record in records)
    assert f"  {NEWBORN}, for newborns: the head or brain is" in found[1].as_text()


def test_in_memory_too_but_then_a_modality_must_be_said():
    newborn = head(NEWBORN_MM)

    assert segment(newborn, modality="T1w", threads=1).record["model"]["name"] == NEWBORN
    with pytest.raises(ConfigError, match="which modality"):
        segment(newborn, threads=1)


def test_a_model_that_is_named_is_used_without_a_word(shipped, tmp_path):
    scan = saved(head(NEWBORN_MM), tmp_path / "sub-2_T2w.nii.gz")

    found = segment(scan, model=shipped[ADULT].folder, threads=1)

    assert found.record["model"]["name"] == ADULT
    assert "why" not in found.record["model"]


def test_the_command_chooses_and_names_the_modalities_it_knows(tmp_path, capsys):
    scan = saved(head(NEWBORN_MM), tmp_path / "sub-2_T2w.nii.gz")
    other = saved(head(NEWBORN_MM), tmp_path / "sub-2_T1w.nii.gz")

    assert command("segment", scan, "--with", other, "--out", tmp_path / "out") == 0
    assert f"{NEWBORN}, for newborns" in capsys.readouterr().out
    with pytest.raises(ConfigError):
        heads_of([scan], ("T1w", "T2w"), None, [str(tmp_path / "sub-2_FLAIR.nii.gz")])


def test_a_damaged_model_is_not_chosen_in_silence(monkeypatch, tmp_path):
    def damaged(name=ADULT):
        raise ModelFolderError(f"{name} is damaged.", fix="copy it again.")

    monkeypatch.setattr("fewlabel.suited.find_model", damaged)
    scan = saved(head(ADULT_MM), tmp_path / "sub-1_T1w.nii.gz")

    with pytest.raises(ModelFolderError):
        list(segment_files([scan], None))


def test_an_unreadable_model_of_ones_own_does_not_stop_the_choice(
    shipped, monkeypatch, tmp_path, capsys
):
    (tmp_path / "models" / "old").mkdir(parents=True)
    (tmp_path / "models" / "old" / "model.json").write_text('{"format": 0}')
    monkeypatch.setenv("FEWLABEL_MODELS", str(tmp_path / "models"))
    scan = saved(head(NEWBORN_MM), tmp_path / "sub-2_T2w.nii.gz")

    assert command("segment", scan, "--out", tmp_path / "out", "--threads", 1) == 0
    assert known_modalities(None) == shipped[NEWBORN].card.looks_at
    assert command("models") == 0
    told = capsys.readouterr()
    assert "adult-aseg32 " in told.out
    assert "left out: " in told.err
    assert "its format is 0" in told.err
