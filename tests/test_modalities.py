"""Models that look at several images of a head: which is which, and what if one is missing."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from fewlabel.cli_cohort import What
from fewlabel.conform import GridRule
from fewlabel.engine import Compute
from fewlabel.errors import ConfigError, FewlabelError, ModelFolderError, OutputError, ScanError
from fewlabel.grid import Grid
from fewlabel.modalities import heads_of, modality_of
from fewlabel.model import read_model
from fewlabel.predict import segment
from fewlabel.segmenter import Segmenter
from fewlabel.volume import Scan
from tests.band_model import BANDS, band_model, box_grid, head_at
from tests.commands import command
from tests.two_channels import two_channel_model, two_channel_onnx

EXACT = Compute(threads=1, precision="exact")
LUMP = BANDS.class_of("Right-Lump")


@pytest.fixture(scope="module")
def head():
    return head_at(box_grid((3.0, 3.0, 3.0), 192.0))


@pytest.fixture(scope="module")
def dull(head):
    """The same head in an image that does not tell the lump from the ball, but for its core."""
    return Scan(np.where(head.data < 900, np.minimum(head.data, 350), head.data), head.grid)


@pytest.fixture(scope="module")
def either(tmp_path_factory):
    """A model that does with T1w, T2w or both."""
    return two_channel_model(tmp_path_factory.mktemp("models") / "either")


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A model that needs both."""
    folder = tmp_path_factory.mktemp("models") / "both"
    return two_channel_model(folder, any_modality=False)


def saved(scan, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(scan.data.astype(np.int16), scan.grid.affine), path)
    return path


def tried(*words):
    """Exit code of the command, or what it refused."""
    try:
        return command(*words)
    except FewlabelError as refusal:
        return refusal


@pytest.mark.parametrize(
    ("name", "modality"),
    [
        ("sub-01_T1w.nii.gz", "T1w"),
        ("sub-01_acq-x_run-2_T2w.nii", "T2w"),
        ("brain_t2W.mgz", "T2w"),
        ("T1w.nii.gz", "T1w"),
        ("sub-01_T1w", "T1w"),  # a DICOM folder
        ("sub-01_T1w_brain.nii.gz", None),
        ("sub-01_FLAIR.nii.gz", None),
    ],
)
def test_the_end_of_a_name_tells_the_modality(name, modality):
    assert modality_of(Path(name), ("T1w", "T2w")) == modality


@pytest.mark.parametrize("modality", ["T1w", "T2w"])
def test_either_image_alone_gives_what_it_shows(either, head, dull, modality):
    shown = segment(head, modality=modality, model=either, threads=1)
    hidden = segment(dull, modality=modality, model=either, threads=1)

    assert (shown.labels.data == LUMP).sum() > 1000
    assert (hidden.labels.data == LUMP).sum() < 0.2 * (shown.labels.data == LUMP).sum()


def test_what_only_the_other_image_shows_is_found_on_the_grid_of_the_scan(either, dull):
    fine = head_at(box_grid((2.0, 2.0, 2.0), 192.0))

    found = segment(dull, others={"T1w": fine}, modality="T2w", model=either, threads=1)

    alone = segment(head_at(dull.grid), modality="T1w", model=either, threads=1)
    assert found.labels.grid.matches(dull.grid)
    a, b = found.labels.data == LUMP, alone.labels.data == LUMP
    assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.95


def test_a_missing_image_is_a_channel_of_zeros(either, head):
    seen = []
    segmenter = Segmenter(either, EXACT)
    engine = segmenter._engine.result()
    run = engine.run

    def watched(image):
        seen.append(image.copy())
        return run(image)

    object.__setattr__(engine, "run", watched)
    segmenter({"T2w": head})

    assert not seen[0][0].any()
    assert seen[0][1].min() == 0
    assert seen[0][1].max() == 1


def test_each_image_is_scaled_by_itself(either, head):
    darker = Scan(head.data * 0.01 + 5, head.grid)
    one = segment(head, modality="T1w", model=either, threads=1, precision="exact")

    found = Segmenter(either, EXACT)({"T1w": head, "T2w": darker})

    assert (found.labels.data != one.labels.data).mean() < 1e-3


