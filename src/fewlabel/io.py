"""Scans and label maps from files and to files. Left is left: a grid is never guessed twice."""

from pathlib import Path

import numpy as np
from isal import isal_zlib
from jaxtyping import Int16, Shaped
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header

from fewlabel.checks import (
    check_header,
    check_intensities,
    clean,
    has_shear,
    header_notes,
)
from fewlabel.dicom import converted
from fewlabel.errors import GridMismatch, OutputError, ProtocolError
from fewlabel.grid import Grid
from fewlabel.header import nifti_header
from fewlabel.labels import UNLABELED, LabelProtocol
from fewlabel.volume import LabelMap, Scan
from fewlabel.voxels import GZIP, is_scaled, read_block, read_header, read_stored, scaled
from fewlabel.whole import make_folder, write_bytes, write_text, write_whole

__all__ = [
    "make_folder",
    "read_labels",
    "read_scan",
    "write_bytes",
    "write_labels",
    "write_text",
    "write_whole",
]

_UNKNOWN = -2
_BELOW, _ABOVE = -(2**15) - 1, 2**15
"""Just outside of what a protocol can hold; everything beyond is brought there."""


def read_scan(path: Path) -> Scan:
    """Read one 3D scan on its own grid, in its own orientation.

    Args:
        path: A NIfTI-1, NIfTI-2 or MGH file, gzipped or not, or a folder with one DICOM
            series (needs the extra `dicom`).

    Returns:
        Intensities as float32 and what was odd in the file, in `notes`.

    Raises:
        ScanError: If the file is missing, damaged, not an image, not one 3D volume, without
            a believable place in space, or without a picture in it.
    """
    if path.is_dir():
        with converted(path) as file:
            scan = read_scan(file)
        note = f"Converted from the DICOM folder {path} with dcm2niix."
        return Scan(scan.data, scan.grid, (note, *scan.notes))
    header = read_header(path)
    grid = check_header(header, as_scan=True)
    data = scaled(read_stored(header), header)
    notes = (*header_notes(header), *clean(data, str(path)))
    check_intensities(data, str(path))
    return Scan(data, grid, notes)


def read_labels(path: Path, protocol: LabelProtocol, *, strict: bool = True) -> LabelMap:
    """Read a label map whose numbers mean what a protocol says.

    Args:
        path: A NIfTI or MGH file of whole numbers, stored as integers or not; -1 marks
            voxels that nobody has looked at.
        protocol: What the numbers mean.
        strict: Whether to refuse numbers that the protocol lacks; otherwise they become
            background.

    Raises:
        ScanError: If the file cannot be read or has no believable place in space.
        ProtocolError: If it holds fractions, or numbers that the protocol lacks.
    """
    header = read_header(path)
    grid = check_header(header, as_scan=False)
    stored = read_stored(header)
    if is_scaled(header):
        stored = scaled(stored, header)
    _check_whole_numbers(stored, path)
    classes = _to_classes(stored, protocol)
    if strict:
        _check_known(classes, stored, protocol, path)
    classes[classes == _UNKNOWN] = 0
    return LabelMap(classes, grid, protocol)


def write_labels(labels: LabelMap, path: Path, *, like: Path | None = None) -> None:
    """Write a label map as NIfTI, whole or not at all, in the smallest type that holds it.

    Args:
        labels: Classes; the file gets the protocol's values, and -1 where nobody has looked.
        path: Ends in .nii or .nii.gz.
        like: The scan that the labels belong to. If it is NIfTI, the file gets its sform,
            qform, codes, units and NIfTI version to the last bit.

    Raises:
        GridMismatch: If `like` is on another grid than the labels.
        OutputError: If `path` cannot be written or has another ending.
    """
    if not path.name.endswith((".nii", ".nii.gz")):
        raise OutputError(
            f"Cannot write labels to {path}: they are written as .nii or .nii.gz.",
            fix="give the output one of these endings.",
        )
    values = _to_values(labels)
    header = _header_like(labels.grid, like)
    header.set_data_shape(values.shape)
    header.set_data_dtype(values.dtype)
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["cal_min"] = header["cal_max"] = 0
    header.set_intent("label", name=labels.protocol.name[:15])
    header["descrip"] = b"fewlabel"
    header["vox_offset"] = offset = 544 if isinstance(header, Nifti2Header) else 352
    content = header.binaryblock.ljust(offset, b"\0") + values.tobytes(order="F")
    write_bytes(path, isal_zlib.compress(content, 2, GZIP) if path.suffix == ".gz" else content)


