"""`fewlabel segment`, `demo` and `models` as a person meets them: in processes of their own."""

import json
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest

from fewlabel import cli
from tests.band_model import band_model, box_grid, head_at

PROGRAM = Path(sys.executable).with_name("fewlabel")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    band_model(folder / "bands")
    return folder


@pytest.fixture
def fewlabel(models, tmp_path, monkeypatch):
    monkeypatch.setenv("FEWLABEL_MODELS", str(models))

    def run(*words):
        command = [str(PROGRAM), *map(str, words)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    return run


@pytest.fixture
def scan_at(tmp_path):
    head = head_at(box_grid((3.0, 3.0, 3.0), 192.0))

    def save(name):
        path = tmp_path / name
        nibabel.save(nibabel.Nifti1Image(head.data.astype(np.int16), head.grid.affine), path)
        return path

    return save


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_one_scan_is_segmented_next_to_itself(fewlabel, scan_at, tmp_path):
    scan_at("sub-01_T1w.nii.gz")

    done = fewlabel("segment", "sub-01_T1w.nii.gz", "--model", "bands", "--threads", 1)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("sub-01_T1w.nii.gz: 3 of 3 structures, brain ")
    assert len(names(tmp_path)) == 6
    again = fewlabel("segment", "sub-01_T1w.nii.gz", "--model", "bands")
    assert again.returncode == 0
    assert "kept, segmented before" in again.stdout


def test_a_single_bad_scan_is_a_sentence_and_exit_code_2(fewlabel, tmp_path):
    (tmp_path / "scan.nii.gz").write_bytes(b"not an image")

    done = fewlabel("segment", "scan.nii.gz", "--model", "bands", "--out", "out")

    assert done.returncode == 2
    assert done.stderr.startswith("fewlabel: ")
    assert "To fix:" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert names(tmp_path) == ["scan.nii.gz"]


def test_a_file_that_the_system_refuses_is_a_sentence_and_exit_code_2(monkeypatch, capsys):
    def refused():
        raise PermissionError(13, "Permission denied", "/home/other/scans")

    monkeypatch.setattr(cli, "app", refused)
    with pytest.raises(SystemExit) as end:
        cli.main()

    assert end.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("fewlabel: /home/other/scans: Permission denied.\n  To fix: ")


def test_of_several_scans_the_bad_one_is_listed_and_the_exit_code_is_1(fewlabel, scan_at, tmp_path):
    scan_at("a.nii.gz"), scan_at("c.nii")

    scans = ("a.nii.gz", "b.nii.gz", "c.nii")
    done = fewlabel("segment", *scans, "--model", "bands", "--out", "out", "--threads", 1)

    assert done.returncode == 1
    assert "b.nii.gz: failed" in done.stdout
    assert "fewlabel: 1 of 3 scans failed:\n  b.nii.gz\n" in done.stderr
    assert len(names(tmp_path / "out")) == 10


def test_json_tells_every_outcome(fewlabel, scan_at):
    scan_at("a.nii.gz")

    done = fewlabel("segment", "a.nii.gz", "b.nii.gz", "--model", "bands", "--json")

    first, second = json.loads(done.stdout)
    assert first["status"] == "segmented"
    assert first["volumes_mm3"]["Total-Brain"] > 1e6
    assert len(first["files"]) == 5
    assert second["status"] == "failed"
    assert "b.nii.gz" in second["error"]["what"]


def test_strict_ends_with_3_if_a_result_has_warnings_earlier_ones_included(fewlabel, tmp_path):
    head = head_at(box_grid((3.0, 3.0, 3.0), 192.0))
    image = nibabel.Nifti1Image(head.data[:, :, 28:].astype(np.int16), head.grid.affine)
    nibabel.save(image, tmp_path / "cut.nii.gz")
    words = ("segment", "cut.nii.gz", "--model", "bands", "--threads", 1)

    assert fewlabel(*words).returncode == 0
    again = fewlabel(*words, "--strict")

    assert again.returncode == 3
    assert "1 of 1 have warnings" in again.stderr


def test_an_unknown_model_suggests_the_nearest(fewlabel, scan_at, tmp_path):
    scan_at("a.nii.gz")

    done = fewlabel("segment", "a.nii.gz", "--model", "band")

    assert done.returncode == 2
    assert "There is no model 'band'." in done.stderr
    assert "write 'bands'" in done.stderr
    assert names(tmp_path) == ["a.nii.gz"]


def test_no_threads_at_all_are_refused(fewlabel, scan_at, tmp_path):
    scan_at("a.nii.gz")

    done = fewlabel("segment", "a.nii.gz", "--model", "bands", "--threads", 0)

    assert done.returncode == 2
    assert "threads" in done.stderr
    assert "Traceback" not in done.stderr
    assert names(tmp_path) == ["a.nii.gz"]


def test_a_kill_at_any_moment_leaves_a_whole_result_or_none(models, scan_at, tmp_path):
    scan = scan_at("a.nii.gz")
    out = tmp_path / "out"
    command = [str(PROGRAM), "segment", str(scan), "--model", str(models / "bands")]
    begin = time.perf_counter()
    subprocess.run([*command, "--out", str(tmp_path / "w")], check=True, capture_output=True)
    whole_s = time.perf_counter() - begin

    for share in (0.5, 0.8, 0.9, 0.95, 1.0):
        process = subprocess.Popen([*command, "--out", str(out)], stdout=subprocess.DEVNULL)
        time.sleep(share * whole_s)
        process.kill()
        process.wait()
        shown = [name for name in names(out) if not name.startswith(".")] if out.exists() else []
        if "a_dseg.json" in shown:
            assert len(shown) == 5
            break


def test_the_demo_segments_the_embedded_scan(fewlabel, tmp_path):
    done = fewlabel("demo", "--model", "bands")

    assert done.returncode == 0, done.stderr
    assert "fewlabel-demo/sub-icbm152_qc.png" in done.stdout
    assert len(names(tmp_path / "fewlabel-demo")) == 6


def test_models_are_listed_for_people_and_for_programs(fewlabel):
    told = fewlabel("models").stdout
    listed = json.loads(fewlabel("models", "--json").stdout)

    assert "bands 1.0: Sorts intensities into three bands." in told
    assert "bands" in [card["name"] for card in listed]


def test_help_needs_neither_numpy_nor_pydantic():
    told = (
        "import sys, fewlabel.cli; print(sorted({'numpy', 'pydantic', 'torch'} & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
