"""Volumes on the training device: looked up, sampled, blurred, scaled."""

import math

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

Field3D = Float[Tensor, "i j k"]


def scale_robustly(image: Field3D, low: float = 0.5, high: float = 99.5) -> Field3D:
    """`intensity.robust_scale` on tensors, so that training sees what prediction does."""
    ordered = image.flatten()[:: max(1, image.numel() // 1_000_000)].sort().values
    floor = _percentile(ordered, low)
    above = ordered[ordered > floor]
    if above.numel() == 0:
        return torch.zeros_like(image)
    return ((image - floor) / (_percentile(above, high) - floor)).clamp(0, 1)


def _percentile(ordered: Float[Tensor, "n"], percent: float) -> Tensor:
    rank = round(percent / 100 * (ordered.numel() - 1))
    return ordered[max(0, min(ordered.numel() - 1, rank))]


def lookup(table: Tensor, rows: Tensor) -> Tensor:
    """The entry of a table for each of its rows in a volume."""
    return table.index_select(0, rows.flatten().int()).reshape(rows.shape)


def box_blur(image: Field3D) -> Float[Tensor, "a b c"]:
    """Mean of each 2x2x2 neighborhood of `image`: partial volume at twice its spacing."""
    for axis in range(3):
        size = image.shape[axis] - 1
        image = (image.narrow(axis, 0, size) + image.narrow(axis, 1, size)).mul_(0.5)
    return image


def sample_linear(image: Float[Tensor, "a b c"], where: Float[Tensor, "3 i j k"]) -> Field3D:
    """`image` at `where`, in voxels from its middle; 0 outside."""
    scale = torch.tensor([2 / max(n - 1, 1) for n in image.shape], device=image.device)
    grid = (where * scale.reshape(3, 1, 1, 1)).flip(0).permute(1, 2, 3, 0)[None]
    return F.grid_sample(image[None, None], grid, align_corners=True, padding_mode="zeros")[0, 0]


def sample_nearest(
    rows: UInt8[Tensor, "a b c"], where: Float[Tensor, "3 i j k"]
) -> UInt8[Tensor, "i j k"]:
    """The row nearest to each position; background outside."""
    flat = torch.zeros(where.shape[1:], dtype=torch.int64, device=rows.device)
    inside = torch.ones(where.shape[1:], dtype=torch.bool, device=rows.device)
    for axis, size in enumerate(rows.shape):
        index = torch.round(where[axis] + (size - 1) / 2).long()
        inside &= (index >= 0) & (index < size)
        flat = flat * size + index.clamp(0, size - 1)
    return rows.flatten()[flat] * inside


def gaussian_blur(image: Field3D, sigma: float) -> Field3D:
    """`image`, blurred by `sigma` voxels; dark beyond its faces."""
    if sigma < 0.2:
        return image
    reach = max(1, math.ceil(2.5 * sigma))
    offsets = torch.arange(-reach, reach + 1, device=image.device, dtype=image.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    for axis in range(3):
        shape, pad = [1, 1, 1], [0, 0, 0]
        shape[axis], pad[axis] = len(kernel), reach
        image = F.conv3d(image[None, None], kernel.reshape(1, 1, *shape), padding=pad)[0, 0]
    return image


def thicken(image: Field3D, axis: int, factor: float) -> Field3D:
    """Slices `factor` times as thick along an axis, interpolated back."""
    if factor <= 1:
        return image
    size = list(image.shape)
    size[axis] = max(2, round(size[axis] / factor))
    thick = F.interpolate(image[None, None], size=size, mode="area")
    return F.interpolate(thick, size=image.shape, mode="trilinear", align_corners=False)[0, 0]
