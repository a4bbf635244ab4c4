"""To the network's grid and back. Every spatial step is a move between two grids.

A network sees an upright field of cubic voxels: i to the right, j to the front, k up. How to get
there and back follows from the two grids alone, so nothing records what was done.
docs/spaces.md tells the same in words and pictures.
"""

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Float32, Float64, Int16, Shaped
from pydantic import Field

from fewlabel.grid import Grid
from fewlabel.labels import LabelProtocol
from fewlabel.resample import resample
from fewlabel.settings import Settings
from fewlabel.shares import Index, Probabilities, Shares, box_in, cut_of, index
from fewlabel.volume import LabelMap, Scan


class GridRule(Settings):
    """What a network wants its input to be like."""

    spacing_mm: float = Field(ge=0.3, le=8)
    """Edge of a voxel."""
    multiple: int = Field(default=16, ge=1)
    """The field has a whole multiple of so many voxels along each axis."""
    field_mm: tuple[float, float, float] = (192.0, 224.0, 192.0)
    """What is looked at of a scan, at least: right, front, up."""
    window: Index | None = None
    """Voxels that the network sees at once, as when it was trained; None: the whole field."""

    @property
    def seen(self) -> Index:
        """Voxels that the network sees at once: a window, or all of the field.

        >>> GridRule(spacing_mm=4, window=(32, 96, 32)).seen
        (32, 64, 32)
        """
        i, j, k = (min(pair) for pair in zip(self.window or self.field, self.field, strict=True))
        return i, j, k

    @property
    def field(self) -> Index:
        """Voxels of the field.

        >>> GridRule(spacing_mm=1.5).field
        (128, 160, 128)
        """
        i, j, k = (
            math.ceil(mm / self.spacing_mm / self.multiple - 1e-6) * self.multiple
            for mm in self.field_mm
        )
        return i, j, k

    def describe(self) -> str:
        """For people: the resolution."""
        return f"{self.spacing_mm:g} mm"


def upright(grid: Grid, spacing_mm: float) -> Grid:
    """The smallest RAS-aligned grid of cubic voxels that holds all voxel centers of `grid`.

    >>> tilted = Grid((10, 20, 30), np.diag([-1.0, 1.0, 2.0, 1.0]))
    >>> upright(tilted, spacing_mm=1.0).shape
    (10, 20, 59)
    """
    corners = grid.corners_mm()
    low, extent = corners.min(axis=0), np.ptp(corners, axis=0)
    i, j, k = (math.ceil(mm / spacing_mm - 1e-4) + 1 for mm in extent)
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = np.round(low, 6)
    return Grid((i, j, k), affine)


def part_of(grid: Grid, start: Index, shape: Index) -> Grid:
    """The same lattice from voxel `start` on; it may reach beyond `grid` on every side."""
    affine = grid.affine.copy()
    affine[:3, 3] += grid.affine[:3, :3] @ np.array(start, dtype=float)
    return Grid(shape, affine)


def start_in(grid: Grid, part: Grid) -> Index:
    """The voxel of `grid` that a grid on the same lattice begins at; see `part_of`."""
    shift = np.linalg.solve(grid.affine[:3, :3], part.affine[:3, 3] - grid.affine[:3, 3])
    return index(np.rint(shift))


def turned(volume: Scan | LabelMap) -> tuple[Grid, Shaped[np.ndarray, "a b c"]]:
    """The same voxels with axes reordered and reversed to face right, front and up.

    Returns:
        Their grid, and a view of the volume's data.
    """
    turn = _Turn.of(volume.grid)
    return turn.grid, turn.view(volume.data)


def conform(scan: Scan, target: Grid) -> Scan:
    """Put a scan on another grid.

    Moves by whole voxels copy them unchanged. Otherwise intensities are interpolated linearly,
    and averaged over the new voxel where that is larger than the old one. Outside the scan they
    are those of its darkest voxel, which need not be 0.

    Args:
        scan: Any orientation and spacing.
        target: Where to go; see `upright` and `part_of`.
    """
    grid, data = turned(scan)
    moved = resample(data, grid, target, outside=float(scan.data.min()))
    return Scan(np.ascontiguousarray(moved, dtype=np.float32), target, scan.notes)


