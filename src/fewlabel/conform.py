"""To the network's grid and back. Every spatial step is a move between two grids.

A network sees an upright field of cubic voxels: i to the right, j to the front, k up. How to get
there and back follows from the two grids alone, so nothing records what was done.
docs/spaces.md tells the same in words and pictures.
"""

import math
from concurrent.futures import ThreadPoolExecutor
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

_Box = Shaped[np.ndarray, "2 3"]
"""First voxel and one past the last along each axis."""
_AT_ONCE = 2_000_000
"""Voxels that are decided at the same time: more do not fit a processor's own memory."""


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
    threads: int = 1,
) -> LabelMap:
    """Bring class probabilities back to the scan they came from.

    Probabilities are interpolated and the largest wins, which keeps borders smooth where moving
    the labels themselves would leave steps. That is done a few planes of the scan at a time, and
    there class by class, each only where it can win: of n classes the winner has at least 1/n
    somewhere near. So neither memory nor time grows much with the protocol: 138 classes on a
    256-voxel cube would take 9 GB at once.

    Args:
        shares: Probabilities in protocol order, background first: 0 to 255 or 0.0 to 1.0.
        working: The grid they are on.
        native: The grid of the scan as it was read.
        protocol: What the classes mean.
        threads: That do so at the same time.

    Returns:
        Labels on `native`. Voxels that `working` does not reach are background; of equal
        probabilities the lowest class wins.
    """
    labels = np.zeros(native.shape, dtype=np.int16)
    turn = _Turn.of(native)
    fractions = isinstance(shares, np.ndarray) and shares.dtype != np.uint8
    least = (1.0 if fractions else 255.0) / (2 * len(shares))
    move = _Move(working, turn.grid)
    boxes = ((number, box_in(shares, number, least)) for number in range(1, len(shares)))
    reached = {number: move.reached(box) for number, box in boxes if box is not None}
    if not reached:
        return LabelMap(labels, native, protocol)
    low = np.min([box[0] for box in reached.values()], axis=0)
    high = np.max([box[1] for box in reached.values()], axis=0)
    winners = turn.view(labels)

    def decide(begin: int) -> None:
        planes = np.array([(begin, *low[1:]), (min(begin + thick, high[0]), *high[1:])])
        winners[_slices(*planes)] = _winner(shares, move, reached, planes)

    thick = max(1, _AT_ONCE // max(1, int(np.prod((high - low)[1:]))))
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(decide, range(low[0], high[0], thick)))
    return LabelMap(labels, native, protocol)


def _winner(
    shares: np.ndarray | Shares, move: "_Move", reached: dict[int, _Box], planes: _Box
) -> Int16[np.ndarray, "a b c"]:
    """The class with the largest probability at each voxel of a box of the scan."""
    best = move.share(shares, 0, planes).copy()  # it may be a view of what was given
    winner = np.zeros(best.shape, dtype=np.int16)
    for number, box in reached.items():
        common = np.stack([np.maximum(box[0], planes[0]), np.minimum(box[1], planes[1])])
        if (common[0] >= common[1]).any():
            continue
        here = move.share(shares, number, common)
        cut = _slices(*(common - planes[0]))
        best = best.astype(np.result_type(best, here), copy=False)
        np.copyto(winner[cut], np.int16(number), where=here > best[cut])
        np.maximum(best[cut], here, out=best[cut])
    return winner


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


class _Move:
    """From the grid of a network to that of a scan that faces the same way.

    Args:
        working: The network's.
        native: The scan's.
    """

    def __init__(self, working: Grid, native: Grid) -> None:
        self.working, self.native = working, native
        self._to_native = np.linalg.inv(native.affine) @ working.affine
        self._to_working = np.linalg.inv(self._to_native)
        ratio = max(native.spacing_mm) / min(working.spacing_mm)
        self._reach = 0 if self._is_shift() else math.ceil(max(1.0, ratio))
        """Voxels of the network beyond its own that one of the scan sees."""

    def _is_shift(self) -> bool:
        """Whether voxels lie on voxels."""
        turned, shift = self._to_native[:3, :3] - np.eye(3), self._to_native[:3, 3]
        return bool(np.abs(turned).max() < 1e-6 and np.abs(shift - np.round(shift)).max() < 5e-5)

    def reached(self, box: _Box) -> _Box:
        """The voxels of the scan that may see a box of the network's grid."""
        grown = np.stack([box[0] - self._reach, box[1] + self._reach])
        return _clipped(*_bounds(self._to_native, grown), self.native.shape)

    def share(
        self, shares: np.ndarray | Shares, number: int, box: _Box
    ) -> Shaped[np.ndarray, "a b c"]:
        """One class in a box of the scan."""
        first, last = _bounds(self._to_working, box)
        margin = 2 * self._reach  # the smoothing before a coarser scan looks farther than it does
        low, high = _clipped(first - margin, last + margin, shares.shape[1:])
        around = cut_of(shares, number, index(low), index(high - low))
        lattice = part_of(self.working, index(low), index(high - low))
        target = part_of(self.native, index(box[0]), index(box[1] - box[0]))
        return resample(around, lattice, target, 0.0)


def _bounds(
    matrix: Float64[np.ndarray, "4 4"], box: _Box
) -> tuple[Float64[np.ndarray, "3"], Float64[np.ndarray, "3"]]:
    """Where the outermost voxels of a box come to lie, at least and at most along each axis."""
    corners = np.array(list(product(*zip(box[0], box[1] - 1, strict=True))), dtype=float)
    found = np.round(corners @ matrix[:3, :3].T + matrix[:3, 3], 5)
    return found.min(axis=0), found.max(axis=0)


def _clipped(
    low: Float64[np.ndarray, "3"], high: Float64[np.ndarray, "3"], shape: tuple[int, ...]
) -> _Box:
    """The box of all voxels from one position to another that there are; it may be empty."""
    first = np.clip(np.floor(low).astype(int), 0, shape)
    last = np.clip(np.ceil(high).astype(int) + 1, 0, shape)
    return np.stack([first, np.maximum(first, last)])


def _slices(low: np.ndarray, high: np.ndarray) -> tuple[slice, ...]:
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
