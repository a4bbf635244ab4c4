"""Intensities on a scale that networks can share."""

import numpy as np
from jaxtyping import Float32

_SHADES = 4096


def robust_scale(
    data: Float32[np.ndarray, "i j k"], low: float = 0.5, high: float = 99.5
) -> Float32[np.ndarray, "i j k"]:
    """Intensities from 0 to 1, with the darkest and brightest few clipped.

    0 stands for the `low` percentile of all voxels, 1 for the `high` percentile of the voxels
    above it, so that it matters little how much empty space surrounds the head. An image of one
    intensity becomes all zeros.

    Args:
        data: Intensities, arbitrary units.
        low: Percentile that becomes 0.
        high: Percentile that becomes 1.
    """
    sample = data.ravel()[:: max(1, data.size // 1_000_000)]
    floor = np.percentile(sample, low)
    above = sample[sample > floor]
    if above.size == 0:
        return np.zeros_like(data)
    scaled = (data - np.float32(floor)) / np.float32(np.percentile(above, high) - floor)
    return np.clip(scaled, 0.0, 1.0, out=scaled)


def z_score(data: Float32[np.ndarray, "i j k"]) -> Float32[np.ndarray, "i j k"]:
    """Intensities with mean 0 and standard deviation 1 over the voxels that are not 0.

    Source:
        dai2019, section 3.2. Departs from it: the paper does not say which voxels count; as
        scans come with and without empty space around the brain, zeros are left out.
    """
    inside = data[data != 0]
    if inside.size == 0:
        return np.zeros_like(data)
    spread = max(float(inside.std()), 1e-6)
    scaled: np.ndarray = ((data - inside.mean()) / spread).astype(np.float32)
    return scaled


def equalize(data: Float32[np.ndarray, "i j k"]) -> Float32[np.ndarray, "i j k"]:
    """Intensities from 0 to 255 that are all about equally common.

    The darkest voxels become 0 and are left out of the count: how much empty space surrounds
    the head would else decide how much contrast is left inside it. An image of one intensity
    becomes all zeros.

    Args:
        data: Intensities, arbitrary units.

    Source:
        xu2017, section 3, pre-processing. Departs from it: the paper does not say which voxels
        count.
    """
    sample = data.ravel()[:: max(1, data.size // 4_000_000)]
    low = float(data.min())
    above = sample[sample > low]
    if above.size == 0:
        return np.zeros_like(data)
    steps = np.float32((_SHADES - 1) / (np.percentile(above, 99.9) - low))
    count = np.bincount(_shades(sample, low, steps), minlength=_SHADES)
    count[0] = 0
    table = (255 * np.cumsum(count) / count.sum()).astype(np.float32)
    equalized: np.ndarray = table[_shades(data, low, steps)]
    return equalized


def _shades(data: np.ndarray, low: float, steps: np.float32) -> np.ndarray:
    """Numbers from 0, for what is as dark as `low` and nothing else, to `_SHADES` - 1."""
    scaled = np.ceil((data - np.float32(low)) * steps)
    shades: np.ndarray = np.clip(scaled, 0, _SHADES - 1, out=scaled).astype(np.uint16)
    return shades
