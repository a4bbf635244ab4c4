"""From a scan to its structures, in memory and as files."""

import itertools
import json

import nibabel
import numpy as np
import pytest
from PIL import Image

import fewlabel
import fewlabel.results
from fewlabel.conform import GridRule
from fewlabel.engine import Compute, Engine
from fewlabel.engines import tight
from fewlabel.errors import ModelFolderError, OutputError, ScanError
from fewlabel.grid import Grid
from fewlabel.predict import segment, segment_files
from fewlabel.results import ResultPaths
from fewlabel.segmenter import Segmenter
from fewlabel.volume import Scan
from tests.band_model import BANDS, band_card, band_model, box_grid, head_at, turned_scan

ENDINGS = ["dseg.json", "dseg.nii.gz", "dseg.tsv", "qc.png", "volumes.tsv"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return band_model(tmp_path_factory.mktemp("models") / "bands")


@pytest.fixture(scope="module")
def segmenter(model):
    return Segmenter(model, Compute(threads=1))


@pytest.fixture(scope="module")
def head():
    return head_at(box_grid((3.0, 3.0, 3.0), 192.0))


def saved(scan, path):
    image = nibabel.Nifti1Image(scan.data.astype(np.int16), scan.grid.affine)
    nibabel.save(image, path)
    return path


def tilted(grid, degrees):
    """The grid turned round the axis (1, 1, 1) through its middle."""
    axis, angle = np.ones(3) / np.sqrt(3), np.radians(degrees)
    cross = np.cross(np.eye(3), axis)
    turn = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    middle = grid.corners_mm().mean(axis=0)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn, middle - turn @ middle
    return Grid(grid.shape, affine @ grid.affine)


def test_all_48_orientations_give_equal_labels_voxel_for_voxel(segmenter):
    scan = head_at(box_grid((2.0, 3.0, 4.5), 192.0))
    expected = segmenter(scan).labels

    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            found = segmenter(turned_scan(scan, order, signs)).labels
            flips = tuple(slice(None, None, sign) for sign in signs)
            assert np.array_equal(found.data, expected.data.transpose(order)[flips])


def test_a_network_that_sees_less_at_once_than_in_training_is_warned_of(tmp_path):
    card = band_model(tmp_path / "bands", grid=GridRule(spacing_mm=3.0)).card
    trained = card.grid.seen
    for window, warned in ((None, False), (trained, False), ((16, *trained[1:]), True)):
        found = tight(Engine(lambda _: None, "a test", window), card)
        assert bool(found) == warned


def test_a_network_of_voxels_says_the_same_in_windows_as_in_the_whole_field(
    segmenter, head, tmp_path
):
    rule = GridRule(spacing_mm=3.0, window=(48, 80, 32))
    windowed = Segmenter(band_model(tmp_path / "bands", grid=rule), Compute(threads=1))

    found, whole = windowed(head).labels.data, segmenter(head).labels.data

    assert (found == whole).mean() > 0.999  # but for ties that rounding decides


@pytest.fixture(scope="module")
def fine_segmenter(tmp_path_factory):
    model = band_model(tmp_path_factory.mktemp("fine") / "bands", spacing_mm=2.0)
    return Segmenter(model, Compute(threads=1))


@pytest.mark.parametrize("degrees", [0.0, 12.0, 40.0])
@pytest.mark.parametrize("spacing", [(1.5, 1.5, 1.5), (1.0, 1.4, 3.0)])
def test_oblique_and_anisotropic_versions_agree(fine_segmenter, spacing, degrees):
    scan = head_at(tilted(box_grid(spacing, 170.0), degrees))
    truth = np.digitize(scan.data, (175, 500, 825))  # half way between 0, 350, 650 and 1000

    found = fine_segmenter(scan).labels

    for number in (1, 2, 3):
        a, b = found.data == number, truth == number
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) >= 0.98, number


def test_left_is_left_also_in_a_file_that_is_stored_mirrored(segmenter, head):
    mirrored = turned_scan(head, (0, 1, 2), (-1, 1, 1))
    assert np.linalg.det(mirrored.grid.affine) < 0 < np.linalg.det(head.grid.affine)

    for scan in (head, mirrored):
        labels = segmenter(scan).labels
        lump = np.argwhere(labels.data == BANDS.class_of("Right-Lump"))
        x = (lump @ scan.grid.affine[:3, :3].T + scan.grid.affine[:3, 3])[:, 0]
        assert x.mean() == pytest.approx(20, abs=1)


