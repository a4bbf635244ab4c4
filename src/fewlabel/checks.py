"""Which headers and intensities are accepted as a scan, and the words when they are not."""

import math
from itertools import product

import numpy as np
from jaxtyping import Float32, Float64

from fewlabel.errors import ScanError
from fewlabel.grid import Grid
from fewlabel.header import FileHeader

MOST_VOXELS = 2**31
SMALLEST_MM, LARGEST_MM = 0.3, 5.0
"""Limits of the spacing of a scan, per axis."""

_ROUNDING = 1e-3
_DEFLATE_AT_BEST = 1032
"""A gzip stream cannot hold more than this many bytes per byte of its own."""
_MOST_BAD_VOXELS = 0.01
_MOST_LABELS = 512
_FLAT = 0.6


def check_header(header: FileHeader, *, as_scan: bool) -> Grid:
    """The grid of a file whose header can be believed, before anything large is allocated.

    Args:
        header: What the file says.
        as_scan: Whether to ask for the spacing of a scan too, 0.3 to 5 mm per axis.

    Raises:
        ScanError: At the first thing in the header that cannot be used.
    """
    _check_type(header)
    _check_shape(header)
    _check_size(header)
    _check_axes(header)
    _check_unit(header)
    if as_scan:
        _check_spacing(header)
    if math.prod(header.spacing) < 1e-6:
        raise _no_place(header)
    i, j, k = header.shape[:3]
    return Grid((i, j, k), header.affine)


def header_notes(header: FileHeader) -> tuple[str, ...]:
    """What is odd in an accepted header and what is done about it, as sentences."""
    notes = list(header.oddities)
    if header.affine_from == "voxel sizes":
        notes.append(
            "The header has no orientation (sform and qform codes are 0); the first axis is taken"
            " to run from right to left, so left and right may be exchanged."
        )
    if header.affine_from == "sform" and header.qform is not None:
        apart_mm = _apart_mm(header.shape, header.affine, header.qform)
        if apart_mm > 0.1:
            notes.append(
                f"The sform and the qform put the same voxel up to {apart_mm:.3g} mm apart;"
                f" the sform is used (code {header.sform_code})."
            )
    if not np.allclose(np.abs(header.pixdim), header.spacing, rtol=0.01, atol=0):
        notes.append(
            f"The header states voxels of {_by(header.pixdim)} mm but its {header.affine_from}"
            f" gives {_by(header.spacing)} mm; the {header.affine_from} is used."
        )
    if has_shear(header.affine):
        notes.append("The axes of the voxels are not at right angles; the shear is kept.")
    if header.slope == 0 and header.inter != 0:
        notes.append(f"scl_slope is 0, so scl_inter ({header.inter:g}) is not used.")
    return tuple(notes)


def has_shear(affine: Float64[np.ndarray, "4 4"]) -> bool:
    """Whether two voxel axes are off the right angle by more than half a degree."""
    axes = _directions(affine)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() > 0.01)


def clean(data: Float32[np.ndarray, "i j k"], name: str) -> tuple[str, ...]:
    """Replace the few voxels that are no numbers, in place.

    Args:
        data: Intensities; changed where they are NaN or infinite.
        name: The file, for messages.

    Returns:
        A sentence if anything was replaced.

    Raises:
        ScanError: If 1 % of the voxels or more are NaN or infinite.
    """
    with np.errstate(all="ignore"):
        if np.isfinite(data.sum(dtype=np.float64)):
            return ()
    bad = ~np.isfinite(data)
    count = int(bad.sum())
    share = count / data.size
    if share >= _MOST_BAD_VOXELS:
        raise ScanError(
            f"{name} has {count} voxels that are NaN or infinite ({100 * share:.3g} %);"
            " fewer than 1 % can be mended.",
            fix="write the scan again from its source; outside the brain use 0, not NaN.",
        )
    darkest = float(data[~bad].min())
    data[bad] = darkest
    return (f"{count} voxels are NaN or infinite; they got the smallest intensity, {darkest:g}.",)


