import json

import nibabel
import numpy as np
import pytest

from fewlabel.cli import app
from fewlabel.errors import CohortError, ConfigError, OutputError
from fewlabel.io import write_labels
from fewlabel.labels import load_protocol
from fewlabel.register_files import propagate_files, read_atlases
from fewlabel.volume import LabelMap
from fewlabel.warp_io import read_field, write_scan
from tests.heads import box, head

pytest.importorskip("torch")


@pytest.fixture
def files(tmp_path):
    """A head with two structures, and the same head 5 mm further to the right."""
    protocol, grid = load_protocol("hippocampus2"), box(5.0)
    moving = head(grid)
    shift = np.eye(4)
    shift[0, 3] = -5
    classes = ((moving.data > 0.25) + (moving.data > 0.7)).astype(np.int16)
    write_scan(moving, tmp_path / "scans" / "sub-a_T1w.nii.gz")
    write_scan(head(grid, shift), tmp_path / "sub-b_T1w.nii.gz")
    labels = LabelMap(classes, grid, protocol)
    write_labels(labels, tmp_path / "labels" / "sub-a_dseg.nii.gz")
    return tmp_path


def run(*words):
    app([str(word) for word in words], exit_on_error=False, result_action="return_value")


def test_registering_two_files_gives_four_and_refuses_to_replace_them(files, capsys):
    moving, fixed = files / "scans" / "sub-a_T1w.nii.gz", files / "sub-b_T1w.nii.gz"
    labels = ("--labels", files / "labels" / "sub-a_dseg.nii.gz", "--protocol", "hippocampus2")
    run("register", moving, fixed, "--out", files / "out", *labels, "--refine", 1)
    names = sorted(path.name for path in (files / "out").iterdir())
    assert names == ["displacement.nii.gz", "labels.nii.gz", "registration.json", "warped.nii.gz"]
    record = json.loads((files / "out" / "registration.json").read_text())
    assert record["affine_fixed_to_moving_mm"][0][3] == pytest.approx(-5, abs=1.5)
    middle = read_field(files / "out" / "displacement.nii.gz").mm[0]
    assert np.median(middle) == pytest.approx(-5, abs=1.5)
    assert "voxels folded" in capsys.readouterr().out
    with pytest.raises(OutputError, match="holds a registration already"):
        run("register", moving, fixed, "--out", files / "out")


def test_labels_propagate_from_a_folder_of_atlases_to_the_native_grid(files):
    run("propagate", files / "scans", files / "labels", files / "sub-b_T1w.nii.gz",
        "--out", files / "out", "--protocol", "hippocampus2", "--refine", 0)  # fmt: skip
    found = np.asarray(nibabel.load(files / "out" / "sub-b_dseg.nii.gz").dataobj)
    truth = np.asarray(nibabel.load(files / "labels" / "sub-a_dseg.nii.gz").dataobj)
    assert found.shape == truth.shape
    assert (found[1:] == truth[:-1]).mean() > 0.97  # 5 mm are one voxel


def test_atlases_may_be_mgh_files(files):
    atlas = files / "scans" / "sub-a_T1w.nii.gz"
    image = nibabel.load(atlas)
    data = np.asarray(image.dataobj, dtype=np.float32)
    nibabel.save(nibabel.MGHImage(data, image.affine), files / "scans" / "sub-a_T1w.mgz")
    atlas.unlink()

    (found,) = read_atlases(files / "scans", files / "labels", load_protocol("hippocampus2"))

    assert np.array_equal(found.scan.data, data)


def test_scans_of_one_name_are_refused_before_anything_is_done(files):
    scans = [files / name / "T1.nii.gz" for name in ("bert", "ernie")]

    with pytest.raises(OutputError, match=r"bert.* and .*ernie.* would both be segmented to"):
        next(propagate_files([], scans, files / "out"))

    assert not (files / "out").exists()


def test_labels_without_a_protocol_and_folders_without_a_common_case_are_refused(files):
    scan = files / "sub-b_T1w.nii.gz"
    with pytest.raises(ConfigError, match="--labels needs --protocol"):
        run("register", scan, scan, "--out", files / "out", "--labels", scan)
    protocol = load_protocol("hippocampus2")
    with pytest.raises(CohortError, match="is a folder and the other is not"):
        read_atlases(files / "scans", scan, protocol)
    (files / "scans" / "sub-a_T1w.nii.gz").rename(files / "scans" / "sub-c_T1w.nii.gz")
    with pytest.raises(CohortError, match="share no case"):
        read_atlases(files / "scans", files / "labels", protocol)
