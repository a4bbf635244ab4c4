"""A DICOM folder is converted by dcm2niix, or refused with a way out."""

import importlib.util
import sys
import types

import numpy as np
import pytest

from fewlabel.errors import ScanError
from fewlabel.info import describe_scan
from fewlabel.io import read_scan

INSTALLED = all(importlib.util.find_spec(name) for name in ("dcm2niix", "pydicom"))
needs_dicom = pytest.mark.skipif(not INSTALLED, reason="dcm2niix and pydicom are not installed")


def write_series(folder, data, *, number=1):
    """Axial slices of 2x2 mm, 3 mm apart, as a scanner would store them (LPS)."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    folder.mkdir(exist_ok=True)
    series = generate_uid()
    for k in range(data.shape[2]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = MRImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        slice_ = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
        slice_.SOPClassUID, slice_.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
        slice_.Modality, slice_.Manufacturer = "MR", "SIEMENS"
        slice_.StudyInstanceUID, slice_.SeriesInstanceUID = "1.2.3", series
        slice_.SeriesNumber, slice_.InstanceNumber, slice_.AcquisitionNumber = number, k + 1, 1
        slice_.PatientID, slice_.StudyDate, slice_.StudyTime = "nobody", "20200101", "120000"
        slice_.ImagePositionPatient = [-10, -20, 3 * k]
        slice_.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        slice_.PixelSpacing, slice_.SliceThickness = [2, 2], 3
        slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
        slice_.Rows, slice_.Columns = data.shape[1], data.shape[0]
        slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit = 16, 16, 15
        slice_.PixelRepresentation = 1
        slice_.PixelData = data[:, :, k].T.astype("<i2").tobytes()
        slice_.save_as(folder / f"{number}-{k}.dcm", enforce_file_format=True)


def noise(shape):
    return np.random.default_rng(0).integers(0, 500, shape).astype(np.int16)


@needs_dicom
def test_a_series_is_read_with_every_voxel_in_its_place(tmp_path):
    data = noise((12, 10, 8))
    write_series(tmp_path / "dicom", data)
    scan = read_scan(tmp_path / "dicom")
    assert scan.data.shape == (12, 10, 8)
    assert "Converted from the DICOM folder" in scan.notes[0]
    # Pixel (2, 3) of slice 4 lies at LPS (-10 + 2*2, -20 + 3*2, 3*4), in RAS (6, 14, 12).
    index = np.linalg.inv(scan.grid.affine) @ [6, 14, 12, 1]
    i, j, k = np.rint(index[:3]).astype(int)
    assert scan.data[i, j, k] == data[2, 3, 4]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dicom"]


@needs_dicom
def test_info_of_a_series_is_about_the_converted_scan(tmp_path):
    write_series(tmp_path / "dicom", noise((12, 10, 8)))
    report = describe_scan(tmp_path / "dicom")
    assert report.refusal is None
    assert report.path == str(tmp_path / "dicom")
    assert report.spacing == pytest.approx((2, 2, 3))


@needs_dicom
def test_two_series_in_one_folder_are_refused(tmp_path):
    write_series(tmp_path, noise((12, 10, 8)), number=1)
    write_series(tmp_path, noise((12, 10, 8)), number=7)
    with pytest.raises(ScanError, match=r"holds 2 volumes \(series 1, 7\); needed is one"):
        read_scan(tmp_path)


@needs_dicom
def test_a_folder_without_dicom_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(ScanError, match="holds no DICOM series that dcm2niix can convert"):
        read_scan(tmp_path)
    assert "holds no DICOM series" in (describe_scan(tmp_path).refusal or "")


def test_without_dcm2niix_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "dcm2niix", None)
    with pytest.raises(ScanError, match=r"fewlabel\[dicom\]"):
        read_scan(tmp_path)


def test_a_dcm2niix_that_does_not_run_is_told(tmp_path, monkeypatch):
    broken = types.SimpleNamespace(bin=str(tmp_path / "gone"))
    monkeypatch.setitem(sys.modules, "dcm2niix", broken)
    with pytest.raises(ScanError, match="dcm2niix could not convert"):
        read_scan(tmp_path)


def test_what_dcm2niix_says_need_not_be_utf_8(tmp_path, monkeypatch):
    program = tmp_path / "dcm2niix"
    program.write_text("#!/bin/sh\nprintf 'Patient M\\374ller' >&2\n")
    program.chmod(0o755)
    monkeypatch.setitem(sys.modules, "dcm2niix", types.SimpleNamespace(bin=str(program)))
    with pytest.raises(ScanError, match="it said: Patient M\ufffdller"):
        read_scan(tmp_path)