def _to_classes(
    stored: Shaped[np.ndarray, "i j k"], protocol: LabelProtocol
) -> Int16[np.ndarray, "i j k"]:
    """Classes by look-up; `_UNKNOWN` where the protocol lacks the number."""
    table = np.full(_ABOVE - _BELOW + 1, _UNKNOWN, dtype=np.int16)
    for value, number in protocol.class_by_value.items():
        table[value - _BELOW] = number
    table[UNLABELED - _BELOW] = UNLABELED
    low, high = _BELOW, _ABOVE
    if stored.dtype.kind in "iu":
        limits = np.iinfo(stored.dtype)
        low, high = max(low, limits.min), min(high, limits.max)
    classes: np.ndarray = table[np.clip(stored, low, high).astype(np.int32) - _BELOW]
    return classes


def _check_whole_numbers(stored: Shaped[np.ndarray, "i j k"], path: Path) -> None:
    if stored.dtype.kind != "f":
        return
    fractions = stored[stored != np.rint(stored)]
    if fractions.size:
        raise ProtocolError(
            f"{path} is no label map: {fractions.size} of its {stored.size} voxels are not whole"
            f" numbers, the first {fractions[0]:g}.",
            fix="give the label map; if it was resampled, do that with nearest neighbors.",
        )


def _check_known(
    classes: Int16[np.ndarray, "i j k"],
    stored: Shaped[np.ndarray, "i j k"],
    protocol: LabelProtocol,
    path: Path,
) -> None:
    unknown = stored[classes == _UNKNOWN]
    if not unknown.size:
        return
    values, counts = np.unique(unknown, return_counts=True)
    listed = [f"{value:g} ({n} voxels)" for value, n in zip(values, counts, strict=True)]
    more = f" and {len(listed) - 10} more" if len(listed) > 10 else ""
    raise ProtocolError(
        f"{path} holds {len(listed)} values that protocol {protocol.name!r} lacks:"
        f" {', '.join(listed[:10])}{more}.",
        fix="name the protocol that the file was made with, or add these values to it.",
    )


def _to_values(labels: LabelMap) -> Shaped[np.ndarray, "i j k"]:
    """The protocol's values: uint8 where they fit and nothing is -1, otherwise int16."""
    entries = np.append(labels.protocol.values, np.int16(UNLABELED))
    low = min(int(entries[:-1].min()), UNLABELED if (labels.data < 0).any() else 0)
    small = low >= 0 and entries.max() <= 255
    table = entries.astype(np.uint8) if small else entries
    values: np.ndarray = table[labels.data]
    return values


def _header_like(grid: Grid, like: Path | None) -> Nifti1Header:
    """A little-endian header with the sform, qform, codes and units of `like`, or new ones."""
    if like is not None and like.is_file():
        own = check_header(read_header(like), as_scan=False)
        if not grid.matches(own):
            raise GridMismatch(
                f"The labels are on {grid}, but {like} is on {own}.",
                fix="give the scan that the labels were made for.",
            )
        header = nifti_header(read_block(like), like)
        if header is not None:
            return header.as_byteswapped("<")
    header = (Nifti2Header if max(grid.shape) > 32767 else Nifti1Header)(endianness="<")
    header.set_data_shape(grid.shape)
    code = 2 if like is None else 1  # 1: where the scanner saw it, which MGH and DICOM mean
    header.set_qform(grid.affine, 0 if has_shear(grid.affine) else code)
    header.set_sform(grid.affine, code)
    header.set_xyzt_units("mm")
    return header
