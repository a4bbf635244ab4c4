"""Training images made more varied: bent, turned, mirrored, and spoiled as scanners do.

Everything happens on one patch at a time, on its device, and follows from one generator. Labels
are moved to the nearest voxel; what comes from beyond the patch is -1, for nobody has looked
there. MONAI has such transforms too; one field for all spatial changes and plain torch operations
take a fraction of their time on a CPU.
"""

import math

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from fewlabel.settings import Settings

Image = Float[Tensor, "c i j k"]
Classes = Int[Tensor, "i j k"]
Shape = tuple[int, int, int]


class AugmentConfig(Settings):
    """How far chance may go. All amounts are the largest, drawn evenly from zero up."""

    flip: float = Field(default=0.5, ge=0, le=1)
    """Chance of a mirrored patch, with left and right structures exchanged."""
    move: float = Field(default=0.7, ge=0, le=1)
    """Chance of any of the spatial changes that follow."""
    rotation_deg: float = Field(default=15.0, ge=0)
    scaling: float = Field(default=0.15, ge=0, lt=1)
    elastic_voxels: float = Field(default=2.5, ge=0)
    """Standard deviation of the displacement of points that are 16 voxels apart."""
    margin_voxels: int = Field(default=8, ge=0)
    """How much more of the scan is read on every side, to turn and shrink without gaps."""
    bias: float = Field(default=0.3, ge=0)
    """Standard deviation of the logarithm of the bias field."""
    gamma: float = Field(default=0.3, ge=0)
    """Largest absolute logarithm of gamma."""
    noise: float = Field(default=0.05, ge=0)
    """Standard deviation; the whole range of intensities is 1."""
    blur_voxels: float = Field(default=1.0, ge=0)
    low_resolution: float = Field(default=2.0, ge=1)
    """How many voxels along one axis are made one."""
    chance: float = Field(default=0.3, ge=0, le=1)
    """Of each of bias, gamma, noise, blur and low resolution."""


NOTHING = AugmentConfig(flip=0, move=0, chance=0, margin_voxels=0)
"""Leaves patches as they are."""


def augment(
    image: Image, classes: Classes, shape: Shape, config: AugmentConfig, rng: torch.Generator
) -> tuple[Float[Tensor, "c x y z"], Int[Tensor, "x y z"]]:
    """A bent and spoiled copy of a patch.

    Mirroring is apart, in `mirrored`, as it changes what labels mean.

    Args:
        image: Intensities from 0 to 1; a channel for each modality.
        classes: Labels; -1 where nobody has looked.
        shape: Voxels wanted, from the middle; at most those of `image`.
        config: How far chance may go.
        rng: Where chance comes from; on the CPU.

    Returns:
        Both at `shape`.
    """
    if _chance(config.move, rng):
        where = _positions(image.shape[1:], shape, config, rng).to(image.device)
        image, classes = sample_linear(image, where), sample_nearest(classes, where)
    else:
        image, classes = _middle(image, shape), _middle(classes, shape)
    return torch.stack([_spoil(channel, config, rng) for channel in image]), classes


def mirrored(image: Image, classes: Classes) -> tuple[Image, Classes]:
    """Left and right exchanged; the caller exchanges the meaning of the labels.

    See `Contract.mirrored`. The first axis must run from left to right.
    """
    return image.flip(1), classes.flip(0)


def sample_linear(image: Image, where: Float[Tensor, "x y z 3"]) -> Float[Tensor, "c x y z"]:
    """Intensities at positions from -1 to 1 (k, j, i); zero beyond the image."""
    return F.grid_sample(image[None], where[None], align_corners=True)[0]


def sample_nearest(classes: Classes, where: Float[Tensor, "x y z 3"]) -> Int[Tensor, "x y z"]:
    """Labels of the voxels nearest to positions; -1 beyond the map."""
    above_zero = (classes + 1).float()[None, None]
    found = F.grid_sample(above_zero, where[None], mode="nearest", align_corners=True)
    return found[0, 0].to(classes.dtype) - 1


