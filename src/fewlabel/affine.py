"""Where a moving scan lies relative to a fixed one: an affine start that needs no other tool.

Mutual information compares the two, so their contrasts may differ. It is climbed along its
gradient from several starts, first on coarse voxels and few degrees of freedom, then on finer
ones and more. Left is never taken for right: no start and no result is a mirror image.
"""

from dataclasses import dataclass, replace
from itertools import product
from typing import TypeVar

import numpy as np
from jaxtyping import Float32, Float64, Int64

from fewlabel.conform import conform, upright
from fewlabel.errors import ScanError
from fewlabel.grid import Grid
from fewlabel.intensity import robust_scale
from fewlabel.volume import LabelMap, Scan

Matrix = Float64[np.ndarray, "4 4"]

_BINS = 32
_RADIUS_MM = 50.0  # a turn or stretch of 1/50 moves the edge of a brain by about 1 mm
_TURN = 0.4  # radians between starts, about each axis
_BRIGHT = 0.2
_LEAST_OVERLAP = 0.3

V = TypeVar("V", Scan, LabelMap)


def affine_between(moving: Scan, fixed: Scan, *, rigid: bool = False) -> Matrix:
    """Find the affine map under which two scans of the same kind of body part agree best.

    Args:
        moving: Any orientation, field of view and contrast.
        fixed: The same.
        rigid: Whether to allow only turns and shifts.

    Returns:
        From positions in the fixed scan to positions in the moving one, both in mm RAS+; its
        determinant is positive.

    Raises:
        ScanError: If one of the scans shows nothing.

    Source:
        Mattes et al. 2003, IEEE TMI 22(1), mutual information from a smoothed joint histogram.
        Departs from it: linear instead of cubic kernels, and all starts are tried.
    """
    size = max(_extent_mm(fixed), 1.0)
    coarse = _Pair.of(moving, fixed, min(8.0, size / 12), 4000)
    fine = _Pair.of(moving, fixed, min(4.0, size / 24), 20_000)
    starts = [coarse.climb(start, 6, 8) for start in coarse.starts()]
    best = sorted(starts, key=coarse.cost)[:2]
    best = [coarse.climb(start, 6, 30) for start in best]
    pose = fine.climb(min(best, key=fine.cost), 6, 30)
    if not rigid:
        pose = fine.climb(fine.climb(pose, 7, 15), 12, 60)
    return pose.matrix()


def moved(volume: V, matrix: Matrix) -> V:
    """The same voxels, placed where the fixed scan sees them; nothing is resampled.

    Args:
        volume: The moving scan or its labels.
        matrix: As `affine_between` gives it.
    """
    return replace(volume, grid=Grid(volume.grid.shape, np.linalg.inv(matrix) @ volume.grid.affine))


def _extent_mm(scan: Scan) -> float:
    return float(np.ptp(scan.grid.corners_mm(), axis=0).max())


@dataclass(frozen=True, eq=False)
class _Pose:
    """An affine map by twelve numbers, each worth about 1 mm at the edge of a brain.

    Three shifts, three turns, a common stretch, two more stretches, three shears.
    """

    numbers: Float64[np.ndarray, "12"]
    center: Float64[np.ndarray, "3"]

    def linear(self) -> Float64[np.ndarray, "3 3"]:
        from scipy.linalg import expm

        exponent = np.tensordot(self.numbers[3:] / _RADIUS_MM, _GENERATORS, 1)
        result: np.ndarray = expm(exponent)
        return result

    def matrix(self) -> Matrix:
        matrix = np.eye(4)
        matrix[:3, :3] = self.linear()
        matrix[:3, 3] = self.center + self.numbers[:3] - matrix[:3, :3] @ self.center
        return matrix


def _generators() -> Float64[np.ndarray, "9 3 3"]:
    out = np.zeros((9, 3, 3))
    for n, (a, b) in enumerate(((1, 2), (2, 0), (0, 1))):
        out[n, a, b], out[n, b, a] = -1, 1
        out[6 + n, a, b] = out[6 + n, b, a] = 1
    out[3] = np.eye(3)
    out[4], out[5] = np.diag([1, -1, 0]), np.diag([0, 1, -1])
    return out


_GENERATORS = _generators()


