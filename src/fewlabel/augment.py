"""Training images made more varied: bent, turned, mirrored, and spoiled as scanners do.

Everything happens on one patch at a time, on its device, and follows from one generator. Labels
are moved to the nearest voxel; what comes from beyond the patch is -1, for nobody has looked
there. MONAI has such transforms too; one field for all spatial changes and plain torch operations
take a fraction of their time on a CPU.
"""

import math
from typing import NamedTuple

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
    flip_others: float = Field(default=0.0, ge=0, le=1)
    """Chance of front and back, and of top and bottom exchanged, as no head is. Structures keep
    their names."""
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
    scale_intensity: float = Field(default=0.0, ge=0, lt=1)
    """Largest change of all intensities, as a share of each."""
    shift_intensity: float = Field(default=0.0, ge=0)
    """Largest amount that is added to all intensities; their whole range is 1."""
    chance: float = Field(default=0.3, ge=0, le=1)
    """Of each of bias, gamma, noise, blur, low resolution, scaling and shifting of intensities."""
    drop_modality: float = Field(default=0.0, ge=0, le=1)
    """Chance that all modalities but one are hidden: zero everywhere, as where a case lacks one."""
    synthetic: float = Field(default=0.0, ge=0, le=1)
    """Share of patches in which structures get new intensities; see `repainted`. Only of
    cases whose label maps are complete."""

    def require_from_zero(self, intensity: str) -> None:
        """Refuse changes that are made for intensities from 0 to 1 where they are others.

        Args:
            intensity: Function of `fewlabel.intensity` that scales images.

        Raises:
            ValueError: If it is another one than "robust_scale".
        """
        if intensity == "robust_scale":
            return
        if self.synthetic:
            raise ValueError("`augment.synthetic` needs `working.intensity: robust_scale`")
        if self.chance:
            raise ValueError(
                "`augment.chance` must be 0 unless `working.intensity` is robust_scale: bias and"
                " gamma are made for intensities from 0 to 1"
            )


NOTHING = AugmentConfig(flip=0, move=0, chance=0, margin_voxels=0)
"""Leaves patches as they are."""


class Augmented(NamedTuple):
    """A patch that was changed.

    Attributes:
        image: Intensities of each modality.
        classes: Labels; -1 where nobody has looked.
        growth: How many times as long things are as they were, on average over directions.
    """

    image: Float[Tensor, "c x y z"]
    classes: Int[Tensor, "x y z"]
    growth: float


def augment(
    image: Image, classes: Classes, shape: Shape, config: AugmentConfig, rng: torch.Generator
) -> Augmented:
    """A bent and spoiled copy of a patch.

    Left and right are exchanged apart, in `mirrored`, as that changes what labels mean.

    Args:
        image: Intensities from 0 to 1; a channel for each modality.
        classes: Labels; -1 where nobody has looked.
        shape: Voxels wanted, from the middle; at most those of `image`.
        config: How far chance may go.
        rng: Where chance comes from; on the CPU.

    Returns:
        Both at `shape`.
    """
    growth = 1.0
    for axis in (2, 3):
        if config.flip_others and _chance(config.flip_others, rng):
            image, classes = image.flip(axis), classes.flip(axis - 1)
    if _chance(config.move, rng):
        where, growth = _positions(image.shape[1:], shape, config, rng)
        where = where.to(image.device)
        image, classes = sample_linear(image, where), sample_nearest(classes, where)
    else:
        image, classes = _middle(image, shape), _middle(classes, shape)
    spoiled = torch.stack([_spoil(channel, config, rng) for channel in image])
    return Augmented(spoiled, classes, growth)


def mirrored(image: Image, classes: Classes) -> tuple[Image, Classes]:
    """Left and right exchanged; the caller exchanges the meaning of the labels.

    See `Contract.mirrored`. The first axis must run from left to right.
    """
    return image.flip(1), classes.flip(0)


def repainted(
    image: Image, classes: Classes, partner: Int[Tensor, "n"], rng: torch.Generator
) -> Image:
    """A copy in which structures have random intensities, other ones in each modality.

    What an image shows within a structure is kept in part: texture, folds that nobody drew.

    Args:
        image: Intensities from 0 to 1.
        classes: Complete labels; where they end (-1), there is background.
        partner: Of each class, the same structure on the other side, which gets its intensities.
        rng: Where chance comes from; on the CPU.

    Returns:
        Intensities from 0 to 1.
    """
    where, alike = classes.clamp(min=0).flatten().long(), partner.long()
    alike = torch.minimum(alike, torch.arange(len(alike), device=alike.device)).to(image.device)
    voxels = torch.bincount(where, minlength=len(alike)).clamp(min=1)
    painted = []
    for channel in image:
        old = torch.bincount(where, channel.flatten(), len(alike)) / voxels
        new = torch.rand(len(alike), generator=rng).to(image.device)[alike]
        new[0] *= _chance(0.2, rng)  # mostly, nothing is seen around the head
        new *= _uniform(0.7, 1.0, rng) / new.max().clamp(min=1e-6)
        kept, blur = _uniform(0.0, 1.0, rng), _uniform(0.3, 0.8, rng)
        change = (new - kept * old)[where].reshape(channel.shape)
        painted.append((kept * channel + _blurred(change, blur)).clamp(0, 1))
    return torch.stack(painted)


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
) -> tuple[Float[Tensor, "i j k 3"], float]:
    """Where in the source, from -1 to 1 in the order k, j, i, each voxel looks; and the growth.

    Computed at a few control points; as turning and scaling are linear, the voxels between
    them follow by interpolation.
    """
    coarse = [max(2, round((n - 1) / 16) + 1) for n in shape]
    axes = [
        torch.linspace(-(n - 1) / 2, (n - 1) / 2, m) for n, m in zip(shape, coarse, strict=True)
    ]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    bend = _uniform(0.0, config.elastic_voxels, rng) * torch.randn(points.shape, generator=rng)
    matrix = _affine(config, rng)
    points = (points + bend) @ matrix
    half = torch.tensor([max(n - 1, 1) / 2 for n in source])
    points = (points / half).flip(-1)
    # Channels last in memory, which is how grid_sample reads positions.
    control = points.permute(3, 0, 1, 2)[None].contiguous(memory_format=torch.channels_last_3d)
    dense = F.interpolate(control, size=shape, mode="trilinear", align_corners=True)
    growth = float(torch.linalg.det(matrix)) ** (-1 / 3)
    return dense[0].permute(1, 2, 3, 0).contiguous(), growth


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
    if config.scale_intensity and _chance(config.chance, rng):
        image = image * (1 + _uniform(-config.scale_intensity, config.scale_intensity, rng))
    if config.shift_intensity and _chance(config.chance, rng):
        image = image + _uniform(-config.shift_intensity, config.shift_intensity, rng)
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
