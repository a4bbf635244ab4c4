"""A head-like thing of ellipsoids: lopsided, so that turns and mirror images show."""

import numpy as np

from fewlabel.grid import Grid
from fewlabel.volume import Scan

PARTS = (  # center and radii in mm, intensity
    ((0, 0, 0), (34, 42, 30), 0.5),
    ((-12, 5, 4), (10, 16, 8), 1.0),
    ((13, -8, 2), (8, 12, 10), 0.8),
    ((2, 22, -9), (6, 5, 7), 0.2),
    ((-6, -24, 10), (7, 6, 5), 0.9),
)


def head(grid, matrix=None, contrast=lambda shade: shade):
    """What a grid sees of the head; `matrix` says where in the head each position is."""
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij")).reshape(3, -1)
    full = (np.eye(4) if matrix is None else matrix) @ grid.affine
    mm = full[:3, :3] @ index + full[:3, 3:]
    shade = np.zeros(mm.shape[1])
    for center, radii, value in PARTS:
        far = (((mm - np.array(center)[:, None]) / np.array(radii)[:, None]) ** 2).sum(axis=0)
        share = np.clip((1 - np.sqrt(far)) * min(radii) / 3 + 0.5, 0, 1)
        shade = shade * (1 - share) + value * share
    shown = np.where(shade > 0, contrast(shade), 0)
    return Scan(shown.reshape(grid.shape).astype(np.float32), grid)


def box(spacing=3.0, half=51.0):
    n = round(2 * half / spacing) + 1
    affine = np.diag([spacing] * 3 + [1.0])
    affine[:3, 3] = -half
    return Grid((n, n, n), affine)
