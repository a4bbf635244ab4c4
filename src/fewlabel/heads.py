"""Whole heads to paint images of: label maps, upright, the brain in the middle."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float32, UInt8
from nibabel.orientations import apply_orientation, io_orientation
from torch import Tensor

from fewlabel.errors import CohortError
from fewlabel.io import read_labels
from fewlabel.labels import Label, LabelProtocol
from fewlabel.palette import Palette

_HEAVIEST = 20.0
_MARGIN_MM = 8  # around the field, so that turned and shifted heads still fill it


@dataclass(frozen=True, eq=False)
class Heads:
    """Label maps of all persons, the brain in the middle.

    Attributes:
        rows: Palette rows per voxel, upright.
        spacing_mm: Edge of the cubic voxels.
    """

    rows: UInt8[Tensor, "persons i j k"]
    spacing_mm: float

    def for_spacing(self, spacing_mm: float) -> "Heads":
        """Voxels about half as large as those wanted, so that painting shows partial volume."""
        step = max(1, round(spacing_mm / 2 / self.spacing_mm))
        thinned = self.rows[:, ::step, ::step, ::step].contiguous()
        return Heads(thinned, self.spacing_mm * step)


def read_heads(folder: Path, palette: Palette, field_mm: tuple[float, float, float]) -> Heads:
    """Read all label maps of a folder.

    Args:
        folder: Searched for `*_dseg.nii.gz`; one person a file.
        palette: What the numbers in the files stand for.
        field_mm: Box around the brain to keep, with a margin.

    Raises:
        CohortError: If the folder has none, or their voxels differ in size.
    """
    paths = sorted(folder.rglob("*_dseg.nii.gz"))
    if not paths:
        raise CohortError(
            f"{folder} holds no *_dseg.nii.gz.",
            fix="set `label_maps` to a folder with one label map a person.",
        )
    protocol = LabelProtocol("painted", tuple(Label(int(v), str(v)) for v in palette.values[1:]))
    maps = [read_labels(path, protocol, strict=False) for path in paths]
    spacings = {round(mm, 3) for one in maps for mm in one.grid.spacing_mm}
    if len(spacings) > 1:
        raise CohortError(
            f"The label maps in {folder} have voxels of {sorted(spacings)} mm.",
            fix="resample them to cubic voxels of one size.",
        )
    spacing = spacings.pop()
    size = tuple(round((mm + 2 * _MARGIN_MM) / spacing) for mm in field_mm)
    brain = np.array([part == "brain" for part in palette.part])
    rows = []
    for one in maps:
        upright = apply_orientation(one.data.astype(np.uint8), io_orientation(one.grid.affine))
        rows.append(_centered(upright, brain[upright], size))
    return Heads(torch.from_numpy(np.stack(rows)), spacing)


def _centered(
    rows: UInt8[np.ndarray, "a b c"], brain: Bool[np.ndarray, "a b c"], size: tuple[int, ...]
) -> UInt8[np.ndarray, "i j k"]:
    """A box of `size` around the middle of the brain; background beyond the map."""
    out = np.zeros(size, dtype=np.uint8)
    take, put = [], []
    for axis, n in enumerate(size):
        others = tuple(other for other in range(3) if other != axis)
        there = np.flatnonzero(brain.any(axis=others))
        start = int(there[0] + there[-1]) // 2 - n // 2
        stop = min(start + n, rows.shape[axis])
        take.append(slice(max(start, 0), stop))
        put.append(slice(max(start, 0) - start, stop - start))
    out[tuple(put)] = rows[tuple(take)]
    return out


def class_weights(
    heads: Heads, palette: Palette, protocol: LabelProtocol
) -> Float32[np.ndarray, "classes"]:
    """One over the square root of how common a class is, 1 on average over voxels."""
    count = np.bincount(heads.rows.numpy().ravel(), minlength=len(palette.values))
    share = np.bincount(palette.learn, weights=count, minlength=protocol.n_classes) / count.sum()
    weights = np.maximum(share, 1e-6) ** -0.5
    weights /= (weights * share).sum()
    bounded: np.ndarray = np.minimum(weights, _HEAVIEST).astype(np.float32)
    return bounded
