"""Interpolating between two grids that face the same way; `conform` turns them so."""

import numpy as np
from jaxtyping import Float32, Shaped

from fewlabel.grid import Grid


def resample(
    data: Shaped[np.ndarray, "i j k"], source: Grid, target: Grid, outside: float
) -> Shaped[np.ndarray, "a b c"]:
    """Linear interpolation, averaging where the target is coarser.

    Gives float32, or the type of `data` where voxels only move by whole numbers.

    Args:
        data: Intensities or probabilities on `source`, of any number type.
        source: Where they lie.
        target: Where to go; its axes point roughly where those of `source` do.
        outside: What target voxels get that `source` does not reach.
    """
    if not data.size:
        return np.full(target.shape, outside, dtype=data.dtype)
    matrix = np.linalg.inv(source.affine) @ target.affine
    scale, offset = np.diag(matrix)[:3], matrix[:3, 3]
    off_axis = np.abs(matrix[:3, :3] - np.diag(scale)) @ np.array(target.shape)
    if off_axis.max() > 0.01:
        return _resample_tilted(data, source, target, outside)
    axes = sorted(range(3), key=lambda n: target.shape[n] / source.shape[n])
    for axis in axes:
        line = _Line(
            source.shape[axis], target.shape[axis], float(scale[axis]), float(offset[axis])
        )
        data = line.along(data, axis, outside)
    return data


class _Line:
    """One axis of a move: target voxel n looks at source position offset + scale * n."""

    def __init__(self, n_source: int, n_target: int, scale: float, offset: float) -> None:
        self.n_source, self.n_target = n_source, n_target
        self.scale, self.offset = round(scale, 9), round(offset, 5)

    def along(self, data: np.ndarray, axis: int, outside: float) -> np.ndarray:
        if abs(self.scale - 1) * self.n_target < 0.001 and abs(self.offset % 1 - 0.5) > 0.4999:
            return self._shifted(data, axis, round(self.offset), outside)
        weights, inside = self._weights()
        moved = _weighted(data, weights, axis)
        moved.swapaxes(0, axis)[~inside] = outside
        return moved

    def _shifted(self, data: np.ndarray, axis: int, shift: int, outside: float) -> np.ndarray:
        first = max(shift, 0)
        last = max(first, min(shift + self.n_target, self.n_source))
        kept = data.swapaxes(0, axis)[first:last]
        if len(kept) == self.n_target:
            return kept.swapaxes(0, axis)
        padded = np.full((self.n_target, *kept.shape[1:]), outside, dtype=data.dtype)
        if len(kept):
            padded[first - shift : last - shift] = kept
        return padded.swapaxes(0, axis)

    def _weights(self) -> tuple[Float32[np.ndarray, "target source"], np.ndarray]:
        """Share of each source voxel in each target voxel, and which targets see the source.

        A triangle of half-width one voxel, of the source or the target, whichever is larger.
        """
        center = self.offset + self.scale * np.arange(self.n_target)
        distance = np.abs(np.arange(self.n_source) - center[:, None])
        weights = np.clip(1 - distance / max(1.0, self.scale), 0, None)
        weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-9)
        half = max(1.0, self.scale) / 2 + 1e-6
        inside = (center >= -half) & (center <= self.n_source - 1 + half)
        return weights.astype(np.float32), inside


def _weighted(
    data: Shaped[np.ndarray, "i j k"], weights: Float32[np.ndarray, "target source"], axis: int
) -> Float32[np.ndarray, "a b c"]:
    """Sums along an axis, over the few neighbors whose weights are not zero.

    Plane by plane, as what fits a processor's own memory is computed several times as fast.
    """
    seen = weights > 0
    reach = max(1, int(seen.sum(axis=1).max()))
    first = np.minimum(seen.argmax(axis=1), weights.shape[1] - reach)
    places = [first + n for n in range(reach)]
    shares = [weights[np.arange(len(weights)), place] for place in places]
    shape = list(data.shape)
    shape[axis] = len(weights)
    moved = np.empty(shape, dtype=np.float32)
    if axis == 0:
        for n, plane in enumerate(moved):
            np.multiply(data[places[0][n]], shares[0][n], out=plane)
            for place, share in zip(places[1:], shares[1:], strict=True):
                np.add(plane, data[place[n]] * share[n], out=plane)
        return moved
    shares = [share[:, None] if axis == 1 else share for share in shares]
    for plane, given in zip(moved, data, strict=True):
        np.multiply(given.take(places[0], axis - 1), shares[0], out=plane)
        for place, share in zip(places[1:], shares[1:], strict=True):
            np.add(plane, given.take(place, axis - 1) * share, out=plane)
    return moved


def _resample_tilted(
    data: np.ndarray, source: Grid, target: Grid, outside: float
) -> Float32[np.ndarray, "a b c"]:
    """Between grids at an angle: smooth along the source's axes, then look up."""
    from scipy.ndimage import affine_transform, gaussian_filter

    fine, coarse = np.array(source.spacing_mm), np.array(target.spacing_mm).max()
    # A triangle of half-width w has variance w^2 / 6; looking up adds that of the source's own.
    sigma = np.sqrt(np.maximum(coarse**2 - fine**2, 0) / 6) / fine
    data = data.astype(np.float32, copy=False)
    if sigma.max() > 0.1:
        data = gaussian_filter(data, sigma, mode="nearest", truncate=3.0)
    matrix = np.linalg.inv(source.affine) @ target.affine
    moved: np.ndarray = affine_transform(
        data, matrix[:3, :3], matrix[:3, 3], target.shape, order=1, cval=outside, prefilter=False
    )
    return moved
