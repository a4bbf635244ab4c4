"""What scans of a study are like at worst: noise, motion, thick slices, a bias field.

Every function takes a scan, upright, and gives a new one on the same voxels.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Shaped

from fewlabel.conform import turned
from fewlabel.volume import Scan

Damage = Callable[[Scan, np.random.Generator], Scan]
INTACT = "clean"


def facing_up(scan: Scan) -> Scan:
    """The same scan stored facing right, front and up, so that axes have a meaning here."""
    grid, data = turned(scan)
    return Scan(np.ascontiguousarray(data), grid, scan.notes)


def with_data(scan: Scan, data: Shaped[np.ndarray, "i j k"]) -> Scan:
    """Other intensities on the same voxels."""
    return Scan(np.ascontiguousarray(data, dtype=np.float32), scan.grid, scan.notes)


def bright(scan: Scan) -> float:
    """The intensity that 99 % of the voxels of the head stay below; 1 if all are dark."""
    inside = scan.data[scan.data > 0]
    return float(np.percentile(inside, 99)) if inside.size else 1.0


def noisy(scan: Scan, rng: np.random.Generator, share: float) -> Scan:
    """Rician noise, as in magnitude images, of a share of the bright intensities."""
    sd = share * bright(scan)
    real, imaginary = (rng.normal(0, sd, scan.data.shape) for _ in range(2))
    return with_data(scan, np.hypot(scan.data + real, imaginary))


def moved(scan: Scan, rng: np.random.Generator, times: int, mm: float) -> Scan:
    """Motion during the scan: parts of k-space, along y, are from a head that has moved."""
    spectrum = np.fft.fft(scan.data, axis=1)
    n = scan.data.shape[1]
    frequency = np.fft.fftfreq(n)
    order = np.argsort(frequency)  # lines in the order in which they are acquired
    for start in rng.choice(np.arange(n // 8, n), min(times, n - n // 8), replace=False):
        lines = order[start : start + int(rng.integers(n // 24, max(n // 8, n // 24 + 1)))]
        lines = lines[np.abs(frequency[lines]) > 0.01]  # the head is where most lines say
        shift = rng.normal(0, mm, 3) / np.array(scan.grid.spacing_mm)
        rolled = np.roll(spectrum[:, lines], (round(shift[0]), round(shift[2])), (0, 2))
        spectrum[:, lines] = rolled * np.exp(-2j * np.pi * frequency[lines] * shift[1])[:, None]
    return with_data(scan, np.abs(np.fft.ifft(spectrum, axis=1)))


def thick(scan: Scan, mm: float) -> Scan:
    """Slices that are thick from bottom to top, on the voxels of before."""
    from scipy.ndimage import gaussian_filter

    sd = mm / scan.grid.spacing_mm[2] / 2.355
    return with_data(scan, gaussian_filter(scan.data, (0, 0, sd)))


def shaded(scan: Scan, rng: np.random.Generator, strength: float) -> Scan:
    """A bias field: a smooth factor that falls off across the head."""
    from scipy.ndimage import map_coordinates

    coarse = rng.normal(0, 1, (4, 4, 4))
    at = np.meshgrid(*(np.linspace(0, 3, n) for n in scan.data.shape), indexing="ij")
    field = map_coordinates(coarse, at, order=3, mode="nearest")
    field = (field - field.mean()) / field.std()
    return with_data(scan, scan.data * np.exp(strength * field))


MILD: dict[str, Damage] = {
    INTACT: lambda scan, _: scan,
    "noise": lambda scan, rng: noisy(scan, rng, 0.08),
    "motion": lambda scan, rng: moved(scan, rng, 4, 3.0),
    "thick slices": lambda scan, _: thick(scan, 6.0),
    "bias field": lambda scan, rng: shaded(scan, rng, 0.25),
}
"""By name, the scan as it is first. The expected Dice is calibrated on all of these."""