def test_files_are_told_apart_by_their_names_and_the_record_lists_them(
    either, head, dull, tmp_path
):
    scan = saved(dull, tmp_path / "data" / "sub-01_T2w.nii.gz")
    other = saved(head, tmp_path / "data" / "sub-01_T1w.nii.gz")
    words = ("segment", scan, "--with", other, "--model", either.folder, "--out", tmp_path / "out")

    assert tried(*words, "--threads", 1) == 0

    record = json.loads((tmp_path / "out" / "sub-01_dseg.json").read_text())
    assert record["scan"] == "sub-01_T2w.nii.gz"
    assert record["images"] == {
        "T2w": "../data/sub-01_T2w.nii.gz",
        "T1w": "../data/sub-01_T1w.nii.gz",
    }
    labels = np.asarray(nibabel.load(tmp_path / "out" / "sub-01_dseg.nii.gz").dataobj)
    assert (labels == 46).sum() > 1000


def test_a_result_of_one_image_is_not_taken_for_that_of_two(either, head, tmp_path):
    scan = saved(head, tmp_path / "sub-01_T2w.nii.gz")
    other = saved(head, tmp_path / "sub-01_T1w.nii.gz")
    segment(scan, model=either, out=tmp_path, threads=1)

    with pytest.raises(OutputError, match=r"is the result of sub-01_T2w\.nii\.gz; it was left"):
        segment(scan, others={"T1w": other}, model=either, out=tmp_path)

    segment(scan, others={"T1w": other}, model=either, out=tmp_path, overwrite=True, threads=1)
    with pytest.raises(OutputError, match=r"the result of sub-01_T1w\.nii\.gz and sub-01_T2w"):
        segment(scan, model=either, out=tmp_path)
    with pytest.raises(OutputError, match="was segmented before"):
        segment(scan, others={"T1w": other}, model=either, out=tmp_path)


def test_a_model_that_needs_both_says_what_is_lacking_and_how_to_give_it(both, head, tmp_path):
    scan = saved(head, tmp_path / "sub-01_T2w.nii.gz")

    refusal = tried("segment", scan, "--model", both.folder)

    assert isinstance(refusal, ConfigError)
    assert "looks at T1w and T2w together; T1w of the same head is lacking" in refusal.what
    assert "add `--with T1w=PATH` (in Python others={'T1w': PATH})" in refusal.fix
    assert sorted(path.name for path in tmp_path.iterdir()) == [scan.name]


@pytest.mark.parametrize(
    ("words", "said", "fix"),
    [
        (["brain.nii.gz"], "does not say by its name which modality", "--modality T1w or --mod"),
        (["brain.nii.gz", "--modality", "FLAIR"], "and not at FLAIR", "give T1w or T2w"),
        (["a_T1w.nii", "--with", "PD=b.nii"], "and not at PD", "give T1w or T2w"),
        (["a_T1w.nii", "--with", "b.nii"], "b.nii does not say by its name", "--with T1w=b.nii"),
        (["a_T1w.nii", "--with", "b_T1w.nii"], "two T1w images: a_T1w.nii and b_T1w", "once"),
        (["a_T1w.nii", "--with", "b_T2w.nii", "--with", "T2w=c.nii"], "two T2w images", "once"),
        (["a_T1w.nii", "b_T1w.nii", "--with", "c_T2w.nii"], "belongs to one scan", "one at a time"),
    ],
    ids=str,
)
def test_images_that_nobody_can_place_are_refused(either, words, said, fix):
    refusal = tried("segment", *words, "--model", either.folder)

    assert isinstance(refusal, ConfigError)
    assert said in refusal.what
    assert fix in refusal.fix