def restore(
    shares: Probabilities | Float32[np.ndarray, "classes i j k"],
    working: Grid,
    native: Grid,
    protocol: LabelProtocol,
) -> LabelMap:
    """Bring class probabilities back to the scan they came from.

    Probabilities are interpolated and the largest wins, which keeps borders smooth where moving
    the labels themselves would leave steps. Classes are taken one at a time, each only where it
    can win: of n classes the winner has at least 1/n somewhere near. So neither memory nor time
    grows much with the protocol: 138 classes on a 256-voxel cube would take 9 GB at once.

    Args:
        shares: Probabilities in protocol order, background first: 0 to 255 or 0.0 to 1.0.
        working: The grid they are on.
        native: The grid of the scan as it was read.
        protocol: What the classes mean.

    Returns:
        Labels on `native`. Voxels that `working` does not reach are background; of equal
        probabilities the lowest class wins.
    """
    labels = np.zeros(native.shape, dtype=np.int16)
    turn = _Turn.of(native)
    fractions = isinstance(shares, np.ndarray) and shares.dtype != np.uint8
    least = (1.0 if fractions else 255.0) / (2 * len(shares))
    boxes = {number: box_in(shares, number, least) for number in range(1, len(shares))}
    present = {number: box for number, box in boxes.items() if box is not None}
    if not present:
        return LabelMap(labels, native, protocol)
    everything = np.array(list(present.values()))
    brain = np.stack([everything[:, 0].min(axis=0), everything[:, 1].max(axis=0)])
    start, found = _restored(shares, 0, brain, working, turn.grid)
    best = found.copy()  # it may be a view of what was given
    winner = np.zeros(best.shape, dtype=np.int16)
    for number, box in present.items():
        at, here = _restored(shares, number, box, working, turn.grid)
        cut = _slices(np.array(at) - start, here.shape)
        best = best.astype(np.result_type(best, here), copy=False)
        np.copyto(winner[cut], np.int16(number), where=here > best[cut])
        np.maximum(best[cut], here, out=best[cut])
    turn.view(labels)[_slices(np.array(start), winner.shape)] = winner
    return LabelMap(labels, native, protocol)


@dataclass(frozen=True)
class _Turn:
    """The voxels of a grid, with axes reordered and reversed to face right, front and up.

    Interpolating only between grids that face the same way makes results the same to the last
    bit, whichever of the 48 orientations a scan is stored in.
    """

    grid: Grid
    order: Index
    steps: Index

    @classmethod
    def of(cls, grid: Grid) -> "_Turn":
        order = _nearest_axes(grid.affine[:3, :3] / np.array(grid.spacing_mm))
        columns = grid.affine[:3, list(order)]
        facing = columns[[0, 1, 2], [0, 1, 2]] >= 0
        i, j, k = (grid.shape[axis] for axis in order)
        affine = np.eye(4)
        affine[:3, :3] = np.where(facing, columns, -columns)
        last = np.where(facing, 0, np.array([i, j, k]) - 1)
        affine[:3, 3] = grid.affine[:3, 3] + columns @ last
        right, front, up = (1 if forward else -1 for forward in facing)
        return cls(Grid((i, j, k), affine), order, (right, front, up))

    def view(self, data: np.ndarray) -> np.ndarray:
        """The same memory, seen the other way."""
        turned: np.ndarray = data.transpose(self.order)[
            tuple(slice(None, None, s) for s in self.steps)
        ]
        return turned


def _nearest_axes(directions: Float64[np.ndarray, "3 3"]) -> Index:
    """Which voxel axis runs most nearly along x, y and z, each used once."""
    along = np.abs(directions)
    orders: list[Index] = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    return max(orders, key=lambda order: round(float(sum(along[n, order[n]] for n in range(3))), 9))


def _restored(
    shares: np.ndarray | Shares,
    number: int,
    box: Int16[np.ndarray, "2 3"],
    working: Grid,
    native: Grid,
) -> tuple[Index, Shaped[np.ndarray, "a b c"]]:
    """One class on the native voxels that its box can reach, and where those begin.

    A native voxel sees working voxels up to `reach` away. So the box grows by `reach` to find
    the voxels that may see it, and by twice that to give them all they see.
    """
    ratio = max(native.spacing_mm) / min(working.spacing_mm)
    reach = math.ceil(max(1.0, ratio))
    low, high = box[0].astype(int) - reach, box[1].astype(int) + reach - 1
    seen = np.array(list(product(*zip(low, high, strict=True))), dtype=float)
    to_native = np.linalg.inv(native.affine) @ working.affine
    found = np.round(seen @ to_native[:3, :3].T + to_native[:3, 3], 5)
    first = np.clip(np.floor(found.min(axis=0)).astype(int), 0, native.shape)
    last = np.clip(np.ceil(found.max(axis=0)).astype(int) + 1, 0, native.shape)
    start, shape = index(first), index(np.maximum(last - first, 0))
    begin, end = np.maximum(low - reach, 0), np.minimum(high + reach + 1, shares.shape[1:])
    around = cut_of(shares, number, index(begin), index(end - begin))
    lattice = part_of(working, index(begin), index(np.array(around.shape)))
    return start, resample(around, lattice, part_of(native, start, shape), 0.0)


def _slices(start: np.ndarray, shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(int(a), int(a) + n) for a, n in zip(start, shape, strict=True))