def check_intensities(data: Float32[np.ndarray, "i j k"], name: str) -> None:
    """Refuse what holds numbers but no picture.

    Args:
        data: Finite intensities.
        name: The file, for messages.

    Raises:
        ScanError: If all voxels are equal, or if it is a label map.
    """
    low, high = float(data.min()), float(data.max())
    if low == high:
        raise ScanError(
            f"{name} is constant: each of its {data.size} voxels is {low:g}.",
            fix="check that the right file was given and that it was written in full.",
        )
    n_labels = count_labels(data)
    if n_labels:
        raise ScanError(
            f"{name} looks like a label map: whole numbers only, {n_labels} or more"
            " different ones, in flat patches; needed are the intensities of a scan.",
            fix="give the scan that these labels belong to.",
        )


def count_labels(data: Float32[np.ndarray, "i j k"]) -> int:
    """How many labels a label map seems to have; 0 for the intensities of a scan.

    In a label map nearly every voxel has the label of its neighbor, whichever label it is;
    in a scan hardly any intensity is repeated next door, but for the air. So we ask of each
    value how often the next voxel holds it too, along the axis where this is rarest, and
    average over the *values*: the large flat air counts once. On real data label maps score
    0.74 to 0.92; scans 0.16 and below, even when cut to 64 gray values.
    """
    coarse = data.ravel(order="K")[:: max(1, data.size // 20_000)]
    if _distinct(coarse) is None:
        return 0
    step = max(1, math.ceil(math.sqrt(data.size / 300_000)))
    most = 0
    for axis in range(3):
        lines = np.moveaxis(data, axis, 0)[:, ::step, ::step]
        here, there = lines[:-1].ravel(), lines[1:].ravel()
        values = _distinct(here)
        if values is None:
            return 0
        number = np.searchsorted(values, here)
        repeated = np.bincount(number, weights=here == there) / np.bincount(number)
        if repeated.mean() < _FLAT and len(values) > 3:
            return 0
        most = max(most, len(values))
    return most


def _distinct(data: Float32[np.ndarray, "n"]) -> Float32[np.ndarray, "m"] | None:
    """The values that occur, or None if they cannot be labels: too many, or fractions."""
    values: np.ndarray = np.unique(data)
    return values if len(values) <= _MOST_LABELS and (values == np.rint(values)).all() else None


def _check_type(header: FileHeader) -> None:
    if header.dtype is None:
        raise ScanError(
            f"{header.path} holds {header.type_name} data; needed is one whole or real number"
            " per voxel.",
            fix="convert it to a gray-scale image of type int16 or float32.",
        )
    if not (math.isfinite(header.slope) and math.isfinite(header.inter)):
        raise ScanError(
            f"{header.path} scales its intensities by scl_slope {header.slope} and scl_inter"
            f" {header.inter}; both must be finite.",
            fix="if the stored numbers are right as they are, set scl_slope 1 and scl_inter 0.",
        )


def _check_shape(header: FileHeader) -> None:
    path, shape = header.path, header.shape
    if not shape or min(shape) < 1:
        raise ScanError(
            f"{path} has the dimensions {shape}; all must be 1 or more, on 1 to 7 axes.",
            fix="the header is damaged: copy or convert the file again.",
        )
    if len(shape) < 3 or min(shape[:3]) == 1:
        raise ScanError(
            f"{path} is a 2D slice ({'x'.join(map(str, shape))}); needed is a whole 3D scan.",
            fix="give the 3D series that the slice was taken from.",
        )
    volumes = math.prod(shape[3:])
    if volumes > 1:
        raise ScanError(
            f"{path} has {volumes} volumes ({'x'.join(map(str, shape))}), such as a time series;"
            " needed is one 3D volume.",
            fix=f"take one volume out of it, for example `fslroi {path.name} one.nii.gz 0 1`.",
        )


def _check_size(header: FileHeader) -> None:
    assert header.dtype is not None  # _check_type came before
    path, voxels = header.path, math.prod(header.shape)
    if voxels > MOST_VOXELS:
        raise ScanError(
            f"{path} asks for {voxels} voxels ({'x'.join(map(str, header.shape))}); the most"
            f" that is read is {MOST_VOXELS}.",
            fix="the header is probably damaged; otherwise crop or resample the scan.",
        )
    smallest = {"NIfTI-1": 352, "NIfTI-2": 544, "MGH": 284}[header.format]
    if not (math.isfinite(header.offset) and header.offset >= smallest):
        raise ScanError(
            f"{path} says that its voxels begin at byte {header.offset:g}; they cannot begin"
            f" before byte {smallest}.",
            fix="the header is damaged: copy or convert the file again.",
        )
    needed = int(header.offset) + voxels * header.dtype.itemsize
    holds = header.file_bytes * (_DEFLATE_AT_BEST if header.compressed else 1)
    if holds < needed:
        raise cut_short(header, f"{header.file_bytes} bytes on disk cannot hold them")


def cut_short(header: FileHeader, found: str) -> ScanError:
    """The refusal of a file that ends before its last voxel."""
    assert header.dtype is not None
    needed = int(header.offset) + math.prod(header.shape) * header.dtype.itemsize
    return ScanError(
        f"{header.path} is cut short: its header asks for {needed} bytes, but {found}.",
        fix="copy or download the file again.",
    )


def _check_axes(header: FileHeader) -> None:
    if not np.isfinite(header.affine).all() or np.abs(header.affine).max() > 1e7:
        raise _no_place(header)
    if min(header.spacing) == 0 or abs(np.linalg.det(_directions(header.affine))) < 1e-4:
        raise _no_place(header)


def _no_place(header: FileHeader) -> ScanError:
    return ScanError(
        f"{header.path} has a singular affine ({header.affine_from}), so its voxels have no"
        f" place or no volume: {np.round(header.affine[:3], 6).tolist()}.",
        fix="set a valid sform and qform, for example from the original scan.",
    )


def _check_unit(header: FileHeader) -> None:
    spacing = header.spacing
    unit = {"m": "meters", "um": "microns"}.get(header.unit)
    if unit is None and max(spacing) <= 0.01:
        unit = "meters"
    if unit is None and min(spacing) >= 100:
        unit = "microns"
    if unit is not None:
        raise ScanError(
            f"{header.path} is in {unit}: voxels of {_by(spacing)} with the unit"
            f" {header.unit!r}; needed are mm.",
            fix=f"turn the affine and the voxel sizes from {unit} to mm and set the unit to mm.",
        )


def _check_spacing(header: FileHeader) -> None:
    spacing = header.spacing
    low, high = SMALLEST_MM * (1 - _ROUNDING), LARGEST_MM * (1 + _ROUNDING)
    if low <= min(spacing) and max(spacing) <= high:
        return
    raise ScanError(
        f"{header.path} has voxels of {_by(spacing)} mm; needed are {SMALLEST_MM:g} to"
        f" {LARGEST_MM:g} mm along every axis.",
        fix="resample the scan to about 1 mm, or correct the voxel sizes in its header.",
    )


def _apart_mm(shape: tuple[int, ...], first: np.ndarray, second: np.ndarray) -> float:
    corners = np.array([*product(*((0, n - 1) for n in shape[:3]), (1,))])
    with np.errstate(all="ignore"):
        return float(np.abs((corners @ (first - second).T)[:, :3]).max())


def _directions(affine: np.ndarray) -> np.ndarray:
    directions: np.ndarray = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return directions


def _by(sizes: tuple[float, ...]) -> str:
    return "x".join(f"{size:.3g}" for size in sizes)