@dataclass(frozen=True, eq=False)
class _Pair:
    """Samples of the fixed scan, and a small moving scan to look them up in.

    Attributes:
        points: Positions of the samples, in mm.
        bins: Their intensity bins.
        moving: Intensities from 0 to bins - 1, and their gradient per mm.
        to_voxel: From mm to voxels of `moving`.
        closed: Whether darkness surrounds the moving scan: then what is outside is dark too,
            and otherwise unknown.
        middles: Centers of brightness, fixed and moving, in mm.
    """

    points: Float64[np.ndarray, "n 3"]
    bins: Int64[np.ndarray, "n"]
    moving: Float32[np.ndarray, "4 i j k"]
    to_voxel: Matrix
    closed: bool
    middles: tuple[np.ndarray, np.ndarray]

    @classmethod
    def of(cls, moving: Scan, fixed: Scan, spacing_mm: float, most: int) -> "_Pair":
        still, lattice = _small(fixed, spacing_mm)
        other, grid = _small(moving, spacing_mm)
        index = np.argwhere(np.ones(still.shape, dtype=bool))
        if len(index) > most:
            index = index[np.sort(np.random.default_rng(0).choice(len(index), most, False))]
        points = index @ lattice.affine[:3, :3].T + lattice.affine[:3, 3]
        bins = np.rint(still[tuple(index.T)] * (_BINS - 1)).astype(np.int64)
        padded = np.pad(other * (_BINS - 1), 1, mode="edge").astype(np.float32)
        closed = float(np.median(_faces(other))) < _BRIGHT
        if closed:
            padded = np.pad(other * (_BINS - 1), 1).astype(np.float32)
        slopes = np.gradient(padded, *grid.spacing_mm)
        to_voxel = np.linalg.inv(grid.affine)
        to_voxel[:3, 3] += 1
        middles = (_middle(still, lattice), _middle(other, grid))
        return cls(points, bins, np.stack([padded, *slopes]), to_voxel, closed, middles)

    def starts(self) -> list[_Pose]:
        """Middle on middle or place on place, upright or turned about one axis."""
        fixed, moving = self.middles
        turns = [np.zeros(3), *(_TURN * s * np.eye(3)[a] for a in range(3) for s in (-1, 1))]
        shifts = [moving - fixed, np.zeros(3)]
        return [
            _Pose(np.concatenate([shift, _RADIUS_MM * turn, np.zeros(6)]), fixed)
            for shift, turn in product(shifts, turns)
        ]

    def climb(self, pose: _Pose, freedom: int, steps: int) -> _Pose:
        """Improve the first `freedom` numbers of a pose."""
        from scipy.optimize import minimize

        def value(numbers: np.ndarray) -> tuple[float, np.ndarray]:
            full = np.concatenate([numbers, pose.numbers[freedom:]])
            cost, slope = self._cost_and_slope(_Pose(full, pose.center))
            return cost, slope[:freedom]

        found = minimize(
            value, pose.numbers[:freedom], jac=True, method="L-BFGS-B",
            options={"maxiter": steps},
        )  # fmt: skip
        return _Pose(np.concatenate([found.x, pose.numbers[freedom:]]), pose.center)

    def cost(self, pose: _Pose) -> float:
        """Mutual information in nats, negative."""
        return self._cost_and_slope(pose)[0]

    def _cost_and_slope(self, pose: _Pose) -> tuple[float, np.ndarray]:
        from scipy.ndimage import map_coordinates

        matrix = self.to_voxel @ pose.matrix()
        places = matrix[:3, :3] @ self.points.T + matrix[:3, 3:]
        bins, points = self.bins, self.points
        if not self.closed:
            last = np.array(self.moving.shape[1:])[:, None] - 2
            inside = ((places >= 1) & (places <= last)).all(axis=0)
            if inside.mean() < _LEAST_OVERLAP:
                return 0.0, np.zeros(12)
            places, bins, points = places[:, inside], bins[inside], points[inside]
        seen = np.stack([map_coordinates(part, places, order=1) for part in self.moving])
        cost, by_intensity = _information(bins, np.clip(seen[0], 0, _BINS - 1))
        per_mm = by_intensity * seen[1:]
        by_linear = per_mm @ (points - pose.center)
        return cost, np.concatenate([per_mm.sum(axis=1), _through_exponent(pose, by_linear)])


def _small(scan: Scan, spacing_mm: float) -> tuple[Float32[np.ndarray, "i j k"], Grid]:
    """Intensities from 0 to 1 on coarse, upright voxels."""
    grid = upright(scan.grid, spacing_mm)
    data = robust_scale(conform(scan, grid).data)
    if not data.any():
        raise ScanError(
            f"A scan of {scan.grid} shows nothing at {spacing_mm:g} mm: all voxels are alike.",
            fix="look at the file, for example with `fewlabel info SCAN`.",
        )
    return data, grid


def _faces(data: np.ndarray) -> np.ndarray:
    return np.concatenate([np.take(data, (0, -1), axis).ravel() for axis in range(3)])


def _middle(data: np.ndarray, grid: Grid) -> np.ndarray:
    bright = np.argwhere(data > _BRIGHT)
    middle: np.ndarray = bright.mean(axis=0) @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    return middle


def _information(bins: np.ndarray, values: np.ndarray) -> tuple[float, np.ndarray]:
    """Mutual information in nats, negative, and its derivative by each value.

    A value between two bins counts for both, in proportion. So it moves weight from one to the
    other, and the information changes by the difference of log p(f, m) / p(m) between them.
    """
    low = np.minimum(values.astype(np.int64), _BINS - 2)
    share = values - low
    cell = bins * _BINS + low
    counts = np.bincount(cell, 1 - share, _BINS**2) + np.bincount(cell + 1, share, _BINS**2)
    joint = counts.reshape(_BINS, _BINS) / len(values) + 1e-9
    of_moving = joint.sum(axis=0)
    gain = np.log(joint / of_moving)
    cost = -float((joint * (gain - np.log(joint.sum(axis=1))[:, None])).sum())
    table = gain.ravel()
    return cost, -(table[cell + 1] - table[cell]) / len(values)


def _through_exponent(pose: _Pose, by_linear: np.ndarray) -> Float64[np.ndarray, "9"]:
    """From the derivative by the linear part to that by the numbers that it is made of."""
    own, step = pose.linear(), 1e-4
    slopes = []
    for n in range(3, 12):
        numbers = pose.numbers.copy()
        numbers[n] += step
        slopes.append(float((by_linear * (_Pose(numbers, pose.center).linear() - own)).sum()))
    return np.array(slopes) / step
