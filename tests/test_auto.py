"""Partial annotations by registration and by models."""

from pathlib import Path

import nibabel
import numpy as np
import pytest

from fewlabel import auto
from fewlabel.auto import annotate, by_model, by_registration, write_table
from fewlabel.cli_annotate import Source, _annotator
from fewlabel.cli_annotate import auto as command
from fewlabel.cohort import read_cohort
from fewlabel.errors import CohortError, ConfigError, OutputError, ProtocolError, ScanError
from fewlabel.grid import Grid
from fewlabel.labels import load_protocol
from fewlabel.model import find_model
from fewlabel.propagate import Atlas, Propagated
from fewlabel.volume import LabelMap, Scan

FSL15, ASEG32 = load_protocol("fsl15"), load_protocol("aseg32")
GRID = Grid((4, 4, 4), np.diag([2.0, 2.0, 2.0, 1.0]))


def aseg(**names):
    """A map with a voxel for each structure, at the index given."""
    data = np.zeros(GRID.shape, dtype=np.int16)
    for name, at in names.items():
        data.ravel()[at] = ASEG32.class_of(name.replace("_", "-"))
    return LabelMap(data, GRID, ASEG32)


@pytest.fixture
def scan(tmp_path):
    path = tmp_path / "sub-1_T1w.nii.gz"
    data = np.arange(64, dtype=np.float32).reshape(GRID.shape)
    nibabel.save(nibabel.Nifti1Image(data, GRID.affine), path)
    return path


@pytest.fixture
def told(monkeypatch):
    """Lets the embedded model find what a test says."""

    def say(labels):
        class Found:
            def __init__(self, *_):
                self.labels = labels

            def __call__(self, _):
                return self

        monkeypatch.setattr(auto, "Segmenter", Found)
        return find_model(None)

    return say


LABELS = {"Left_Caudate": 5, "Brain_Stem": 6, "4th_Ventricle": 7, "Left_Cerebral_Cortex": 8}


def test_a_model_draws_the_structures_that_the_protocol_has(told, scan):
    found = by_model(told(aseg(**LABELS)), FSL15)(scan)

    assert found.protocol == FSL15
    assert found.data.ravel()[5] == FSL15.class_of("Left-Caudate")
    assert found.data.ravel()[6:9].tolist() == [FSL15.class_of("Brain-Stem"), 0, 0]


def test_the_fourth_ventricle_counts_as_brain_stem_if_it_shall_be_as_in_first(told, scan):
    found = by_model(told(aseg(**LABELS)), FSL15, fourth_ventricle=True)(scan)

    assert found.data.ravel()[6:9].tolist() == [FSL15.class_of("Brain-Stem")] * 2 + [0]


def test_a_model_that_lacks_structures_is_refused_by_their_names(told):
    with pytest.raises(ProtocolError, match=r"draws 'aseg32', which lacks .*ACgG anterior"):
        by_model(told(aseg()), load_protocol("neuromorphometrics138"))


def test_an_atlas_is_carried_to_the_scan_and_reduced(scan, monkeypatch):
    atlas = Atlas(Scan(np.zeros(GRID.shape, dtype=np.float32), GRID), aseg(**LABELS))
    asked = []

    def carried(atlases, fixed, how):
        asked.append((atlases, float(fixed.data.max()), how))
        return Propagated(atlases[0].labels, (), 1.0)

    monkeypatch.setattr(auto, "propagate", carried)
    found = by_registration([atlas], FSL15)(scan)

    assert asked == [([atlas], 63.0, None)]
    assert found.data.ravel()[5] == FSL15.class_of("Left-Caudate")
    with pytest.raises(CohortError, match="no atlas"):
        by_registration([], FSL15)


def test_labels_that_are_there_are_kept_and_a_scan_without_any_structure_is_left_out(
    scan, tmp_path
):
    other = scan.with_name("sub-2_T1w.nii.gz")
    other.write_bytes(scan.read_bytes())
    left = FSL15.class_of("Left-Caudate")
    drawn = {scan.name: left, other.name: 0}

    def annotator(path):
        data = np.full(GRID.shape, drawn[path.name], dtype=np.int16)
        return LabelMap(data, GRID, FSL15)

    first = list(annotate([scan, other], annotator, FSL15, tmp_path / "out"))
    again = list(annotate([scan], annotator, FSL15, tmp_path / "out"))

    assert [one.problem for one in first] == ["", "Not one structure was found."]
    assert again[0].kept
    cohort = write_table(first, FSL15, "somebody", tmp_path / "out")
    assert [case.scans["T1w"] for case in cohort.cases] == [scan]


def test_labels_that_are_there_are_not_taken_for_those_of_another_scan(scan, tmp_path):
    others = [tmp_path / name / scan.name for name in ("a", "b")]
    for other in others:
        other.parent.mkdir()
        other.write_bytes(scan.read_bytes())
    left = np.full(GRID.shape, FSL15.class_of("Left-Caudate"), dtype=np.int16)
    out = tmp_path / "out"

    def annotator(_):
        return LabelMap(left, GRID, FSL15)

    write_table(annotate([others[0]], annotator, FSL15, out), FSL15, "somebody", out)

    with pytest.raises(CohortError) as refusal:
        next(annotate([others[1]], annotator, FSL15, out))
    assert f"the labels of {others[0]}, not of {others[1]}." in str(refusal.value)
    assert [one.kept for one in annotate([others[0]], annotator, FSL15, out)] == [True]
    others[0].unlink()
    assert [one.kept for one in annotate([others[1]], annotator, FSL15, out)] == [True]


def test_scans_of_one_name_are_refused_before_any_is_annotated(scan, tmp_path):
    def never(_):
        raise ScanError("Must not be called.", fix="-")

    with pytest.raises(OutputError, match="have the same name"):
        next(annotate([scan, tmp_path / "other" / scan.name], never, FSL15, tmp_path / "out"))


def test_the_command_writes_labels_a_table_and_a_manifest(told, scan, tmp_path, capsys):
    told(aseg(**LABELS))

    command([scan], by="model", out=tmp_path / "out")

    assert {path.name for path in (tmp_path / "out").iterdir()} >= {
        "annotations.tsv",
        "cohort.tsv",
        "sub-1_T1w_desc-fsl15_dseg.nii.gz",
    }
    assert "1 of 1 scans annotated by adult-aseg32" in capsys.readouterr().out


def test_a_protocol_of_ones_own_goes_to_the_manifest_as_a_path(told, scan, tmp_path, monkeypatch):
    told(aseg(**LABELS))
    monkeypatch.chdir(tmp_path)
    Path("own.tsv").write_text("index\tname\n1\tLeft-Caudate\n")

    command([scan], by="model", out=Path("out"), protocol="own.tsv")

    (case,) = read_cohort(tmp_path / "out" / "cohort.tsv").cases
    assert case.drawn_in().names == ("Left-Caudate",)
    assert "\t../own.tsv\t" in (tmp_path / "out" / "cohort.tsv").read_text()


def test_what_each_way_needs_is_asked_for():
    with pytest.raises(ConfigError, match="needs a labeled scan"):
        _annotator("registration", "fsl15", Source())
    with pytest.raises(ConfigError, match="FIRST draws fsl15, not aseg32"):
        _annotator("first", "aseg32", Source())
