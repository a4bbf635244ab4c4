import nibabel
import numpy as np
import pytest

from fewlabel.errors import CohortError
from fewlabel.heads import read_heads
from fewlabel.labels import load_protocol
from fewlabel.palette import load_palette

PALETTE = load_palette("aseg", load_protocol("aseg32"))


def save(folder, affine, *, shape=(30, 30, 30), name="sub-1"):
    """A head with a left thalamus near one corner; `affine` says where that is."""
    data = np.full(shape, 511, dtype=np.int16)
    data[5:9, 6:10, 7:11] = 10
    nibabel.save(nibabel.Nifti1Image(data, affine), folder / f"{name}_dseg.nii.gz")


def thalamus(heads):
    row = int(np.flatnonzero(PALETTE.values == 10)[0])
    return np.argwhere(heads.rows[0].numpy() == row)


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (-1, 1, -1)])
def test_the_brain_comes_to_the_middle_upright_whatever_the_orientation(tmp_path, signs):
    save(tmp_path, np.diag([*signs, 1.0]))
    heads = read_heads(tmp_path, PALETTE, (16.0, 16.0, 16.0))

    assert heads.rows.shape == (1, 32, 32, 32)  # 16 mm and a margin of 8 on each side
    where = thalamus(heads)
    assert len(where) == 4 * 4 * 4
    assert where.min(axis=0) == pytest.approx([15, 15, 15], abs=1)


def test_every_second_voxel_serves_images_of_four_millimeters(tmp_path):
    save(tmp_path, np.eye(4))
    heads = read_heads(tmp_path, PALETTE, (16.0, 16.0, 16.0))

    assert heads.for_spacing(2.0).rows.shape == (1, 32, 32, 32)
    assert heads.for_spacing(4.0).rows.shape == (1, 16, 16, 16)
    assert heads.for_spacing(4.0).spacing_mm == 2.0


def test_a_folder_without_label_maps_is_refused(tmp_path):
    with pytest.raises(CohortError, match=r"holds no \*_dseg\.nii\.gz"):
        read_heads(tmp_path, PALETTE, (16.0, 16.0, 16.0))


def test_label_maps_of_different_voxel_size_are_refused(tmp_path):
    save(tmp_path, np.eye(4))
    save(tmp_path, np.diag([2.0, 2.0, 2.0, 1.0]), name="sub-2")

    with pytest.raises(CohortError, match=r"voxels of \[1\.0, 2\.0\] mm"):
        read_heads(tmp_path, PALETTE, (16.0, 16.0, 16.0))
