import os
from dataclasses import replace

import nibabel
import numpy as np
import pytest
from pydantic import ValidationError

from fewlabel.cache import Cache
from fewlabel.cohort import Case
from fewlabel.conformed import WorkingRule, cache_key, conform_case, conform_cases, labels_on
from fewlabel.errors import CohortError
from fewlabel.grid import Grid
from fewlabel.volume import LabelMap


@pytest.fixture
def case(tmp_path):
    """A scan of 2 mm voxels that runs to the left, with a label map of tissues."""
    rng = np.random.default_rng(0)
    data = rng.integers(1, 100, (8, 9, 10)).astype(np.int16)
    labels = np.zeros((8, 9, 10), dtype=np.int16)
    labels[0:3], labels[5, 5, 5] = 2, 3
    affine = np.diag([-2.0, 2.0, 2.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(data, affine), tmp_path / "a_T1w.nii")
    nibabel.save(nibabel.Nifti1Image(labels, affine), tmp_path / "a_dseg.nii")
    return Case("a", "a", "a", {"T1w": tmp_path / "a_T1w.nii"}, tmp_path / "a_dseg.nii", "tissue3")


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


RULE = WorkingRule(spacing_mm=2.0)


def test_scan_and_labels_come_upright_and_scaled(case, cache):
    found = conform_case(case, RULE, cache)

    assert np.allclose(found.grid.affine[:3, :3], np.diag([2.0, 2.0, 2.0]))
    assert found.image.shape == (1, 8, 9, 10)
    assert found.image.min() == 0
    assert found.image.max() == 1
    assert (found.classes[5:8] == 2).all()  # reversed along i
    assert found.classes[2, 5, 5] == 3
    assert found.places.sizes.tolist() == [720 - 271, 0, 270, 1]


def test_arrays_are_mapped_from_files_and_cannot_be_written_to(case, cache):
    found = conform_case(case, RULE, cache)

    assert isinstance(found.image, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        found.image[:] = 0


def test_a_case_is_conformed_once_while_its_files_stay_the_same(case, cache):
    conform_case(case, RULE, cache)
    (first,) = cache.folder.iterdir()
    os.utime(case.scans["T1w"])  # a new date is no new content

    conform_case(case, RULE, cache)
    assert list(cache.folder.iterdir()) == [first]

    conform_case(case, WorkingRule(spacing_mm=4.0), cache)
    assert len(list(cache.folder.iterdir())) == 2


def test_a_changed_label_map_is_read_anew(case, cache):
    conform_case(case, RULE, cache)
    image = nibabel.load(case.labels)
    nibabel.save(nibabel.Nifti1Image(np.ones((8, 9, 10), np.int16), image.affine), case.labels)

    assert (conform_case(case, RULE, cache).classes == 1).all()


def test_a_case_without_labels_has_an_image_only(case, cache):
    unlabeled = Case("a", "a", "a", case.scans)

    found = conform_case(unlabeled, RULE, cache)

    assert found.classes is None
    assert found.places is None


EITHER = WorkingRule(spacing_mm=2.0, modalities=("T1w", "T2w"), any_modality=True)


@pytest.fixture
def two(case, tmp_path):
    """The same case with a T2w scan, brighter from voxel to voxel, on 1 mm voxels."""
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[0, 3] = -14.0
    ramp = np.broadcast_to(np.arange(15)[:, None, None], (15, 17, 19)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(ramp, affine), tmp_path / "a_T2w.nii")
    return replace(case, scans={**case.scans, "T2w": tmp_path / "a_T2w.nii"})


def test_a_modality_that_lacks_is_a_channel_of_zeros(case, two, cache):
    t2w = replace(two, scans={"T2w": two.scans["T2w"]}, labels=None)

    first, second = conform_case(case, EITHER, cache), conform_case(t2w, EITHER, cache)

    assert first.there.tolist() == [True, False]
    assert second.there.tolist() == [False, True]
    assert first.image.shape == (2, 8, 9, 10)
    assert (first.image[1] == 0).all()
    assert (second.image[0] == 0).all()


def test_the_second_modality_comes_on_the_voxels_of_the_first(two, cache):
    found = conform_case(two, EITHER, cache)

    assert found.there.all()
    assert found.image.shape == (2, 8, 9, 10)
    steps = np.diff(found.image[1, :, 4, 5])
    assert (steps > 0).all()
    assert np.ptp(steps[1:-1]) < 1e-5


def test_labels_may_be_drawn_on_the_voxels_of_either_modality(two, cache, tmp_path):
    labels = np.zeros((15, 17, 19), np.int16)
    labels[6:] = 2
    t2w = nibabel.load(two.scans["T2w"])
    nibabel.save(nibabel.Nifti1Image(labels, t2w.affine), tmp_path / "b_dseg.nii")

    found = conform_case(replace(two, labels=tmp_path / "b_dseg.nii"), EITHER, cache)

    assert found.classes[:, 4, 5].tolist() == [0, 0, 0, 2, 2, 2, 2, 2]


def test_a_case_without_any_modality_is_refused_and_so_are_other_scales(case, cache):
    neither = replace(case, scans={"FLAIR": case.scans["T1w"]})

    with pytest.raises(CohortError, match="It has no T1w, T2w, only FLAIR"):
        conform_case(neither, EITHER, cache)
    with pytest.raises(ValidationError, match="needs `intensity: robust_scale`"):
        WorkingRule(any_modality=True, intensity="z_score")


def test_what_is_there_decides_what_is_found_in_the_cache(case, two):
    both = WorkingRule(spacing_mm=2.0, modalities=("T1w", "T2w"))
    drawn = case.drawn_in()

    assert cache_key(two, both, drawn) == cache_key(two, EITHER, drawn)
    assert cache_key(case, EITHER, drawn) != cache_key(two, EITHER, drawn)
    assert cache_key(case, EITHER, drawn) != cache_key(case, RULE, drawn)


def test_a_label_map_is_complete_if_only_edges_lack(case, cache):
    assert conform_case(case, WorkingRule(spacing_mm=3.0), cache).is_complete
    image = nibabel.load(case.labels)
    drawn = np.asarray(image.dataobj).copy()
    drawn[:, 4] = -1
    nibabel.save(nibabel.Nifti1Image(drawn, image.affine), case.labels)

    assert not conform_case(case, RULE, cache).is_complete


def test_everything_wrong_with_a_cohort_is_listed_at_once(case, cache, tmp_path):
    affine = np.diag([-2.0, 2.0, 2.0, 1.0])
    for name, data, place in (
        ("values", np.full((8, 9, 10), 7, np.int16), affine),
        ("grid", np.zeros((8, 9, 9), np.int16), affine),
    ):
        nibabel.save(nibabel.Nifti1Image(data, place), tmp_path / f"{name}.nii")
    (tmp_path / "damaged.nii").write_bytes(b"no image")
    scans = case.scans
    cases = [
        case,
        Case("values", "b", "b", scans, tmp_path / "values.nii", "tissue3"),
        Case("grid", "c", "c", scans, tmp_path / "grid.nii", "tissue3"),
        Case("damaged", "d", "d", {"T1w": tmp_path / "damaged.nii"}),
        Case("modality", "e", "e", {"T2w": scans["T1w"]}),
        Case("nameless", "f", "f", scans, case.labels),
    ]

    with pytest.raises(CohortError) as refusal:
        conform_cases(cases, RULE, cache)

    text = str(refusal.value)
    assert "has 5 problems" in text
    assert "values.nii holds 1 values that protocol 'tissue3' lacks: 7 (720 voxels)" in text
    assert "8x9x10 voxels of 2x2x2 mm against 8x9x9" in text
    assert "damaged: " in text
    assert "modality: It has no T1w, only T2w" in text
    assert "nameless: It has labels, but nothing says in which protocol" in text


def grid(n, spacing, origin=0.0):
    affine = np.diag([spacing, 1.0, 1.0, 1.0])
    affine[0, 3] = origin
    return Grid((n, 1, 1), affine)


def on(row, target, tissue):
    source = LabelMap(np.array(row, dtype=np.int16)[:, None, None], grid(len(row), 1.0), tissue)
    return labels_on(source, target).data[:, 0, 0].tolist()


def test_labels_go_to_the_nearest_voxel(tissue):
    assert on([1, 2, 3], grid(3, 1.0, origin=0.3), tissue) == [1, 2, 3]
    assert on([1, 2], grid(4, 0.5, origin=-0.25), tissue) == [1, 1, 2, 2]


def test_larger_voxels_get_the_label_of_most_of_what_they_cover(tissue):
    assert on([1, 1, 2, 3, 3, 3], grid(2, 3.0, origin=1.0), tissue) == [1, 3]


def test_beyond_the_map_nobody_has_looked(tissue):
    assert on([1, 2], grid(4, 1.0, origin=-1.0), tissue) == [-1, 1, 2, -1]


def test_a_large_voxel_is_unlabeled_if_most_of_it_is(tissue):
    coarse = grid(2, 3.0, origin=1.0)

    assert on([-1, -1, 2, 2, -1, 2], coarse, tissue) == [-1, 2]


def test_half_a_voxel_that_was_looked_at_is_enough(tissue):
    assert on([-1, 2], grid(1, 2.0, origin=0.5), tissue) == [2]


@pytest.mark.parametrize("spacing_mm", [4, 6])
def test_voxels_that_cover_many_get_the_label_of_most(spacing_mm, tissue):
    data = np.full((24, 24, 24), 2, np.int16)
    data[:12] = 1
    source = LabelMap(data, Grid((24, 24, 24), np.eye(4)), tissue)
    n = 24 // spacing_mm
    affine = np.diag([*[float(spacing_mm)] * 3, 1.0])
    affine[:3, 3] = (spacing_mm - 1) / 2

    found = labels_on(source, Grid((n, n, n), affine)).data

    assert (found[: n // 2] == 1).all()
    assert (found[n // 2 :] == 2).all()