def test_volumes_are_those_of_the_labels_and_the_brain_is_without_csf(segmenter, head):
    found = segmenter(head)

    voxels = np.bincount(found.labels.data.ravel(), minlength=4)
    expected = {name: 27.0 * voxels[n] for n, name in enumerate(BANDS.names, start=1)}
    expected["Total-Brain"] = expected["Ball"] + expected["Right-Lump"]
    assert found.volumes_mm3 == pytest.approx(expected)


def test_a_brain_far_from_where_it_is_expected_is_found_by_looking_again(tmp_path):
    wide = band_model(tmp_path / "bands", spacing_mm=4.0)
    scan = head_at(box_grid((4.0, 4.0, 4.0), 320.0))
    noisy_top = scan.data.copy()
    noisy_top[20:60, 20:60, 70:] = 350  # a bright block above the head misleads the first look

    found = Segmenter(wide, Compute(threads=1))(Scan(noisy_top, scan.grid))

    assert found.record["fields_looked_at"] > 1


def test_a_scan_that_ends_inside_the_brain_says_where(segmenter):
    whole = box_grid((3.0, 3.0, 3.0), 192.0)
    i, j, k = whole.shape
    scan = head_at(Grid((i // 2, j, k), whole.affine))

    assert segmenter(scan).warnings == ("The scan ends inside the brain (right).",)


def test_an_empty_scan_says_that_no_brain_was_found(segmenter):
    grid = box_grid((3.0, 3.0, 3.0), 192.0)
    found = segmenter(Scan(np.zeros(grid.shape, np.float32), grid))

    assert found.warnings == ("No brain was found in this scan.",)
    assert found.volumes_mm3["Total-Brain"] == 0


def test_five_files_tell_the_result(tmp_path, model, head):
    scan = saved(head, tmp_path / "sub-01_ses-a_T1w.nii.gz")

    found = segment(scan, model=model, out=tmp_path / "out", threads=1)

    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [f"sub-01_ses-a_{ending}" for ending in ENDINGS]
    image = nibabel.load(found.paths.labels)
    source = nibabel.load(scan)
    assert np.array_equal(image.affine, source.affine)
    assert image.get_data_dtype() == np.uint8
    assert np.array_equal(np.unique(image.dataobj), [0, 7, 24, 46])
    assert np.array_equal(np.asarray(image.dataobj), BANDS.values[found.labels.data])
    assert found.paths.legend.read_text().splitlines()[:2] == [
        "index\tname\tcolor",
        "7\tBall\t#dc3c3c",
    ]
    rows = dict(row.split("\t") for row in found.paths.volumes.read_text().splitlines())
    assert rows["volume_mm3" if "volume_mm3" in rows else "structure"] == "volume_mm3"
    assert float(rows["Total-Brain"]) == pytest.approx(found.volumes_mm3["Total-Brain"])
    record = json.loads(found.paths.record.read_text())
    assert record["scan"] == scan.name
    assert record["model"]["sha256"] == model.card.sha256["model.onnx"]
    settings = {"threads": 1, "device": "cpu", "precision": "fast", "max_memory_gb": None}
    assert record["settings"] == settings
    stages = {"read", "start", "conform", "network", "restore", "quality", "picture"}
    assert set(record["seconds"]) == stages
    with Image.open(found.paths.picture) as drawn:
        assert drawn.format == "PNG"


def test_in_memory_nothing_is_written(tmp_path, model, head):
    scan = saved(head, tmp_path / "head.nii.gz")

    found = segment(scan, model=model, threads=1)

    assert found.paths is None
    assert [path.name for path in tmp_path.iterdir()] == ["head.nii.gz"]
    assert np.array_equal(segment(head, model=model).labels.data.shape, found.labels.data.shape)


def test_a_scan_in_memory_has_no_name_to_write_under(tmp_path, model, head):
    with pytest.raises(OutputError, match="in memory has no file name"):
        segment(head, model=model, out=tmp_path)


def test_an_existing_result_is_kept_unless_overwritten(tmp_path, model, head):
    scan = saved(head, tmp_path / "head.nii.gz")
    first = segment(scan, model=model, out=tmp_path, threads=1)
    before = {path: path.stat().st_mtime_ns for path in first.paths.all()}

    (kept,) = segment_files([scan], model, out=tmp_path)
    with pytest.raises(OutputError, match="was segmented before"):
        segment(scan, model=model, out=tmp_path)
    assert kept.status == "kept"
    assert {path: path.stat().st_mtime_ns for path in first.paths.all()} == before

    segment(scan, model=model, out=tmp_path, threads=1, overwrite=True)
    assert all(path.stat().st_mtime_ns > then for path, then in before.items())


def test_somebody_elses_file_of_that_name_is_not_replaced(tmp_path, model, head):
    scan = saved(head, tmp_path / "sub-01_T1w.nii.gz")
    (tmp_path / "sub-01_dseg.nii.gz").write_bytes(b"by hand")

    with pytest.raises(OutputError, match="is not a whole result of fewlabel; it was left alone"):
        segment(scan, model=model, out=tmp_path)

    assert (tmp_path / "sub-01_dseg.nii.gz").read_bytes() == b"by hand"


def test_another_scan_with_the_same_result_name_is_refused(tmp_path, model, head):
    segment(saved(head, tmp_path / "sub-01_T1w.nii.gz"), model=model, out=tmp_path, threads=1)
    other = saved(head, tmp_path / "sub-01_T2w.nii.gz")

    with pytest.raises(OutputError, match=r"is the result of sub-01_T1w\.nii\.gz"):
        segment(other, model=model, out=tmp_path)


def test_another_scan_of_the_same_name_is_refused_while_the_first_is_there(tmp_path, model, head):
    for name in ("bert", "ernie"):
        (tmp_path / name).mkdir()
    bert, ernie = (saved(head, tmp_path / name / "T1.nii") for name in ("bert", "ernie"))
    (tmp_path / "link").symlink_to(tmp_path / "bert")
    segment(bert, model=model, out=tmp_path / "out", threads=1)

    (kept,) = segment_files([tmp_path / "link" / "T1.nii"], model, out=tmp_path / "out")
    with pytest.raises(OutputError) as refusal:
        segment(ernie, model=model, out=tmp_path / "out")
    bert.unlink()
    (moved,) = segment_files([ernie], model, out=tmp_path / "out")

    assert kept.status == "kept"
    assert f"{bert} and {ernie} would both be segmented to" in refusal.value.what
    assert moved.status == "kept"


def test_what_was_kept_is_told_with_the_model_that_made_it(tmp_path, model, head):
    scan = saved(head, tmp_path / "head.nii.gz")
    found = segment(scan, model=model, out=tmp_path, threads=1)
    other = band_model(tmp_path / "models" / "others", name="others")

    (kept,) = segment_files([scan], other, out=tmp_path)

    labels = found.paths.labels
    assert kept.as_text() == f"head.nii.gz: kept, segmented before by bands 1.0: {labels}"
    record = json.loads(found.paths.record.read_text())
    found.paths.record.write_text(json.dumps(record | {"model": None}))
    assert kept.as_text() == f"head.nii.gz: kept, segmented before: {labels}"


def test_the_record_finds_the_scan_also_where_links_lead_to_the_results(tmp_path, model, head):
    far = tmp_path / "disk" / "far"
    far.mkdir(parents=True)
    (tmp_path / "out").symlink_to(far)
    outside = saved(head, tmp_path / "head.nii.gz")
    inside = saved(head, tmp_path / "out" / "other.nii.gz")
    (tmp_path / "named.nii.gz").symlink_to(outside)
    scans = [outside, inside, tmp_path / "named.nii.gz"]

    found = list(segment_files(scans, model, out=tmp_path / "out", compute=Compute(threads=1)))

    sources = [one.segmentation.record["source"] for one in found]
    assert sources == ["../../head.nii.gz", "other.nii.gz", "../../named.nii.gz"]
    again = list(segment_files(scans, model, out=tmp_path / "out"))
    assert [one.status for one in again] == ["kept"] * 3


def test_two_scans_with_one_result_name_are_refused_before_anything_is_done(tmp_path, model):
    scans = [tmp_path / "sub-01_T1w.nii.gz", tmp_path / "sub-01_T2w.nii"]

    with pytest.raises(OutputError, match="would both be segmented to"):
        list(segment_files(scans, model, out=tmp_path / "out"))

    assert not (tmp_path / "out").exists()


def test_a_failure_while_writing_leaves_nothing_behind(tmp_path, model, head, monkeypatch):
    scan = saved(head, tmp_path / "head.nii.gz")

    def killed(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(fewlabel.results, "_volumes_table", killed)
    with pytest.raises(KeyboardInterrupt):
        segment(scan, model=model, out=tmp_path / "out", threads=1)
    monkeypatch.undo()
    monkeypatch.setattr(fewlabel.results, "write_labels", killed)
    with pytest.raises(KeyboardInterrupt):
        segment(scan, model=model, out=tmp_path / "out", threads=1)

    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_failure_while_replacing_keeps_the_former_result_whole(
    tmp_path, model, head, monkeypatch
):
    scan = saved(head, tmp_path / "head.nii.gz")
    found = segment(scan, model=model, out=tmp_path, threads=1)
    before = {path: path.read_bytes() for path in found.paths.all()}

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fewlabel.results, "write_labels", full)
    (failed,) = segment_files([scan], model, out=tmp_path, overwrite=True)

    assert "the disk is full" in failed.error.what
    assert {path: path.read_bytes() for path in found.paths.all()} == before


def test_a_bad_scan_does_not_stop_the_others(tmp_path, model, head):
    good = [saved(head, tmp_path / f"sub-0{n}_T1w.nii.gz") for n in (1, 3)]
    bad = tmp_path / "sub-02_T1w.nii.gz"
    bad.write_bytes(good[0].read_bytes()[:2000])

    outcomes = list(segment_files([good[0], bad, good[1]], model, compute=Compute(threads=1)))

    assert [outcome.status for outcome in outcomes] == ["segmented", "failed", "segmented"]
    assert isinstance(outcomes[1].error, ScanError)
    assert not list(tmp_path.glob("sub-02_*.json"))


@pytest.mark.parametrize(
    ("problem", "fix"),
    [
        (RuntimeError("Check failed at plugin.cpp:12:\nstd::bad_alloc\n"), "set --max-memory"),
        (OSError(5, "std::bad_alloc"), "the disk has room"),
    ],
)
def test_what_stops_one_scan_does_not_stop_the_others(
    tmp_path, model, head, monkeypatch, problem, fix
):
    scans = [saved(head, tmp_path / f"{name}.nii.gz") for name in "ab"]
    run = Segmenter.__call__

    def fails_at_first(*_):
        monkeypatch.setattr(Segmenter, "__call__", run)
        raise problem

    monkeypatch.setattr(Segmenter, "__call__", fails_at_first)
    outcomes = list(segment_files(scans, model, compute=Compute(threads=1)))

    assert [one.status for one in outcomes] == ["failed", "segmented"]
    assert outcomes[0].error.what.endswith("std::bad_alloc.")
    assert "plugin.cpp" not in outcomes[0].error.what
    assert fix in outcomes[0].error.fix


def test_a_folder_that_is_a_file_is_refused_before_the_work(tmp_path, model, head):
    scan = saved(head, tmp_path / "head.nii.gz")
    (tmp_path / "out").write_text("")

    (outcome,) = segment_files([scan], model, out=tmp_path / "out" / "deeper")

    assert "out is a file, not a folder" in outcome.error.what


def test_a_gpu_needs_a_network_that_torch_knows(model, head):
    with pytest.raises(ModelFolderError, match="is no U-Net that torch can run"):
        segment(head, model=model, device="cuda")


@pytest.mark.parametrize(
    ("scan", "labels"),
    [
        ("sub-01_T1w.nii.gz", "sub-01_dseg.nii.gz"),
        ("sub-01_desc-brain_T1w.nii", "sub-01_desc-brain_dseg.nii.gz"),
        ("t1.v2.nii.gz", "t1.v2_dseg.nii.gz"),
        ("T1.MGZ", "T1_dseg.nii.gz"),
        ("sub-01", "sub-01_dseg.nii.gz"),
    ],
)
def test_results_are_named_after_the_scan(tmp_path, scan, labels):
    assert ResultPaths.of(tmp_path / scan, tmp_path).labels.name == labels


def test_the_public_names_are_there_and_others_are_not():
    assert fewlabel.segment is segment
    assert all(hasattr(fewlabel, name) for name in fewlabel.__all__)
    assert set(fewlabel.__all__) == set(fewlabel._HOME)
    with pytest.raises(AttributeError, match="has no attribute 'segmnt'"):
        fewlabel.segmnt  # noqa: B018


def test_a_card_may_ask_for_z_scores(tmp_path, head):
    from fewlabel.model import write_model
    from tests.band_model import band_onnx

    card = band_card(intensity="z_score")
    model = write_model(tmp_path / "z", card, onnx=band_onnx((-1.0, 0.0, 1.0, 5.0)))

    assert segment(head, model=model, threads=1).volumes_mm3["Right-Lump"] > 0
