"""Scans and label maps there and back: numbers, places, types, and nothing half written."""

import errno
import gzip
import os
import stat
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.freesurfer.mghformat import MGHImage

import fewlabel.whole
from fewlabel.errors import GridMismatch, OutputError, ProtocolError
from fewlabel.grid import Grid
from fewlabel.io import read_labels, read_scan, write_labels, write_text, write_whole
from fewlabel.labels import Label, LabelProtocol
from fewlabel.volume import LabelMap

NUMBER_TYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8", ">i2", ">f4"]
OBLIQUE = np.array(
    [[-0.8, 0.0, 0.6, 10.0], [0.0, 1.0, 0.0, -20.0], [0.6, 0.0, 0.8, 5.5], [0, 0, 0, 1]]
)


def noise(dtype=np.int16, shape=(7, 6, 5)):
    return np.random.default_rng(0).integers(0, 120, shape).astype(dtype)


def saved(path, data, affine=OBLIQUE, kind=nibabel.Nifti1Image):
    image = MGHImage(data, affine) if kind is MGHImage else kind(data, affine, dtype=data.dtype)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("dtype", NUMBER_TYPES)
def test_every_number_type_reads_as_nibabel_reads_it(tmp_path, dtype, kind, name):
    image = kind(noise(dtype), OBLIQUE, dtype=np.dtype(dtype))
    if dtype.startswith(">"):
        image = kind(image.dataobj, OBLIQUE, image.header.as_byteswapped(">"))
    nibabel.save(image, tmp_path / name)
    scan = read_scan(tmp_path / name)
    assert scan.data.dtype == np.float32
    np.testing.assert_array_equal(scan.data, noise())
    np.testing.assert_array_equal(scan.grid.affine, nibabel.load(tmp_path / name).affine)
    assert scan.notes == ()


@pytest.mark.parametrize("name", ["scan.mgh", "scan.mgz"])
@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "f4"])
def test_freesurfer_files_read_as_nibabel_reads_them(tmp_path, dtype, name):
    saved(tmp_path / name, noise(dtype), kind=MGHImage)
    scan = read_scan(tmp_path / name)
    np.testing.assert_array_equal(scan.data, noise())
    np.testing.assert_allclose(scan.grid.affine, OBLIQUE, atol=1e-5)


def test_stored_numbers_are_scaled_by_the_header(tmp_path):
    header = nibabel.Nifti1Header()
    header.set_data_shape((7, 6, 5))
    header.set_data_dtype(np.int16)
    header.set_sform(OBLIQUE, 1)
    header["scl_slope"], header["scl_inter"], header["vox_offset"] = 0.5, -3, 352
    block = header.binaryblock + bytes(4) + noise().tobytes(order="F")
    (tmp_path / "scan.nii").write_bytes(block)
    data = read_scan(tmp_path / "scan.nii").data
    assert data.dtype == np.float32
    np.testing.assert_array_equal(data, noise() * 0.5 - 3)


def test_a_slope_of_zero_means_unscaled(tmp_path):
    path = saved(tmp_path / "scan.nii", noise())
    block = bytearray(path.read_bytes())
    block[112:120] = np.array([0, 7], "<f4").tobytes()
    path.write_bytes(block)
    scan = read_scan(path)
    np.testing.assert_array_equal(scan.data, noise())
    assert scan.notes == ("scl_slope is 0, so scl_inter (7) is not used.",)


def test_one_volume_in_4d_loses_its_fourth_axis(tmp_path):
    path = saved(tmp_path / "scan.nii.gz", noise(shape=(7, 6, 5, 1)))
    assert read_scan(path).data.shape == (7, 6, 5)


def test_a_gzip_file_is_known_by_its_content(tmp_path):
    path = saved(tmp_path / "scan.nii.gz", noise())
    path.rename(tmp_path / "scan.nii")
    np.testing.assert_array_equal(read_scan(tmp_path / "scan.nii").data, noise())


def test_without_codes_the_place_is_guessed_as_nibabel_does_and_the_note_says_so(tmp_path):
    image = nibabel.Nifti1Image(noise(), None)
    image.header.set_zooms((2, 1, 3))
    nibabel.save(image, tmp_path / "scan.nii")
    scan = read_scan(tmp_path / "scan.nii")
    np.testing.assert_allclose(scan.grid.affine, nibabel.load(tmp_path / "scan.nii").affine)
    assert "left and right may be exchanged" in scan.notes[0]


