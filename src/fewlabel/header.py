"""What a NIfTI or MGH file says about itself, as it says it. Judging that is `checks`' work."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from nibabel.freesurfer.mghformat import MGHHeader
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError

from fewlabel.errors import ScanError

HEADER_BYTES = 540
"""Enough of a file's beginning to read any of the headers."""

_MGH_DATA_OFFSET = 284
_MGH_TYPES = {0: "u1", 1: "i4", 3: "f4", 4: "i2", 10: "u2"}
_NIFTI_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2"}
_NIFTI_TYPES |= {768: "u4", 1024: "i8", 1280: "u8"}
_UNUSABLE_TYPES = {
    1: "1-bit binary",
    32: "complex64",
    128: "RGB color (RGB24)",
    1536: "float128",
    1792: "complex128",
    2048: "complex256",
    2304: "RGB color (RGBA32)",
}
_UNITS = {0: "unknown", 1: "m", 2: "mm", 3: "um"}
_SIGNATURES = {
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"\x89HDF": "an HDF5 or MINC file",
    b"NRRD": "an NRRD file",
    b"PK\x03\x04": "a zip archive",
    b"%PDF": "a PDF document",
    b"version ": "a text file, perhaps a pointer of git-lfs to a file not yet fetched",
}
_FORMATS = "a NIfTI-1, NIfTI-2 or MGH file (.nii, .nii.gz, .mgh, .mgz)"


@dataclass(frozen=True, eq=False)
class FileHeader:
    """The header of one file, unjudged: nothing in it can be trusted yet.

    Attributes:
        path: The file.
        format: "NIfTI-1", "NIfTI-2" or "MGH".
        compressed: Whether the file is a gzip stream.
        file_bytes: Size of the file on disk.
        shape: Lengths of all axes that the header names, time and others included.
        dtype: Type of the stored numbers, or None if they are no plain numbers.
        type_name: The same in words.
        offset: Where the voxels begin, in bytes of the uncompressed file.
        slope: Stored numbers times this, plus `inter`, are the intensities.
        inter: See `slope`.
        unit: Unit of length: "mm", "m", "um", "unknown", or another code as text.
        pixdim: Voxel sizes that the header states beside the affine, in `unit`.
        affine: Voxel index to world position, in `unit`, RAS+; NaN where it has none.
        affine_from: Where `affine` is from: "sform", "qform", "voxel sizes" or "MGH header".
        sform_code: As in the file; 0 for MGH.
        qform_code: As in the file; 0 for MGH.
        qform: The quaternion's affine, None if it is not set or makes no sense.
        oddities: What was mended while reading the header, as sentences.
    """

    path: Path
    format: str
    compressed: bool
    file_bytes: int
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic] | None
    type_name: str
    offset: float
    slope: float
    inter: float
    unit: str
    pixdim: tuple[float, ...]
    affine: Float64[np.ndarray, "4 4"]
    affine_from: str
    sform_code: int = 0
    qform_code: int = 0
    qform: Float64[np.ndarray, "4 4"] | None = None
    oddities: tuple[str, ...] = ()

    @property
    def spacing(self) -> tuple[float, ...]:
        """Distance between neighboring voxel centers along i, j, k by the affine, in `unit`."""
        with np.errstate(all="ignore"):
            return tuple(float(s) for s in np.linalg.norm(self.affine[:3, :3], axis=0))


def parse_header(block: bytes, path: Path, *, compressed: bool, file_bytes: int) -> FileHeader:
    """Read the header at the beginning of a file, whatever the file's name ends in.

    Args:
        block: The first bytes, uncompressed; `HEADER_BYTES` of them if there are as many.
        path: The file, for messages.
        compressed: Whether `block` came out of a gzip stream.
        file_bytes: Size of the file on disk.

    Raises:
        ScanError: If the bytes are not the header of an image.
    """
    nifti = nifti_header(block, path)
    if nifti is not None:
        return _from_nifti(nifti, path, compressed, file_bytes)
    if path.name.lower().endswith((".mgh", ".mgz", ".mgh.gz")) and block[:4] == b"\0\0\0\1":
        return _from_mgh(block, path, compressed, file_bytes)
    raise ScanError(
        f"{path} is not an image that fewlabel reads: it is {_what_it_is(block)};"
        f" needed is {_FORMATS}.",
        fix="convert it to .nii.gz first, for example with `mri_convert` or `dcm2niix`.",
    )


def nifti_header(block: bytes, path: Path) -> Nifti1Header | None:
    """The raw NIfTI-1 or NIfTI-2 header at the beginning of a file, or None if it has neither.

    Raises:
        ScanError: If it is cut short, or belongs to a pair of files (.hdr and .img).
    """
    sizes = {order: int.from_bytes(block[:4], order) for order in ("little", "big")}
    for order, size in sizes.items():
        if size not in (348, 540):
            continue
        if len(block) < size:
            raise ScanError(
                f"{path} is cut short: its header takes {size} bytes and only {len(block)}"
                " are there.",
                fix="copy or download the file again.",
            )
        magic = block[344:348] if size == 348 else block[4:8]
        if magic not in (b"n+1\0", b"n+2\0"):
            raise ScanError(
                f"{path} is a header whose voxels lie in another file (.hdr and .img),"
                f" or an Analyze file without an orientation; needed is {_FORMATS}.",
                fix="convert the pair to one .nii.gz file, for example with `mri_convert`.",
            )
        kind = Nifti1Header if size == 348 else Nifti2Header
        return kind(block[:size], endianness="<" if order == "little" else ">", check=False)
    return None