def _positions(
    source: torch.Size, shape: Shape, config: AugmentConfig, rng: torch.Generator
) -> Float[Tensor, "i j k 3"]:
    """Where in the source, from -1 to 1 in the order k, j, i, each voxel looks.

    Computed at a few control points; as turning and scaling are linear, the voxels between
    them follow by interpolation.
    """
    coarse = [max(2, round((n - 1) / 16) + 1) for n in shape]
    axes = [
        torch.linspace(-(n - 1) / 2, (n - 1) / 2, m) for n, m in zip(shape, coarse, strict=True)
    ]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    bend = _uniform(0.0, config.elastic_voxels, rng) * torch.randn(points.shape, generator=rng)
    points = (points + bend) @ _affine(config, rng)
    half = torch.tensor([max(n - 1, 1) / 2 for n in source])
    points = (points / half).flip(-1)
    # Channels last in memory, which is how grid_sample reads positions.
    control = points.permute(3, 0, 1, 2)[None].contiguous(memory_format=torch.channels_last_3d)
    dense = F.interpolate(control, size=shape, mode="trilinear", align_corners=True)
    return dense[0].permute(1, 2, 3, 0).contiguous()


def _affine(config: AugmentConfig, rng: torch.Generator) -> Float[Tensor, "3 3"]:
    """A turn about each axis and a change of size along each."""
    matrix = torch.diag(
        torch.tensor([1 + _uniform(-config.scaling, config.scaling, rng) for _ in range(3)])
    )
    for first, second in ((0, 1), (0, 2), (1, 2)):
        angle = math.radians(_uniform(-config.rotation_deg, config.rotation_deg, rng))
        turn = torch.eye(3)
        turn[first, first] = turn[second, second] = math.cos(angle)
        turn[first, second], turn[second, first] = -math.sin(angle), math.sin(angle)
        matrix = matrix @ turn
    return matrix


def _spoil(
    image: Float[Tensor, "i j k"], config: AugmentConfig, rng: torch.Generator
) -> Float[Tensor, "i j k"]:
    """Bias field, gamma, blur, low resolution and noise, in the order in which they arise."""
    if _chance(config.chance, rng):
        image = image * _bias(image, _uniform(0.0, config.bias, rng), rng)
    if _chance(config.chance, rng):
        image = image.clamp(min=0) ** math.exp(_uniform(-config.gamma, config.gamma, rng))
    if _chance(config.chance, rng):
        image = _blurred(image, _uniform(0.0, config.blur_voxels, rng))
    if _chance(config.chance, rng):
        axis = min(int(_uniform(0.0, 3.0, rng)), 2)
        image = _thickened(image, axis, _uniform(1.0, config.low_resolution, rng))
    if _chance(config.chance, rng):
        noise = torch.randn(image.shape, generator=rng).to(image.device)
        image = image.add(noise, alpha=_uniform(0.0, config.noise, rng))
    return image


def _bias(image: Tensor, spread: float, rng: torch.Generator) -> Float[Tensor, "i j k"]:
    points = (spread * torch.randn((1, 1, 4, 4, 4), generator=rng)).to(image.device)
    field = F.interpolate(points, size=image.shape, mode="trilinear", align_corners=True)
    return field[0, 0].exp_()


def _blurred(image: Tensor, sigma: float) -> Float[Tensor, "i j k"]:
    """Gaussian blur, one axis after another; the edge voxels go on beyond the edge."""
    if sigma < 0.2:
        return image
    reach = max(1, math.ceil(2.5 * sigma))
    weights = [math.exp(-0.5 * (n / sigma) ** 2) for n in range(reach + 1)]
    total = weights[0] + 2 * sum(weights[1:])
    for axis in range(3):
        size, pad = image.shape[axis], [0, 0] * (2 - axis) + [reach, reach] + [0, 0] * axis
        wide = F.pad(image[None, None], pad, mode="replicate")[0, 0]
        image = wide.narrow(axis, reach, size) * (weights[0] / total)
        for n in range(1, reach + 1):
            image.add_(wide.narrow(axis, reach - n, size), alpha=weights[n] / total)
            image.add_(wide.narrow(axis, reach + n, size), alpha=weights[n] / total)
    return image


def _thickened(image: Tensor, axis: int, factor: float) -> Float[Tensor, "i j k"]:
    """Averaged over thick slices, then interpolated back."""
    size = list(image.shape)
    size[axis] = max(1, round(size[axis] / factor))
    thick = F.interpolate(image[None, None], size=size, mode="area")
    return F.interpolate(thick, size=image.shape, mode="trilinear", align_corners=False)[0, 0]


def _middle(volume: Tensor, shape: Shape) -> Tensor:
    for axis, length in enumerate(shape, start=volume.dim() - 3):
        volume = volume.narrow(axis, (volume.shape[axis] - length) // 2, length)
    return volume


def _uniform(low: float, high: float, rng: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=rng))


def _chance(share: float, rng: torch.Generator) -> bool:
    return float(torch.rand((), generator=rng)) < share