def test_labels_become_classes_and_minus_one_stays(tmp_path, tissue):
    stored = np.array([[[0, 10], [20, 30]], [[-1, 30], [10, 0]]], dtype=np.int16)
    for dtype in ("i2", "i4", "i8", "f4", "f8"):
        path = saved(tmp_path / "seg.nii.gz", stored.astype(dtype).repeat(2, 0))
        read = read_labels(path, tissue).data
        assert read.dtype == np.int16
        expected = np.array([[[0, 1], [2, 3]], [[-1, 3], [1, 0]]]).repeat(2, 0)
        np.testing.assert_array_equal(read, expected)


def test_values_the_protocol_lacks_are_refused_by_number_and_count(tmp_path, tissue):
    stored = np.full((2, 2, 2), 10, dtype=np.int32)
    stored[0, 0] = 99
    stored[1, 1, 1] = 70_000
    path = saved(tmp_path / "seg.nii", stored)
    with pytest.raises(ProtocolError) as refusal:
        read_labels(path, tissue)
    assert "seg.nii holds 2 values that protocol 'tissue' lacks" in refusal.value.what
    assert "99 (2 voxels), 70000 (1 voxels)" in refusal.value.what
    loose = read_labels(path, tissue, strict=False).data
    np.testing.assert_array_equal(loose, np.where(stored == 10, 1, 0))


def test_stray_values_of_a_protocol_are_read_as_unannotated(tmp_path):
    protocol = LabelProtocol("one", (Label(17, "Left-Hippocampus"),), strays=(74,))
    stored = np.array([[[0, 17], [74, 17]]] * 2, dtype=np.uint8)
    read = read_labels(saved(tmp_path / "seg.nii", stored), protocol).data
    np.testing.assert_array_equal(read, [[[0, 1], [-1, 1]]] * 2)


def test_fractions_are_no_labels(tmp_path, tissue):
    stored = np.full((2, 2, 2), 10, dtype=np.float32)
    stored[1, 0, 1] = 9.5
    with pytest.raises(ProtocolError, match=r"1 of its 8 voxels are not whole numbers, .* 9\.5"):
        read_labels(saved(tmp_path / "seg.nii", stored), tissue)


def labels_on(grid, protocol, *, unlabeled=False):
    data = np.zeros(grid.shape, dtype=np.int16)
    data[1:3] = 2
    data[3, 1:] = 3
    data[0] = -1 if unlabeled else 1
    return LabelMap(data, grid, protocol)


