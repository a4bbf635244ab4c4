"""What `fewlabel info` tells about a scan, good or bad."""

import json
from pathlib import Path

import numpy as np
import pytest

from fewlabel.cli import app
from tests.scans import SHAPE, noise, saved


def told(capsys, *arguments):
    """What the command prints, and its exit code."""
    with pytest.raises(SystemExit) as left:
        app(["info", *map(str, arguments)])
    printed = capsys.readouterr()
    assert "Traceback" not in printed.out + printed.err
    return printed.out, left.value.code


def test_info_tells_geometry_oddities_and_verdict(tmp_path, capsys):
    affine = np.array([[-2.0, 0, 0, 9], [0, 0, 1, 3], [0, -1, 0, 2], [0, 0, 0, 1]])
    path = saved(tmp_path / "scan.nii.gz", affine=affine, qform_code=1, qoffset_x=14)
    out, code = told(capsys, path)
    assert not code
    for words in (
        "Format:        NIfTI-1, gzip",
        "Voxels:        8x7x6",
        "Spacing:       2x1x1 mm",
        "Field of view: 16x7x6 mm",
        "Orientation:   LIA (i, j, k lead to left, feet, front)",
        "Affine from:   sform (sform code 2, qform code 1)",
        "Data type:     int16",
        f"Intensity:     {noise().min()} to {noise().max()}",
        "up to 5 mm apart; the sform is used",
        "it will be read as noted above",
    ):
        assert words in out


def test_info_of_a_refused_scan_tells_what_it_can_and_exits_with_2(tmp_path, capsys):
    path = saved(tmp_path / "bold.nii.gz", noise((*SHAPE, 9)))
    out, code = told(capsys, path)
    assert code == 2
    assert "Voxels:        8x7x6x9" in out
    assert "has 9 volumes" in out
    assert "To fix: take one volume out of it" in out


def test_info_as_json_has_null_for_what_is_no_number(tmp_path, capsys):
    path = saved(tmp_path / "scan.nii", scl_slope=np.nan)
    out, code = told(capsys, path, "--json")
    report = json.loads(out)
    assert code == 2
    assert report["slope"] is None
    assert report["shape"] == [8, 7, 6]
    assert "both must be finite" in report["refusal"]


def test_info_of_no_file_names_it(tmp_path, capsys):
    out, code = told(capsys, tmp_path / "gone.nii")
    assert code == 2
    assert "There is no file" in out
    assert list(tmp_path.iterdir()) == []


def test_info_of_a_path_that_may_not_be_looked_at_names_it(tmp_path, capsys, monkeypatch):
    def closed(path, **_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", closed)
    out, code = told(capsys, tmp_path / "closed" / "scan.nii")
    assert code == 2
    assert "refused" in out