def _from_nifti(raw: Nifti1Header, path: Path, compressed: bool, file_bytes: int) -> FileHeader:
    n_axes = int(raw["dim"][0])
    shape = tuple(int(n) for n in raw["dim"][1 : n_axes + 1]) if 1 <= n_axes <= 7 else ()
    sform_code, qform_code = int(raw["sform_code"]), int(raw["qform_code"])
    qform, oddities = _qform(raw) if qform_code > 0 else (None, ())
    if sform_code > 0:
        affine, affine_from = np.vstack([_rows(raw), [0.0, 0.0, 0.0, 1.0]]), "sform"
    elif qform_code > 0:
        affine, affine_from = np.full((4, 4), np.nan) if qform is None else qform, "qform"
    else:
        affine, affine_from = (
            _by_voxel_sizes(shape, raw["pixdim"][1:4].astype(np.float64)),
            "voxel sizes",
        )
    code = int(raw["datatype"])
    dtype = np.dtype(_NIFTI_TYPES[code]) if code in _NIFTI_TYPES else None
    unit_code = int(raw["xyzt_units"]) & 0x07
    smallest = 544 if isinstance(raw, Nifti2Header) else 352
    offset = float(raw["vox_offset"])
    return FileHeader(
        path=path,
        format="NIfTI-2" if isinstance(raw, Nifti2Header) else "NIfTI-1",
        compressed=compressed,
        file_bytes=file_bytes,
        shape=shape,
        dtype=dtype.newbyteorder(raw.endianness) if dtype else None,
        type_name=dtype.name if dtype else _UNUSABLE_TYPES.get(code, f"unknown (code {code})"),
        offset=offset if offset != 0 else float(smallest),
        slope=float(raw["scl_slope"]),
        inter=float(raw["scl_inter"]),
        unit=_UNITS.get(unit_code, f"code {unit_code}"),
        pixdim=tuple(float(size) for size in raw["pixdim"][1:4]),
        affine=affine,
        affine_from=affine_from,
        sform_code=sform_code,
        qform_code=qform_code,
        qform=qform,
        oddities=oddities,
    )


def _rows(raw: Nifti1Header) -> Float64[np.ndarray, "3 4"]:
    return np.array([raw[f"srow_{axis}"] for axis in "xyz"], dtype=np.float64)


def _qform(raw: Nifti1Header) -> tuple[Float64[np.ndarray, "4 4"] | None, tuple[str, ...]]:
    """The quaternion's affine, with pixdim[0] read as the standard's own code reads it."""
    oddities: tuple[str, ...] = ()
    mended = raw.copy()
    handedness = float(raw["pixdim"][0])
    if handedness not in (-1.0, 1.0):
        mended["pixdim"][0] = -1 if handedness < 0 else 1
        oddities = (
            f"pixdim[0], the handedness of the qform, is {handedness:g} where 1 or -1 is"
            f" needed; it is read as {int(mended['pixdim'][0])}.",
        )
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore", RuntimeWarning)
            return np.asarray(mended.get_qform(), dtype=np.float64), oddities
    except (HeaderDataError, ValueError) as problem:
        return None, (*oddities, f"The qform makes no sense ({problem}) and is not used.")


def _by_voxel_sizes(
    shape: tuple[int, ...], sizes: Float64[np.ndarray, "3"]
) -> Float64[np.ndarray, "4 4"]:
    """Axes along x, y, z with the first from right to left and the origin in the middle."""
    steps = np.abs(sizes) * (-1, 1, 1)
    lengths = np.array([*shape[:3], 1, 1, 1][:3], dtype=np.float64)
    affine = np.diag([*steps, 1.0])
    with np.errstate(all="ignore"):
        affine[:3, 3] = -steps * (lengths - 1) / 2
    return affine


def _from_mgh(block: bytes, path: Path, compressed: bool, file_bytes: int) -> FileHeader:
    if len(block) < _MGH_DATA_OFFSET:
        raise ScanError(
            f"{path} is cut short: its header takes {_MGH_DATA_OFFSET} bytes and only"
            f" {len(block)} are there.",
            fix="copy or download the file again.",
        )
    with np.errstate(all="ignore"):
        raw = MGHHeader(block[:90], check=False)
        affine = np.asarray(raw.get_affine(), dtype=np.float64)
    shape = tuple(int(n) for n in raw["dims"])
    code = int(raw["type"])
    dtype = np.dtype(_MGH_TYPES[code]) if code in _MGH_TYPES else None
    oddities: tuple[str, ...] = ()
    if block[28:30] == b"\0\0":
        oddities = ("The file says that it knows no orientation; coronal slices are assumed.",)
    return FileHeader(
        path=path,
        format="MGH",
        compressed=compressed,
        file_bytes=file_bytes,
        shape=shape[:3] if shape[3] == 1 else shape,
        dtype=dtype.newbyteorder(">") if dtype else None,
        type_name=dtype.name if dtype else f"unknown (code {code})",
        offset=float(_MGH_DATA_OFFSET),
        slope=1.0,
        inter=0.0,
        unit="mm",
        pixdim=tuple(float(size) for size in raw["delta"]),
        affine=affine,
        affine_from="MGH header",
        oddities=oddities,
    )


def _what_it_is(block: bytes) -> str:
    if block[128:132] == b"DICM":
        return "a DICOM file (give the folder of the series instead)"
    for signature, name in _SIGNATURES.items():
        if block.startswith(signature):
            return name
    return f"something that begins with the bytes {block[:8].hex(' ')}"
