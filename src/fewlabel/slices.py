"""A volume as a stack of three-slice images, for networks that look at one slice at a time.

The image of slice n has the slices n - 1, n and n + 1 as its three colors. So a network for
photographs can be used, and still sees a little of the third dimension.

Source: xu2017, section 3.
"""

import math
import re
from collections.abc import Mapping
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8
from pydantic import Field, model_validator

from fewlabel.conform import conform, turned
from fewlabel.field import extent
from fewlabel.grid import Grid
from fewlabel.intensity import equalize
from fewlabel.settings import Settings
from fewlabel.shares import Index
from fewlabel.volume import Scan

Axis = Literal["sagittal", "coronal", "axial", "acquired"]
Volumes = Mapping[str, UInt8[np.ndarray, "i j k"]]

_NUMBER = {"sagittal": 0, "coronal": 1, "axial": 2}
_MARGIN_MM = 6.0
_LEAST_MM2 = 100.0
_TOP_HAT_MM = 5.0
_CHANNEL = re.compile(r"(?P<hat>top-hat )?(?P<modality>[A-Za-z0-9]+)(?P<offset>[+-]1)?")


class Channel(NamedTuple):
    """One color of an image.

    Attributes:
        volume: Whose slices: a modality, or "top-hat" and a modality.
        offset: Which slice, from the one that is labeled.
    """

    volume: str
    offset: int


class SliceRule(Settings):
    """What a network of slices wants its input to be like."""

    kind: Literal["three-slice"] = "three-slice"
    axes: tuple[Axis, ...] = Field(default=("axial",), min_length=1)
    """Slices through which planes; probabilities along several are averaged. `acquired` is
    whichever has the thickest slices."""
    channels: tuple[str, str, str] = ("T1w-1", "T1w", "T1w+1")
    """Red, green, blue: a modality, with -1 or +1 for the slice before or after. "top-hat T1w"
    is what is small and bright in it."""
    spacing_mm: float | None = Field(default=None, ge=0.2, le=8)
    """Edge of a pixel; None: as the scan has it."""
    slice_mm: float | None = Field(default=None, ge=0.2, le=8)
    """From slice to slice; None: as the scan has it."""
    multiple: int = Field(default=16, ge=1)
    """Rows and columns are a whole multiple of so many pixels."""

    @model_validator(mode="after")
    def _check(self) -> "SliceRule":
        for channel in self.channels:
            if not _CHANNEL.fullmatch(channel):
                raise ValueError(f"{channel!r} is not like 'T1w', 'T1w-1' or 'top-hat T1w'.")
        if len(self.axes) > 1 and (self.spacing_mm is None or self.spacing_mm != self.slice_mm):
            raise ValueError("Several axes need `spacing_mm` and `slice_mm`, both the same.")
        return self

    @cached_property
    def colors(self) -> tuple[Channel, ...]:
        """The channels, taken apart.

        >>> SliceRule(channels=("T1w", "FLAIR+1", "top-hat FLAIR")).colors[1:]
        (Channel(volume='FLAIR', offset=1), Channel(volume='top-hat FLAIR', offset=0))
        """
        found = [_CHANNEL.fullmatch(channel) for channel in self.channels]
        return tuple(
            Channel(f"{m['hat'] or ''}{m['modality']}", int(m["offset"] or 0)) for m in found if m
        )

    @cached_property
    def modalities(self) -> tuple[str, ...]:
        """The scans that are needed, each once."""
        return tuple(dict.fromkeys(c.volume.removeprefix("top-hat ") for c in self.colors))

    def axis_numbers(self, native: Grid) -> tuple[int, ...]:
        """Which voxel axes, of those that face right, front and up, the slices are counted along.

        Args:
            native: The scan's grid as read, or turned; it decides what `acquired` means.
        """
        return tuple(_axis_number(axis, native) for axis in self.axes)

    def describe(self) -> str:
        """For people: planes and resolution."""
        pixels = "the scan's own pixels" if self.spacing_mm is None else f"{self.spacing_mm:g} mm"
        return f"{' and '.join(self.axes)} slices with {pixels}"


def _axis_number(axis: Axis, native: Grid) -> int:
    if axis != "acquired":
        return _NUMBER[axis]
    upright = turned(Scan(np.broadcast_to(np.float32(0), native.shape), native))[0]
    # of equally thick slices the axial ones, as most scans are looked at that way
    return max((2, 1, 0), key=lambda n: round(upright.spacing_mm[n], 3))


def slice_grid(scan: Scan, rule: SliceRule) -> Grid:
    """Where a network of slices looks: the part of a scan that is not empty, facing RAS.

    The voxels keep the scan's own axes, as resampling across thick slices would blur them.

    Args:
        scan: Any orientation.
        rule: Resolution, and what rows and columns must be a multiple of.
    """
    grid, data = turned(scan)
    first, last = _content(data, grid)
    across = rule.axis_numbers(grid)[0]
    affine, offset, shape = grid.affine.copy(), np.zeros(3), [0, 0, 0]
    for axis in range(3):
        own = grid.spacing_mm[axis]
        wanted = rule.slice_mm if axis == across else rule.spacing_mm
        mm = own if wanted is None or abs(wanted - own) < 0.002 else wanted
        many = rule.multiple if axis != across or len(rule.axes) > 1 else 1
        margin = math.ceil(_MARGIN_MM / own)
        low = max(int(first[axis]) - margin, 0)
        high = min(int(last[axis]) + margin, grid.shape[axis])
        shape[axis] = math.ceil((high - low) * own / mm / many - 1e-6) * many
        centered = (low + high - 1 - (shape[axis] - 1) * mm / own) / 2
        offset[axis] = round(centered) if mm == own else centered
        affine[:3, axis] *= mm / own
    affine[:3, 3] = grid.affine[:3, :3] @ offset + grid.affine[:3, 3]
    return Grid((shape[0], shape[1], shape[2]), affine)


