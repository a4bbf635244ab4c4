"""Displacement fields and warped scans as NIfTI files.

A field is stored as ITK, ANTs and their relatives read it: shape (i, j, k, 1, 3), intent 1007
(vector), float32, in mm, and along left, back, up (LPS), while `Displacement` holds right,
front, up. It goes from the fixed to the moving scan, affine part included, so that
`antsApplyTransforms -i MOVING -r FIXED -t displacement.nii.gz` gives the warped scan.
"""

import math
from pathlib import Path

import nibabel
import numpy as np
from isal import isal_zlib
from nibabel.filebasedimages import ImageFileError
from nibabel.nifti1 import Nifti1Header

from fewlabel.checks import has_shear
from fewlabel.errors import OutputError, ScanError
from fewlabel.grid import Grid
from fewlabel.volume import Scan
from fewlabel.voxels import GZIP
from fewlabel.warp import Displacement
from fewlabel.whole import write_bytes

_LPS = np.array([-1, -1, 1], dtype=np.float32)
_VECTOR = 1007
_MOST_VOXELS = 2**29


def write_field(field: Displacement, path: Path) -> None:
    """Write a displacement field as a NIfTI vector image for ITK, whole or not at all.

    Raises:
        OutputError: If `path` cannot be written or has another ending than .nii or .nii.gz.
    """
    vectors = (field.mm * _LPS[:, None, None, None]).transpose(1, 2, 3, 0)[:, :, :, None]
    _write(vectors, field.grid, path, _VECTOR)


def write_scan(scan: Scan, path: Path) -> None:
    """Write intensities as a float32 NIfTI image, whole or not at all.

    Raises:
        OutputError: If `path` cannot be written or has another ending than .nii or .nii.gz.
    """
    _write(scan.data, scan.grid, path, 0)


def read_field(path: Path) -> Displacement:
    """Read a displacement field that ITK or `write_field` wrote.

    Raises:
        ScanError: If the file is missing, damaged, or holds no vectors of three numbers.
    """
    try:
        image = nibabel.Nifti1Image.from_filename(path)
    except (OSError, ValueError, ImageFileError) as problem:
        raise ScanError(
            f"Cannot read the displacement field {path}: {problem}.", fix="check the path."
        ) from None
    shape = image.shape
    if len(shape) != 5 or shape[3:] != (1, 3) or int(image.header["intent_code"]) != _VECTOR:
        raise ScanError(
            f"{path} is no displacement field: its shape is {shape} and its intent"
            f" {int(image.header['intent_code'])}; needed are (i, j, k, 1, 3) and {_VECTOR}.",
            fix="give a field that `fewlabel register` or ITK wrote.",
        )
    if math.prod(shape[:3]) > _MOST_VOXELS:
        raise ScanError(f"{path} says it has {shape[:3]} voxels.", fix="check the file.")
    try:
        stored = np.asarray(image.dataobj, dtype=np.float32)
    except (OSError, ValueError, EOFError) as problem:
        raise ScanError(f"{path} is damaged: {problem}.", fix="copy the file again.") from None
    if not np.isfinite(stored).all():
        raise ScanError(
            f"{path} holds numbers that are not finite.", fix="register the two scans again."
        )
    mm = np.ascontiguousarray(stored[:, :, :, 0].transpose(3, 0, 1, 2)) * _LPS[:, None, None, None]
    i, j, k = (int(n) for n in shape[:3])
    return Displacement(mm, Grid((i, j, k), np.asarray(image.affine, dtype=np.float64)))


def _write(data: np.ndarray, grid: Grid, path: Path, intent: int) -> None:
    if not path.name.endswith((".nii", ".nii.gz")):
        raise OutputError(
            f"Cannot write an image to {path}: it is written as .nii or .nii.gz.",
            fix="give the output one of these endings.",
        )
    header = Nifti1Header(endianness="<")
    header.set_data_shape(data.shape)
    header.set_data_dtype(np.float32)
    header.set_qform(grid.affine, 0 if has_shear(grid.affine) else 1)
    header.set_sform(grid.affine, 1)
    header.set_xyzt_units("mm")
    header["intent_code"] = intent
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["descrip"], header["vox_offset"] = b"fewlabel", 352
    voxels = np.ascontiguousarray(data.T, dtype="<f4").tobytes()
    content = header.binaryblock.ljust(352, b"\0") + voxels
    write_bytes(path, isal_zlib.compress(content, 1, GZIP) if path.suffix == ".gz" else content)
