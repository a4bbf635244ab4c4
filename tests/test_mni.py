"""Scans that are placed as in MNI space: turned phantoms, and a stand-in for the template."""

from dataclasses import replace

import numpy as np
import pytest

from fewlabel import look, mni
from fewlabel.affine import moved
from fewlabel.cache import Cache
from fewlabel.conformed import WorkingRule
from fewlabel.datasets import index_folder
from fewlabel.datasets.phantom import PhantomConfig, phantom, write_phantoms
from fewlabel.engine import Compute
from fewlabel.errors import CohortError
from fewlabel.segmenter import Segmenter
from tests.band_model import band_model, head_at


def turn(degrees, shift_mm):
    """A turn about the axis from feet to head, then a shift to the right."""
    angle = np.radians(degrees)
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix[0, 3] = shift_mm
    return matrix


@pytest.fixture
def template(monkeypatch):
    scan, _ = phantom(0, 0, spacing_mm=8.0)
    monkeypatch.setattr(mni, "_template", lambda: scan)
    return scan


def test_a_turned_and_shifted_head_is_put_back_and_its_voxels_stay(template):
    lying = moved(template, turn(12, 9.0))

    placed = mni.onto_mni(lying)

    assert placed.data is lying.data
    difference = placed.grid.corners_mm() - template.grid.corners_mm()
    assert np.linalg.norm(difference, axis=1).max() < 6.0


def test_cases_are_conformed_where_mni_has_them_and_kept(monkeypatch, tmp_path):
    config = PhantomConfig(cases=1, spacing_mm=5.0, validation=0, test=0)
    (case,) = index_folder(write_phantoms(tmp_path / "data", config)).cohort.cases
    asked = []

    def matrix(scan):
        asked.append(scan)
        return turn(0, 40.0)

    monkeypatch.setattr(mni, "_matrix", matrix)
    rule, cache = WorkingRule(spacing_mm=5.0), Cache(tmp_path / "cache")
    (native,) = mni.conform_in("native", [case], rule, cache)
    (placed,) = mni.conform_in("mni-rigid", [case], rule, cache)
    mni.conform_in("mni-rigid", [case], rule, cache)

    assert len(asked) == 1
    moved_mm = placed.grid.affine[:3, 3] - native.grid.affine[:3, 3]
    assert moved_mm.tolist() == pytest.approx([-40.0, 0.0, 0.0], abs=1e-4)
    assert np.array_equal(placed.classes, native.classes)
    assert np.allclose(placed.image, native.image, atol=1e-4)
    with pytest.raises(CohortError, match="There is no T2w of sub-"):
        mni.conform_in("mni-rigid", [case], replace_modality(rule), cache)


def replace_modality(rule):
    return WorkingRule.model_validate(rule.model_dump() | {"modalities": ("T2w",)})


def test_a_model_of_mni_space_gives_labels_on_the_voxels_of_the_scan(monkeypatch, tmp_path):
    scan = head_at(phantom(0, 0, spacing_mm=6.0)[0].grid)
    shifted = replace(scan, grid=moved(scan, turn(0, 300.0)).grid)
    monkeypatch.setattr(look, "onto_mni", lambda _: scan)
    model = band_model(tmp_path / "mni", spacing_mm=6.0, space="mni-rigid")
    plain = band_model(tmp_path / "plain", spacing_mm=6.0)

    found = Segmenter(model, Compute(threads=1))(shifted)
    usual = Segmenter(plain, Compute(threads=1))(scan)

    assert found.labels.grid.matches(shifted.grid)
    assert np.array_equal(found.labels.data, usual.labels.data)
    assert (found.labels.data > 0).any()