def test_paths_with_an_equals_sign_are_paths_if_they_are_there(either, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run=2_T2w.nii").touch()

    (images,) = heads_of([Path("a_T1w.nii")], either.card.looks_at, None, ["run=2_T2w.nii"])

    assert images.others == {"T2w": Path("run=2_T2w.nii")}


def test_a_model_of_one_modality_takes_any_scan_and_refuses_another_beside_it(head, tmp_path):
    model = band_model(tmp_path / "bands")
    scan = saved(head, tmp_path / "sub-01_FLAIR.nii.gz")

    found = segment(scan, modality="T2w", model=model, threads=1)

    assert "images" not in found.record
    with pytest.raises(ConfigError, match="looks at one scan alone; T1w would not be used"):
        segment(scan, others={"T1w": scan}, model=model)


def test_an_image_of_another_place_is_refused_with_both_places(either, head):
    far = head.grid.affine.copy()
    far[0, 3] += 500
    elsewhere = Scan(head.data, Grid(head.grid.shape, far))

    with pytest.raises(ScanError) as refusal:
        segment(head, others={"T1w": elsewhere}, modality="T2w", model=either)

    assert "The T1w image shows nothing of what the T2w image shows" in refusal.value.what
    assert "from (406, " in refusal.value.what
    assert "from (-94, " in refusal.value.what


def test_oddities_of_several_files_are_told_with_their_modality(either, head):
    odd = Scan(head.data, head.grid, ("Its header is odd.",))

    found = Segmenter(either, EXACT)({"T1w": head, "T2w": odd})

    assert found.warnings == ("T2w: Its header is odd.",)


def test_windows_say_the_same_as_the_whole_field(either, head, dull, tmp_path):
    rule = GridRule(spacing_mm=3.0, window=(48, 80, 32))
    windowed = Segmenter(two_channel_model(tmp_path / "m", grid=rule), EXACT)
    scans = {"T2w": dull, "T1w": head}

    found, whole = windowed(scans), Segmenter(either, EXACT)(scans)

    assert (found.labels.data == whole.labels.data).mean() > 0.999


def test_a_network_of_other_channels_than_its_card_names_is_refused(head, tmp_path):
    model = two_channel_model(tmp_path / "m", modalities=("T1w",), any_modality=False)

    with pytest.raises(ModelFolderError, match="looks at 2 channels; its card names 1"):
        Segmenter(model, EXACT)(head)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"modalities": ["T1w", "T1w"]}, "names one twice"),
        ({"modalities": ["T1 w"]}, "modalities"),
        ({"modalities": []}, "modalities"),
        ({"intensity": "z_score"}, "`any_modality` needs a field and `robust_scale`"),
        ({"age": {"low_weeks": 44, "high_weeks": 28}}, "from 44 to 28 weeks is no range"),
    ],
    ids=str,
)
def test_cards_that_make_no_sense_are_refused(either, tmp_path, changes, said):
    card = json.loads((either.folder / "model.json").read_text()) | changes
    (tmp_path / "model.json").write_text(json.dumps(card))
    (tmp_path / "model.onnx").write_bytes(two_channel_onnx())

    with pytest.raises(ModelFolderError) as refusal:
        read_model(tmp_path)

    assert said in refusal.value.what


def test_a_cohort_takes_all_modalities_of_the_model_unless_one_is_asked_for(either, tmp_path):
    alone = band_model(tmp_path / "bands")

    assert What().choice(either).modalities == ("T1w", "T2w")
    assert What(modality="T2w").choice(either).modalities == ("T2w",)
    assert What().choice(alone).modalities == ("T1w",)
    assert What(modality="FLAIR").choice(alone).modalities == ("FLAIR",)


def test_people_are_told_what_goes_in(either, both):
    assert "it looks at T1w and T2w together, some of them may be missing" in either.as_text()
    assert "it looks at T1w and T2w together, all are needed" in both.as_text()


def test_a_scan_in_memory_is_mended_as_files_are_and_stays_as_it_is(either, head):
    data = head.data.copy()
    data[:2, 0, 0] = np.nan, np.inf
    before = data.copy()

    found = segment(Scan(data, head.grid), modality="T1w", model=either, threads=1)

    whole = segment(head, modality="T1w", model=either, threads=1)
    assert found.warnings[0].startswith("2 voxels are NaN or infinite; they got the smallest")
    assert (found.labels.data == whole.labels.data).mean() > 0.999
    assert np.array_equal(data, before, equal_nan=True)
    data[:] = 0
    with pytest.raises(ScanError, match="The scan in memory is constant"):
        segment(Scan(data, head.grid), modality="T1w", model=either)
    with pytest.raises(ScanError, match="The scan in memory is constant"):
        segment(head, others={"T2w": Scan(data, head.grid)}, modality="T1w", model=either)
