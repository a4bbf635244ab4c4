"""FSL FIRST, played by a script of a few lines."""

import stat
import sys

import nibabel
import numpy as np
import pytest

from fewlabel.auto import annotate, write_table
from fewlabel.cohort import read_cohort
from fewlabel.errors import ConfigError, ScanError
from fewlabel.first import find_first, what_is_odd
from fewlabel.grid import Grid
from fewlabel.labels import load_protocol
from fewlabel.volume import LabelMap

FSL15 = load_protocol("fsl15")
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
SHAPE = (60, 40, 30)
SCRIPT = """#!{python}
import os, pathlib, shutil, sys
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert os.environ["FSLSUBALREADYRUN"] == "true"
here = pathlib.Path.cwd()
assert list(here.iterdir()) == [here / words["-i"]]
(here / "scan_to_std_sub.mat").touch()
{then}
"""
COPIES = "shutil.copyfile({result!r}, words['-o'] + '_all_fast_firstseg.nii.gz')"


PAIRED = [name for name in FSL15.names if name != "Brain-Stem"]


def structures():
    """Left ones to the left, blocks of 6 x 8 x 12 voxels of 8 mm3; the brain stem is below."""
    classes = np.zeros(SHAPE, dtype=np.int16)
    for number, name in enumerate(FSL15.names, start=1):
        place = sum(other < name for other in PAIRED if other[:4] == name[:4])
        i = (2 if name.startswith("Left") else 32) + 7 * (place % 4)
        j = 2 if place < 4 else 20
        if name == "Brain-Stem":
            classes[26:32, 10:18, :8] = number
        else:
            classes[i : i + 6, j : j + 8, 14:26] = number
    return classes


@pytest.fixture
def truth():
    return LabelMap(structures(), Grid(SHAPE, AFFINE), FSL15)


@pytest.fixture
def scan(tmp_path):
    path = tmp_path / "scans" / "sub-7_T1w.nii.gz"
    path.parent.mkdir()
    data = np.random.default_rng(0).random(SHAPE, dtype=np.float32)
    nibabel.save(nibabel.Nifti1Image(data, AFFINE), path)
    return path


@pytest.fixture
def first(tmp_path, monkeypatch, truth):
    """Installs a FIRST that does as it is told."""
    result = tmp_path / "result.nii.gz"
    nibabel.save(nibabel.Nifti1Image(FSL15.values[truth.data], AFFINE), result)

    def install(then=None, **about):
        place = tmp_path / "fsl" / "bin" / "run_first_all"
        place.parent.mkdir(parents=True, exist_ok=True)
        text = SCRIPT.format(python=sys.executable, then=then or COPIES.format(result=str(result)))
        place.write_text(text)
        place.chmod(place.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("FSLDIR", str(tmp_path / "fsl"))
        return find_first(**about)

    return install


def test_its_numbers_become_the_15_structures_and_nothing_is_left_beside_the_scan(
    first, scan, truth
):
    found = first()(scan)

    assert found.protocol == FSL15
    assert np.array_equal(found.data, truth.data)
    assert list(scan.parent.iterdir()) == [scan]


@pytest.mark.parametrize(
    ("then", "words"),
    [
        ("sys.exit('Cannot open volume')", "FIRST failed on sub-7_T1w.nii.gz: Cannot open volume"),
        ("pass", "it wrote no result"),
        (
            "(here / 'out.logs').mkdir(); (here / 'out.logs' / 'first.e1').write_text('singular')",
            "singular",
        ),
    ],
)
def test_each_way_to_fail_is_told(first, scan, then, words):
    with pytest.raises(ScanError, match=words):
        first(then)(scan)


def test_an_error_in_its_logs_counts_although_it_wrote_a_result(first, scan, tmp_path):
    logs = "(here / 'out.logs').mkdir(); (here / 'out.logs' / 'first.e1').write_text('no match')"

    with pytest.raises(ScanError, match="no match"):
        first(f"{COPIES.format(result=str(tmp_path / 'result.nii.gz'))}; {logs}")(scan)


def test_a_scan_that_it_fails_on_is_recorded_and_left_out(first, scan, tmp_path):
    other = scan.with_name("sub-8_T1w.nii.gz")
    other.write_bytes(scan.read_bytes()[:-1])
    fails = f"os.path.getsize(words['-i']) < {scan.stat().st_size} and sys.exit('broken')"
    annotator = first(f"{fails}; {COPIES.format(result=str(tmp_path / 'result.nii.gz'))}")

    found = list(annotate([other, scan], annotator, FSL15, tmp_path / "out"))
    cohort = write_table(found, FSL15, "FSL FIRST", tmp_path / "out")

    assert [one.problem for one in found] == ["FIRST failed on sub-8_T1w.nii.gz: broken.", ""]
    assert [(case.person, case.protocol, case.split) for case in cohort.cases] == [
        ("sub-7", "fsl15", "train")
    ]
    lines = (tmp_path / "out" / "annotations.tsv").read_text().splitlines()
    assert "\tFSL FIRST\tfailed\t\tFIRST failed on sub-8" in lines[1]
    assert "\tannotated\tsub-7_T1w_desc-fsl15_dseg.nii.gz\t" in lines[2]
    assert read_cohort(tmp_path / "out" / "cohort.tsv").cases[0].labels.is_file()


def test_a_result_that_no_brain_has_is_not_believed(truth):
    def with_classes(data):
        return what_is_odd(LabelMap(np.ascontiguousarray(data), truth.grid, FSL15))

    missing = np.where(truth.data == FSL15.class_of("Left-Amygdala"), 0, truth.data)
    shifted = np.zeros_like(truth.data)
    shifted[:, :, 12:] = truth.data[:, :, :-12]
    low = np.where(truth.data == FSL15.class_of("Brain-Stem"), 0, truth.data)
    low[26:32, 10:18, 28:30] = FSL15.class_of("Brain-Stem")

    assert what_is_odd(truth) == ""
    assert with_classes(missing) == "it found no Left-Amygdala"
    assert "is not to the left of" in with_classes(truth.data[::-1])
    assert with_classes(low) == "the brain stem is not below the thalami"
    small = LabelMap(truth.data, Grid(SHAPE, np.diag([1.0, 1.0, 1.0, 1.0])), FSL15)
    assert what_is_odd(small) == "its structures have 8 cm3 together, which no brain has"


def test_without_fsl_the_other_ways_are_named(monkeypatch):
    monkeypatch.delenv("FSLDIR", raising=False)
    monkeypatch.setenv("PATH", "")

    with pytest.raises(ConfigError, match="FSL FIRST is not installed") as refusal:
        find_first()

    assert "--with model" in refusal.value.fix


def test_a_scan_of_another_format_is_not_given_to_it(first, tmp_path):
    with pytest.raises(ScanError, match="it reads NIfTI files only"):
        first()(tmp_path / "scan.mgz")


def test_a_scan_that_is_missing_fails_and_others_go_on(first, scan, tmp_path):
    gone = scan.with_name("sub-6_T1w.nii.gz")

    found = list(annotate([gone, scan], first(), FSL15, tmp_path / "out"))

    assert "FIRST failed on sub-6_T1w.nii.gz: it cannot be copied (No such" in found[0].problem
    assert found[1].labels is not None