def _content(data: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """First and one past the last slice along each axis that shows more than noise."""
    thin: Index = tuple(max(1, int(2 / mm)) for mm in grid.spacing_mm)  # type: ignore[assignment]
    preview = data[:: thin[0], :: thin[1], :: thin[2]]
    coarse = np.array(grid.spacing_mm) * thin
    dark, light = np.percentile(preview, (1, 99.5))
    seen = preview > dark + 0.1 * (light - dark)
    least = float(_LEAST_MM2 / np.prod(coarse) * coarse.max())
    if min(seen.sum(axis=others).max() for others in ((1, 2), (0, 2), (0, 1))) < least:
        return np.zeros(3, dtype=int), np.array(grid.shape)
    first, last = extent(seen, least)
    return first * thin, np.minimum(last * thin, grid.shape)


def prepare(scans: Mapping[str, Scan], rule: SliceRule) -> tuple[Volumes, Grid]:
    """Equalize scans and put them on the grid that a network of slices looks at.

    Args:
        scans: By modality, in the same world; the first that the rule names decides the grid.
        rule: What the network wants.

    Returns:
        Shades from 0 to 255 of every volume that the rule's channels show, and their grid.
    """
    grid = slice_grid(scans[rule.modalities[0]], rule)
    volumes: dict[str, np.ndarray] = {}
    for modality in rule.modalities:
        scan = scans[modality]
        moved = conform(Scan(equalize(scan.data), scan.grid), grid).data
        volumes[modality] = np.rint(moved).astype(np.uint8)
    for name in dict.fromkeys(color.volume for color in rule.colors):
        if name not in volumes:
            plain = volumes[name.removeprefix("top-hat ")]
            volumes[name] = top_hat(plain, grid, rule.axis_numbers(grid)[0])
    return volumes, grid


def top_hat(
    volume: UInt8[np.ndarray, "i j k"], grid: Grid, axis: int
) -> UInt8[np.ndarray, "i j k"]:
    """What is small and bright in each slice, stretched to 255.

    Small means that a square of 5 mm does not fit in.

    Args:
        volume: Shades.
        grid: Where its voxels lie.
        axis: Along which slices are counted.
    """
    from scipy.ndimage import white_tophat

    size = [max(3, round(_TOP_HAT_MM / mm) // 2 * 2 + 1) for mm in grid.spacing_mm]
    size[axis] = 1
    small: np.ndarray = white_tophat(volume, size=tuple(size))
    brightest = max(int(small.max()), 1)
    stretched: np.ndarray = (small.astype(np.uint16) * 255 // brightest).astype(np.uint8)
    return stretched


def three_slices(
    volumes: Volumes, colors: tuple[Channel, ...], axis: int, n: int
) -> UInt8[np.ndarray, "3 h w"]:
    """The image of slice n.

    Args:
        volumes: Shades by name, all of one shape.
        colors: What is shown as red, green and blue; 0 where there is no such slice.
        axis: Along which slices are counted.
        n: Number of the slice, from 0.
    """
    layers = []
    for name, offset in colors:
        volume = volumes[name]
        inside = 0 <= n + offset < volume.shape[axis]
        nearest = volume.take(n + offset if inside else n, axis)
        layers.append(nearest if inside else np.zeros_like(nearest))
    return np.stack(layers)


def stray_regions(
    found: Bool[np.ndarray, "i j k"],
    grid: Grid,
    axis: int,
    *,
    least_mm2: float = 5.0,
    least_share: float = 0.8,
) -> Bool[np.ndarray, "i j k"]:
    """What is no part of the brain: regions of a slice that are small, or lie beside it.

    A region is a group of voxels of one slice, joined by faces or corners, in which any
    structure was found. The brain's outline is that of the largest region of the middle slice.

    Args:
        found: Where any structure was found.
        grid: Where the voxels lie.
        axis: Along which slices are counted.
        least_mm2: Smaller regions are strays.
        least_share: So are regions of which a smaller share lies within the brain's outline.

    Source:
        xu2017, section 3, post-processing. Departs from it: the middle slice is that of the
        slices in which something was found, as a scan may be cut off or end in empty space.
    """
    from scipy.ndimage import label

    occupied = np.flatnonzero(found.any(axis=tuple(n for n in range(3) if n != axis)))
    if not len(occupied):
        return np.zeros_like(found)
    flat = np.zeros((3, 3, 3), dtype=bool)
    flat.swapaxes(0, axis)[1] = True  # joins within a slice, never from one to the next
    parts, n_parts = label(found, flat)
    middle = parts.take((occupied[0] + occupied[-1]) // 2, axis)
    sizes = np.bincount(parts.ravel(), minlength=n_parts + 1)
    in_middle = np.bincount(middle.ravel(), minlength=n_parts + 1)
    in_middle[0] = 0
    stray = sizes * grid.voxel_mm3 / grid.spacing_mm[axis] < least_mm2
    if in_middle.any():
        brain = np.expand_dims(middle == in_middle.argmax(), axis)
        inside = np.bincount(parts[np.broadcast_to(brain, parts.shape)], minlength=n_parts + 1)
        stray |= inside < least_share * sizes
    stray[0] = False
    strays: np.ndarray = stray[parts]
    return strays