@pytest.mark.parametrize("name", ["seg.nii", "seg.nii.gz"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("codes", [(1, 1), (4, 0), (0, 1), (2, 3), (0, 0)])
def test_labels_are_written_on_exactly_the_scan_s_grid(tmp_path, tissue, codes, kind, name):
    image = kind(noise(), OBLIQUE)
    image.header.set_sform(OBLIQUE, codes[0])
    image.header.set_qform(OBLIQUE, codes[1])
    image.to_filename(tmp_path / "scan.nii.gz")
    labels = labels_on(read_scan(tmp_path / "scan.nii.gz").grid, tissue)
    write_labels(labels, tmp_path / name, like=tmp_path / "scan.nii.gz")
    was, now = nibabel.load(tmp_path / "scan.nii.gz"), nibabel.load(tmp_path / name)
    assert type(was) is type(now)
    np.testing.assert_array_equal(was.affine, now.affine)
    for key in ("sform_code", "qform_code", "pixdim", "srow_x", "qoffset_x", "quatern_b"):
        np.testing.assert_array_equal(was.header[key], now.header[key])
    assert now.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asanyarray(now.dataobj), tissue.values[labels.data])
    np.testing.assert_array_equal(read_labels(tmp_path / name, tissue).data, labels.data)


def test_a_big_endian_scan_gets_labels_in_the_same_place(tmp_path, tissue):
    header = nibabel.Nifti1Header(endianness=">")
    nibabel.save(nibabel.Nifti1Image(noise(), OBLIQUE, header), tmp_path / "scan.nii")
    scan = read_scan(tmp_path / "scan.nii")
    labels = labels_on(scan.grid, tissue, unlabeled=True)
    write_labels(labels, tmp_path / "seg.nii", like=tmp_path / "scan.nii")
    now = read_labels(tmp_path / "seg.nii", tissue)
    np.testing.assert_array_equal(now.grid.affine, scan.grid.affine)
    np.testing.assert_array_equal(now.data, labels.data)


def test_labels_of_a_freesurfer_scan_are_nifti_in_the_same_place(tmp_path, tissue):
    path = saved(tmp_path / "scan.mgz", noise(), kind=MGHImage)
    labels = labels_on(read_scan(path).grid, tissue)
    write_labels(labels, tmp_path / "seg.nii.gz", like=path)
    now = nibabel.load(tmp_path / "seg.nii.gz")
    np.testing.assert_allclose(now.affine, nibabel.load(path).affine, atol=1e-5)
    assert (now.header["sform_code"], now.header["qform_code"]) == (1, 1)
    assert read_scan(path).grid.matches(read_labels(tmp_path / "seg.nii.gz", tissue).grid)


def test_the_smallest_type_that_holds_the_protocol_is_written(tmp_path, tissue):
    grid = Grid((5, 4, 3), OBLIQUE)
    large = LabelProtocol("large", (Label(10, "a"), Label(255, "b"), Label(256, "c")))
    for protocol, unlabeled, expected in (
        (tissue, False, np.uint8),
        (tissue, True, np.int16),
        (large, False, np.int16),
    ):
        labels = labels_on(grid, protocol, unlabeled=unlabeled)
        write_labels(labels, tmp_path / "seg.nii.gz")
        assert nibabel.load(tmp_path / "seg.nii.gz").get_data_dtype() == expected
        now = read_labels(tmp_path / "seg.nii.gz", protocol)
        np.testing.assert_array_equal(now.data, labels.data)
        assert now.grid.matches(grid)


def test_an_axis_beyond_nifti_1_is_written_as_nifti_2(tmp_path, tissue):
    labels = labels_on(Grid((40_000, 2, 2), np.eye(4)), tissue)
    write_labels(labels, tmp_path / "seg.nii.gz")
    assert isinstance(nibabel.load(tmp_path / "seg.nii.gz"), nibabel.Nifti2Image)
    assert read_labels(tmp_path / "seg.nii.gz", tissue).grid.shape == (40_000, 2, 2)


def test_labels_on_another_grid_than_their_scan_are_refused(tmp_path, tissue):
    path = saved(tmp_path / "scan.nii", noise())
    with pytest.raises(GridMismatch, match=r"labels are on 5x4x3 voxels .* is on 7x6x5 voxels"):
        write_labels(labels_on(Grid((5, 4, 3), OBLIQUE), tissue), tmp_path / "seg.nii", like=path)
    assert [p.name for p in tmp_path.iterdir()] == ["scan.nii"]


def test_labels_are_nifti_or_nothing(tmp_path, tissue):
    with pytest.raises(OutputError, match=r"seg\.mgz: they are written as \.nii or \.nii\.gz"):
        write_labels(labels_on(Grid((5, 4, 3), OBLIQUE), tissue), tmp_path / "seg.mgz")


def test_the_same_labels_give_the_same_bytes(tmp_path, tissue):
    labels = labels_on(Grid((5, 4, 3), OBLIQUE), tissue)
    write_labels(labels, tmp_path / "a.nii.gz")
    write_labels(labels, tmp_path / "b.nii.gz")
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    assert len(gzip.decompress((tmp_path / "a.nii.gz").read_bytes())) == 352 + 60


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    target = tmp_path / "deep" / "er" / "report.txt"
    with write_whole(target) as draft:
        assert draft.parent == target.parent
        assert draft.suffix == ".txt"
        draft.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    assert list(target.parent.iterdir()) == [target]


def test_a_failure_half_way_leaves_the_old_file(tmp_path):
    target = tmp_path / "report.txt"
    write_text(target, "old")

    def fail():
        with write_whole(target) as draft:
            draft.write_text("half")
            raise KeyError("bug")

    with pytest.raises(KeyError):
        fail()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_an_error_about_another_file_is_not_blamed_on_the_output(tmp_path):
    def read_something_else():
        with write_whole(tmp_path / "out.txt"):
            (tmp_path / "missing").read_text()

    with pytest.raises(FileNotFoundError):
        read_something_else()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "the disk is full"), (errno.EACCES, "the folder cannot be written to")],
)
def test_a_full_or_closed_disk_is_told_and_nothing_is_left(tmp_path, monkeypatch, number, words):
    def refuse(_handle):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fewlabel.whole.os, "fsync", refuse)
    with pytest.raises(OutputError, match=f"out.txt: {words}") as refusal:
        write_text(tmp_path / "out.txt", "text")
    assert "--out" in refusal.value.fix
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_that_knows_no_fsync_of_folders_is_no_hindrance(tmp_path, monkeypatch):
    def refuse_folders(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(fewlabel.whole.os, "fsync", refuse_folders)

    write_text(tmp_path / "out.txt", "text")

    assert (tmp_path / "out.txt").read_text() == "text"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_fills_up_while_writing_is_told(tmp_path):
    def fill():
        with write_whole(tmp_path / "out.bin") as draft:
            draft.unlink()
            draft.symlink_to("/dev/full")
            draft.write_bytes(bytes(100_000))

    with pytest.raises(OutputError, match="the disk is full"):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_output_folder_is_told(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match="a file is where a folder is needed"):
        write_text(tmp_path / "out" / "seg.txt", "text")
