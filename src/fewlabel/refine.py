"""Deformable registration of one pair by optimization, coarse to fine. Needs torch, no model.

Each step looks at where the two scans disagree locally, moves the field a little along the
gradient of the local correlation, and smooths. Steps are composed, not added, so that the field
stays free of folds.
"""

import torch
from jaxtyping import Float
from pydantic import Field as Setting
from torch import Tensor
from torch.nn import functional as F

from fewlabel.nets.spatial import Field, box_mean, compose, resized, slopes, smooth, warp
from fewlabel.settings import Settings

Scalars = Float[Tensor, "1 1 i j k"]

_NOISE = 1e-4
"""Variance added to local variances of intensities from 0 to 1, so that empty space is still."""


class RefineConfig(Settings):
    """How a pair is optimized.

    Source:
        Local correlation and its gradient at the window's center: Avants et al. 2008, Medical
        Image Analysis 12(1). Departs from it: one-sided, with a momentum on the steps.
    """

    steps: tuple[int, ...] = (20, 30, 20)
    """Per resolution, coarsest first; the last one has the full resolution, each before it half
    of the next."""
    radius: int = Setting(default=2, ge=1)
    """Windows of the local correlation have 2 radius + 1 voxels an edge."""
    smooth_step: float = Setting(default=1.0, ge=0)
    """Standard deviation in voxels; larger fields of motion are preferred to smaller ones."""
    smooth_field: float = Setting(default=0.4, ge=0)
    """The same for the field itself, after each step."""
    step_voxels: float = Setting(default=0.7, gt=0, le=1)
    """How far the voxel that moves most is moved by a step."""
    momentum: float = Setting(default=0.5, ge=0, lt=1)


@torch.no_grad()
def refine(
    fixed: Scalars, moving: Scalars, config: RefineConfig, start: Field | None = None
) -> Field:
    """Find the displacement under which two scans look most alike.

    Args:
        fixed: Intensities from 0 to 1 on cubic voxels.
        moving: The same, roughly in place already.
        config: How.
        start: A displacement to begin with, in voxels; None: none.

    Returns:
        In voxels of `fixed`: where to look `moving` up.
    """
    field = torch.zeros_like(fixed).expand(-1, 3, -1, -1, -1) if start is None else start
    for number, steps in enumerate(config.steps):
        halvings = len(config.steps) - 1 - number
        still, other = _smaller(fixed, halvings), _smaller(moving, halvings)
        if steps and min(still.shape[2:]) > 2 * config.radius:
            field = _climb(still, other, resized(field, still.shape[2:]), steps, config)
    return resized(field, fixed.shape[2:])


@torch.no_grad()
def local_correlation(fixed: Scalars, moving: Scalars, radius: int = 2) -> Scalars:
    """Squared correlation in a window around each voxel, from 0 to 1."""
    return _Windows(fixed, radius).compare(moving)[0]


def _climb(
    fixed: Scalars, moving: Scalars, field: Field, steps: int, config: RefineConfig
) -> Field:
    windows = _Windows(fixed, config.radius)
    motion = torch.zeros_like(field)
    for _ in range(steps):
        warped = warp(moving, field)
        _, slope = windows.compare(warped)
        push = smooth(slope * slopes(warped), config.smooth_step)
        motion = config.momentum * motion + (1 - config.momentum) * push
        farthest = motion.square().sum(dim=1).max().sqrt().clamp(min=1e-9)
        step = motion * (config.step_voxels / farthest)
        field = smooth(compose(step, field), config.smooth_field)
    return field


def _smaller(image: Scalars, halvings: int) -> Float[Tensor, "1 1 x y z"]:
    for _ in range(halvings):
        image = F.avg_pool3d(image, 2, ceil_mode=True, count_include_pad=False)
    return image


class _Windows:
    """Local means and variances of the fixed scan, which stay the same.

    Args:
        fixed: Intensities.
        radius: Of the windows, in voxels.
    """

    def __init__(self, fixed: Scalars, radius: int) -> None:
        self.fixed, self.radius = fixed, radius
        self.mean = box_mean(fixed, radius)
        self.variance = self._variance(fixed, self.mean)

    def compare(self, moving: Scalars) -> tuple[Scalars, Scalars]:
        """Squared local correlation, and its slope by the window's central intensity."""
        mean = box_mean(moving, self.radius)
        variance = self._variance(moving, mean)
        common = box_mean(self.fixed * moving, self.radius) - self.mean * mean
        gain = 2 * common / (self.variance * variance)
        slope = gain * (self.fixed - self.mean - common / variance * (moving - mean))
        return common.square() / (self.variance * variance), slope

    def _variance(self, image: Scalars, mean: Scalars) -> Scalars:
        return (box_mean(image * image, self.radius) - mean * mean).clamp(min=0) + _NOISE
