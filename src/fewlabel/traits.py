"""What can be measured on a result without a truth: on its structures and the image under them.

Everything is taken on the network's own field, where probabilities and intensities lie side by
side, so that it costs little: about 0.1 s at 2 mm. Whether a number is odd is for `quality` to
say.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64, UInt8

from fewlabel.grid import Grid
from fewlabel.labels import LabelProtocol
from fewlabel.shares import Probabilities, every
from fewlabel.sides import is_left, other_side

FACES = ("left", "right", "back", "front", "bottom", "top")
_MOST_VOXELS = 2_000_000


@dataclass(frozen=True, eq=False)
class Traits:
    """A result in numbers. Lists per structure are in protocol order, without background.

    Attributes:
        names: The structures.
        overlap: Dice that a result would have if the network's probabilities were right,
            2 sum(p inside) / (voxels + sum(p)), 0 where a structure is empty.
        volume_mm3: Volumes on the network's field.
        center_mm: Centers in world coordinates, NaN where empty.
        pieces_mm3: Volume outside of a structure's largest piece.
        brightness: Mean intensity, on the network's scale; NaN without an image.
        size_mm: Of the brain, to the right, to the front, up.
        ends_mm2: Area of the brain's outermost slices that are larger than specks, by `FACES`.
        enclosed_mm3: Background that the brain encloses on all sides.
        noise: Unevenness within structures over the contrast between them; NaN without image.
        air: Median intensity at the field's faces over the brightest in it.
    """

    names: tuple[str, ...]
    overlap: Float64[np.ndarray, "n"]
    volume_mm3: Float64[np.ndarray, "n"]
    center_mm: Float64[np.ndarray, "n 3"]
    pieces_mm3: Float64[np.ndarray, "n"]
    brightness: Float64[np.ndarray, "n"]
    size_mm: Float64[np.ndarray, "3"]
    ends_mm2: Float64[np.ndarray, "6"]
    enclosed_mm3: float
    noise: float
    air: float

    def as_json(self) -> dict[str, Any]:
        """Plain lists and numbers; NaN becomes None."""
        return {key: _plain(value) for key, value in vars(self).items()}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Traits":
        """What `as_json` gave."""
        values = {key: _array(value) for key, value in found.items() if key != "names"}
        return cls(names=tuple(found["names"]), **values)

    @property
    def brain_mm3(self) -> float:
        """All structures together."""
        return float(self.volume_mm3.sum())

    def asymmetry(self) -> dict[str, float]:
        """Left less right over their mean, of paired structures that are there, by the left name.

        >>> round(float(asymmetry_index(3.0, 1.0)), 2)
        1.0
        """
        number = {name: n for n, name in enumerate(self.names)}
        pairs = {
            name: asymmetry_index(self.volume_mm3[n], self.volume_mm3[number[partner]])
            for name, n in number.items()
            if (partner := other_side(name)) in number and is_left(name)
        }
        return {name: index for name, index in pairs.items() if math.isfinite(index)}


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [_plain(each) for each in value]
    if isinstance(value, tuple):
        return list(value)
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _array(value: Any) -> Any:
    found = np.array(value, dtype=np.float64)  # None becomes NaN
    return found if found.ndim else float(found)


def asymmetry_index(left: float, right: float) -> float:
    """Left less right over their mean, from -2 to 2; NaN if both are 0.

    >>> asymmetry_index(1.1, 0.9)
    0.20000000000000007
    """
    return 2 * float(left - right) / float(left + right) if left + right else math.nan


def measure_traits(
    shares: Probabilities,
    field: Grid,
    protocol: LabelProtocol,
    image: Float32[np.ndarray, "i j k"] | None = None,
) -> Traits:
    """Measure a result.

    Args:
        shares: Probabilities from 0 to 255, background first, on an upright field.
        field: Where they lie. Of fields with more than two million voxels only every second,
            or third and so on, is looked at.
        protocol: What the classes mean.
        image: What the network looked at, on the same field.
    """
    step = math.ceil((math.prod(shares.shape[1:]) / _MOST_VOXELS) ** (1 / 3) - 1e-9)
    if step > 1:
        field = _coarser(field, step)
        image = None if image is None else image[::step, ::step, ::step]
    seen = _Seen.of(every(shares, step))
    n, mm3 = len(shares), field.voxel_mm3
    counts = np.bincount(seen.classes, minlength=n)
    inside = np.bincount(seen.classes, seen.best, minlength=n)
    noise, air, brightness = _on_image(seen, image, counts)
    with np.errstate(invalid="ignore", divide="ignore"):
        overlap = np.nan_to_num(2 * inside / (255 * counts + seen.total))
        sums = [np.bincount(seen.classes, axis, minlength=n) / counts for axis in seen.index]
    places = np.stack(sums, axis=1) @ field.affine[:3, :3].T + field.affine[:3, 3]
    brain = seen.brain
    return Traits(
        names=protocol.names,
        overlap=overlap[1:],
        volume_mm3=counts[1:] * mm3,
        center_mm=places[1:],
        pieces_mm3=_pieces(seen, n)[1:] * mm3,
        brightness=brightness,
        size_mm=_size_mm(brain, field),
        ends_mm2=_ends_mm2(brain, field),
        enclosed_mm3=_enclosed(brain) * mm3,
        noise=noise,
        air=air,
    )


@dataclass(frozen=True, eq=False)
class _Seen:
    """The voxels that are more than background: where, which class, how sure (0 to 255).

    And the sum of each class over all voxels.
    """

    brain: Bool[np.ndarray, "i j k"]
    index: Int64[np.ndarray, "3 voxels"]
    classes: Int64[np.ndarray, "voxels"]
    best: Float64[np.ndarray, "voxels"]
    total: Int64[np.ndarray, "classes"]

    @classmethod
    def of(cls, shares: Iterator[UInt8[np.ndarray, "i j k"]]) -> "_Seen":
        """Of equal probabilities the lowest class wins, as in `restore`."""
        air = next(shares)
        some = np.flatnonzero(air.ravel() < 128)
        best = air.ravel()[some]
        classes = np.zeros(len(some), dtype=np.intp)
        total = [air.sum(dtype=np.int64)]
        for number, of_class in enumerate(shares, start=1):
            here = of_class.ravel()[some]
            classes[here > best] = number
            np.maximum(best, here, out=best)
            total.append(of_class.sum(dtype=np.int64))
        kept = classes > 0
        brain = np.zeros(air.shape, dtype=bool)
        brain.ravel()[some[kept]] = True
        index = np.stack(np.nonzero(brain))
        return cls(brain, index, classes[kept], best[kept].astype(float), np.array(total))

    def volume(self) -> Int32[np.ndarray, "i j k"]:
        """Class per voxel."""
        drawn = np.zeros(self.brain.shape, dtype=np.int32)
        drawn[self.brain] = self.classes
        return drawn


def _coarser(field: Grid, step: int) -> Grid:
    i, j, k = (math.ceil(n / step) for n in field.shape)
    return Grid((i, j, k), field.affine @ np.diag([step, step, step, 1.0]))


def _pieces(seen: _Seen, n: int) -> Int64[np.ndarray, "classes"]:
    """Voxels outside of the largest piece of each class."""
    from scipy.ndimage import find_objects, label

    drawn = seen.volume()
    loose = np.zeros(n, dtype=np.int64)
    for number, box in enumerate(find_objects(drawn, max_label=n - 1), start=1):
        if box is not None:
            parts, count = label(drawn[box] == number)
            if count > 1:
                sizes = np.bincount(parts.ravel())[1:]
                loose[number] = sizes.sum() - sizes.max()
    return loose


def _enclosed(brain: Bool[np.ndarray, "i j k"]) -> int:
    from scipy.ndimage import binary_fill_holes

    return int(binary_fill_holes(brain).sum() - brain.sum())


def _size_mm(brain: Bool[np.ndarray, "i j k"], field: Grid) -> Float64[np.ndarray, "3"]:
    """How far the brain reaches, without its outermost half percent on either side."""
    if not brain.any():
        return np.zeros(3)
    sizes = []
    for axis, mm in enumerate(field.spacing_mm):
        lines = brain.sum(axis=tuple(n for n in range(3) if n != axis))
        share = np.cumsum(lines) / lines.sum()
        sizes.append((np.searchsorted(share, 0.995) - np.searchsorted(share, 0.005) + 1) * mm)
    return np.array(sizes)


def _ends_mm2(brain: Bool[np.ndarray, "i j k"], field: Grid) -> Float64[np.ndarray, "6"]:
    """The steepest growth of the brain's area within two slices of each of its six ends."""
    ends = []
    for axis in range(3):
        lines = brain.sum(axis=tuple(n for n in range(3) if n != axis))
        mm2 = field.voxel_mm3 / field.spacing_mm[axis]
        for line in (lines, lines[::-1]):
            filled = np.flatnonzero(line)
            first = filled[0] if len(filled) else 0
            padded = np.concatenate([[0], line[first : first + 3]])
            ends.append(float(np.diff(padded).max()) * mm2)
    return np.array(ends)


def _on_image(
    seen: _Seen, image: Float32[np.ndarray, "i j k"] | None, counts: Int64[np.ndarray, "classes"]
) -> tuple[float, float, Float64[np.ndarray, "n"]]:
    """Noise, air and brightness."""
    if image is None or not len(seen.classes):
        return math.nan, math.nan, np.full(len(counts) - 1, math.nan)
    inside = image[seen.brain].astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.bincount(seen.classes, inside, minlength=len(counts)) / counts
    drawn = seen.volume()
    same = (drawn[:-2] == drawn[1:-1]) & (drawn[1:-1] == drawn[2:]) & seen.brain[1:-1]
    uneven = np.abs(image[:-2] - 2 * image[1:-1] + image[2:])[same]
    contrast = max(float(np.std(means[seen.classes])), 1e-3)
    # A second difference of noise has sqrt(6) times its deviation.
    noise = float(np.median(uneven)) * 1.4826 / math.sqrt(6) / contrast if same.any() else math.nan
    faces = [image.take(end, axis).ravel() for axis in range(3) for end in (0, -1)]
    air = float(np.median(np.concatenate(faces))) / max(float(np.percentile(image, 99)), 1e-3)
    return noise, air, means[1:]
