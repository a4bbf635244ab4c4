"""A scan and its labels, made small enough to travel within a page."""

import base64
import gzip
import math
from itertools import product

import nibabel
import numpy as np
from jaxtyping import Int16, UInt8

from fewlabel.conform import conform
from fewlabel.errors import ProtocolError
from fewlabel.grid import Grid
from fewlabel.volume import LabelMap, Scan

_MARGIN_MM = 8.0
_COARSEST_MM = 4.0
_FINEST_MM = 1.0
_STEP = 1.19
_MOST_CLASSES = 255


def packed(scan: Scan | None, labels: LabelMap, most_bytes: int) -> tuple[str | None, str]:
    """Scan and labels as base64 of compressed NIfTI, on a grid coarse enough for the budget.

    Both lie on the same upright grid of cubic voxels around the labeled part. Intensities have
    256 steps. Labels are class numbers rather than the protocol's values.

    Args:
        scan: What was segmented, if it is at hand.
        labels: The result.
        most_bytes: What both together may take; at 4 mm they may take more.

    Raises:
        ProtocolError: If there are more than 255 classes.
    """
    if labels.protocol.n_classes > _MOST_CLASSES:
        raise ProtocolError(
            f"{labels.protocol.name} has {labels.protocol.n_classes} classes; the viewer shows"
            f" {_MOST_CLASSES} at most.",
            fix="map the labels to a coarser protocol first.",
        )
    spacing = max(_FINEST_MM, min(labels.grid.spacing_mm))
    while True:
        grid = shown_grid(labels, spacing)
        image = None if scan is None else _encoded(_gray(conform(scan, grid).data), grid)
        drawn = _encoded(nearest(labels, grid).astype(np.uint8), grid)
        size = len(image or "") + len(drawn)
        if size <= most_bytes or spacing >= _COARSEST_MM:
            return image, drawn
        needed = (size / most_bytes) ** (1 / 3)
        spacing = min(_COARSEST_MM, spacing * max(_STEP, needed))


def shown_grid(labels: LabelMap, spacing_mm: float) -> Grid:
    """An upright grid around what is labeled, or around everything if nothing is."""
    index = np.argwhere(labels.data > 0)
    if not len(index):
        index = np.array(list(product(*((0, n - 1) for n in labels.grid.shape))))
    low, high = index.min(axis=0), index.max(axis=0)
    corners = np.array(list(product(*zip(low, high, strict=True))), dtype=float)
    places = corners @ labels.grid.affine[:3, :3].T + labels.grid.affine[:3, 3]
    first, last = places.min(axis=0) - _MARGIN_MM, places.max(axis=0) + _MARGIN_MM
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = first
    i, j, k = (math.ceil(mm / spacing_mm) + 1 for mm in last - first)
    return Grid((i, j, k), affine)


def nearest(labels: LabelMap, grid: Grid) -> Int16[np.ndarray, "i j k"]:
    """Classes of the nearest voxels; 0 where there are none, or nobody has looked."""
    to_own = np.linalg.inv(labels.grid.affine) @ grid.affine
    axes = [np.arange(n) for n in grid.shape]
    i, j, k = np.meshgrid(*axes, indexing="ij", sparse=True)
    at = []
    inside = np.ones(grid.shape, dtype=bool)
    for row, n in zip(to_own[:3], labels.grid.shape, strict=True):
        index = np.rint(row[0] * i + row[1] * j + row[2] * k + row[3]).astype(np.int32)
        inside &= (index >= 0) & (index < n)
        at.append(np.clip(index, 0, n - 1))
    found: np.ndarray = np.where(inside, np.maximum(labels.data[tuple(at)], 0), 0)
    return found.astype(np.int16)


def _gray(data: np.ndarray) -> UInt8[np.ndarray, "i j k"]:
    dark, light = np.percentile(data[::2, ::2, ::2], (0.5, 99.8))
    scaled = (data - dark) * (255 / max(light - dark, 1e-6))
    levels: np.ndarray = np.clip(scaled, 0, 255).astype(np.uint8)
    return levels


def _encoded(data: UInt8[np.ndarray, "i j k"], grid: Grid) -> str:
    image = nibabel.Nifti1Image(data, grid.affine)
    image.set_qform(grid.affine, 1)
    image.set_sform(grid.affine, 1)
    return base64.b64encode(gzip.compress(image.to_bytes(), 6, mtime=0)).decode()
