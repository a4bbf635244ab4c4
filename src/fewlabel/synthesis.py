"""Images of any contrast, made from label maps.

A label map is all that training needs: every draw deforms it, gives each structure an intensity
and then spoils the picture as scanners do. A network that has seen enough of these needs no
particular contrast and no real image.

Source: that label maps alone can train a network for any contrast was shown by SynthSeg (Billot
2023, doi 10.1016/j.media.2023.102789). Ranges, priors and code are ours.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64, UInt8
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from fewlabel.labels import UNLABELED
from fewlabel.palette import Palette, Prior, Range, contrasts
from fewlabel.sampling import (
    Field3D,
    box_blur,
    gaussian_blur,
    lookup,
    sample_linear,
    sample_nearest,
    scale_robustly,
    thicken,
)
from fewlabel.settings import Settings


class SynthesisConfig(Settings):
    """What is drawn at random, and how far it may go. Pairs are the ends of a uniform draw."""

    rotation_deg: float = Field(default=18.0, ge=0)
    scaling: float = Field(default=0.15, ge=0, lt=1)
    shear: float = Field(default=0.08, ge=0)
    translation_mm: float = Field(default=15.0, ge=0)
    elastic: tuple[tuple[float, float], ...] = ((48.0, 5.0), (24.0, 2.5), (12.0, 1.2))
    """Distance of control points and largest standard deviation of their displacement, in mm."""
    flip: float = Field(default=0.5, ge=0, le=1)
    """Chance of a mirrored head, with left and right structures exchanged."""
    contrasts: Mapping[str, float] = {"t1": 0.75, "t2": 0.1, "random": 0.15}
    """How often each prior on intensities is used; `random` knows no tissue."""
    kinship: float = Field(default=0.0, ge=0, le=1)
    """How much tissues of one family (gray, white, fluid) share their place in the range of a
    prior: 0 draws each by itself; 1 lets all gray structures of an image be bright or dark."""
    invert: float = Field(default=0.0, ge=0, le=1)
    """Chance that what is bright in the head is dark and the other way round; air stays black."""
    strip: float = Field(default=0.6, ge=0, le=1)
    """Chance that everything outside the brain is gone, as after brain extraction."""
    cut: float = Field(default=0.15, ge=0, le=1)
    """Chance that the field of view ends inside the head."""
    cut_share: Range = (0.1, 0.4)
    """How much of the field is then not to be seen."""
    recenter: float = Field(default=0.0, ge=0, le=1)
    """How far what is left is then brought to the middle of the field at most, as a scan of half
    a brain is: 1 is all the way."""
    texture: Range = (0.0, 0.05)
    """Standard deviation within a structure; the whole range of intensities is 1."""
    noise: Range = (0.0, 0.05)
    bias: Range = (0.0, 0.3)
    """Standard deviation of the logarithm of the bias field."""
    gamma: float = Field(default=0.2, ge=0)
    """Standard deviation of the logarithm of gamma."""
    blur_mm: Range = (0.0, 1.0)
    thick: float = Field(default=0.25, ge=0, le=1)
    """Chance of thick slices along one axis."""
    thickness_mm: Range = (2.0, 6.0)


def synthesize(
    rows: UInt8[Tensor, "a b c"],
    palette: Palette,
    config: SynthesisConfig,
    working: tuple[tuple[int, int, int], float, float],
    rng: torch.Generator,
) -> tuple[Float[Tensor, "1 1 i j k"], Int64[Tensor, "1 i j k"]]:
    """One image and what a network shall say of it.

    Args:
        rows: Palette rows of one person, upright (i to the right, j to the front, k up), the
            brain in the middle, on the device that shall do the work.
        palette: What the rows stand for.
        config: How far chance may go.
        working: Shape to return, its spacing in mm, and the spacing of `rows` in mm.
        rng: Where chance comes from; on the same device.

    Returns:
        Intensities from 0 to 1; classes, -1 where the field of view was cut.
    """
    shape, spacing, source_spacing = working
    if _chance(config.flip, rng):
        rows = lookup(torch.from_numpy(palette.partner).to(rows), rows.flip(0))
    gone = _draw_cut(shape, config, rng) if _chance(config.cut, rng) else None
    where = _positions_mm(shape, spacing, config, rng, gone) / source_spacing
    painted = lookup(_intensities(palette, config, rng), rows)
    if source_spacing < 0.75 * spacing:
        painted = box_blur(painted)
    image = sample_linear(painted, where)
    near = sample_nearest(rows, where)
    image = image + _texture(near, palette, config, rng)
    mask = _brain_mask(near, palette, rng) if _chance(config.strip, rng) else None
    before = mask is not None and _chance(0.3, rng)  # noise then fills the emptied space
    if mask is not None and before:
        image = image * mask
    image = _spoil(image.clamp(0, 1), spacing, config, rng)
    if mask is not None and not before:
        image = image * mask
    classes = lookup(torch.from_numpy(palette.learn).to(rows.device), near)
    if gone is not None:  # nothing is seen there, nothing can be learned
        image.narrow(gone.axis, gone.start, gone.size).zero_()
        classes.narrow(gone.axis, gone.start, gone.size).fill_(UNLABELED)
    return scale_robustly(image)[None, None], classes[None]


def _uniform(ends: Range, rng: torch.Generator) -> float:
    low, high = ends
    return low + (high - low) * float(torch.rand((), generator=rng, device=rng.device))


def _chance(share: float, rng: torch.Generator) -> bool:
    return _uniform((0.0, 1.0), rng) < share


def _normal(shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=rng, device=rng.device)


def _smooth_noise(
    shape: tuple[int, int, int], channels: int, coarse: tuple[int, ...], rng: torch.Generator
) -> Float[Tensor, "channels i j k"]:
    """Standard normal noise at a few control points, linear in between."""
    points = _normal((1, channels, *coarse), rng)
    return F.interpolate(points, size=shape, mode="trilinear", align_corners=True)[0]


class _Cut(NamedTuple):
    """Planes of the field that are not to be seen, and how many others were moved there."""

    axis: int
    start: int
    size: int
    moved: int


def _draw_cut(shape: tuple[int, int, int], config: SynthesisConfig, rng: torch.Generator) -> _Cut:
    """Where the field of view ends; what is left of the head may move towards the middle."""
    axis = int(_uniform((0.0, 3.0), rng)) % 3
    gone = int(_uniform(config.cut_share, rng) * shape[axis])
    moved = int(_uniform((0.0, config.recenter), rng) * gone / 2)
    size = gone - moved
    if _chance(0.5, rng):
        return _Cut(axis, 0, size, moved)
    return _Cut(axis, shape[axis] - size, size, -moved)


def _positions_mm(
    shape: tuple[int, int, int],
    spacing: float,
    config: SynthesisConfig,
    rng: torch.Generator,
    gone: _Cut | None = None,
) -> Float[Tensor, "3 i j k"]:
    """Where in the original head, in mm from its middle, each voxel looks."""
    axes = [(torch.arange(n, device=rng.device) - (n - 1) / 2) * spacing for n in shape]
    if gone is not None:
        axes[gone.axis] += gone.moved * spacing
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    for apart_mm, most_mm in config.elastic:
        coarse = tuple(max(2, round(n * spacing / apart_mm) + 1) for n in shape)
        grid = grid + _smooth_noise(shape, 3, coarse, rng) * _uniform((0.0, most_mm), rng)
    moved = torch.einsum("rc,cijk->rijk", _affine(config, rng), grid)
    reach = config.translation_mm
    shift = [_uniform((-reach, reach), rng) for _ in range(3)]
    return moved + torch.tensor(shift, device=rng.device).reshape(3, 1, 1, 1)


def _affine(config: SynthesisConfig, rng: torch.Generator) -> Float[Tensor, "3 3"]:
    """A random rotation, scaling and shear."""
    matrix = torch.eye(3, device=rng.device)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        angle = math.radians(_uniform((-config.rotation_deg, config.rotation_deg), rng))
        turn = torch.eye(3, device=rng.device)
        turn[first, first] = turn[second, second] = math.cos(angle)
        turn[first, second], turn[second, first] = -math.sin(angle), math.sin(angle)
        matrix = matrix @ turn
    size = _uniform((1 - config.scaling, 1 + config.scaling), rng)
    for axis in range(3):
        matrix[:, axis] *= size * _uniform((1 - config.scaling / 2, 1 + config.scaling / 2), rng)
    shear = torch.eye(3, device=rng.device)
    for row, column in ((0, 1), (0, 2), (1, 2)):
        shear[row, column] = _uniform((-config.shear, config.shear), rng)
    return matrix @ shear


def _intensities(
    palette: Palette, config: SynthesisConfig, rng: torch.Generator
) -> Float[Tensor, "rows"]:
    """An intensity for each row: by family and tissue, with a little of its own."""
    names, weights = list(config.contrasts), torch.tensor(list(config.contrasts.values()))
    pick = _uniform((0.0, float(weights.sum())), rng)
    contrast = names[int((weights.cumsum(0) < pick).sum())]
    of_tissue, of_family = {}, {}
    for tissue in sorted(set(palette.tissue)):
        prior = contrasts().get((contrast, tissue), Prior())
        place = _uniform((0.0, 1.0), rng)
        if config.kinship and prior.family:
            if prior.family not in of_family:
                of_family[prior.family] = _uniform((0.0, 1.0), rng)
            place += config.kinship * (of_family[prior.family] - place)
        of_tissue[tissue] = prior.ends[0] + (prior.ends[1] - prior.ends[0]) * place
    if config.invert and _chance(config.invert, rng):
        top = 1.05 * max(of_tissue.values())
        of_tissue = {tissue: top - bright for tissue, bright in of_tissue.items()}
    of_tissue["background"] = 0.0 if _chance(0.8, rng) else of_tissue["background"] * 0.2
    means = torch.tensor([of_tissue[tissue] for tissue in palette.tissue], device=rng.device)
    own = 0.015 * _normal((len(palette.tissue),), rng)
    own[0] = 0.0
    return (means + own).clamp(0, 1)


def _texture(
    near: UInt8[Tensor, "i j k"], palette: Palette, config: SynthesisConfig, rng: torch.Generator
) -> Field3D:
    """Variation within structures: fine grain and slow changes."""
    low, high = config.texture
    spread = low + (high - low) * torch.rand(len(palette.tissue), generator=rng, device=rng.device)
    spread[0] = 0.0
    shape = (near.shape[0], near.shape[1], near.shape[2])
    coarse = tuple(max(2, n // 5) for n in shape)
    grain = 0.7 * _normal(shape, rng) + _smooth_noise(shape, 1, coarse, rng)[0]
    return lookup(spread, near) * grain


def _brain_mask(near: UInt8[Tensor, "i j k"], palette: Palette, rng: torch.Generator) -> Field3D:
    """1 where brain extraction would keep the image: tight, with some or with all CSF."""
    brain = torch.tensor([part == "brain" for part in palette.part], device=near.device)
    csf = torch.tensor([part == "csf" for part in palette.part], device=near.device)
    mask = lookup(brain.float(), near)
    manner = _uniform((0.0, 3.0), rng)
    if manner < 1:
        return mask
    if manner < 2:
        return mask + lookup(csf.float(), near)
    width = 2 * int(_uniform((1.0, 3.0), rng)) + 1
    return F.max_pool3d(mask[None, None], width, stride=1, padding=width // 2)[0, 0]


def _spoil(
    image: Field3D, spacing: float, config: SynthesisConfig, rng: torch.Generator
) -> Field3D:
    """Bias field, gamma, blur, thick slices and noise, in the order in which they arise."""
    shape = (image.shape[0], image.shape[1], image.shape[2])
    strength = _uniform(config.bias, rng)
    image = image * torch.exp(strength * _smooth_noise(shape, 1, (4, 4, 4), rng)[0])
    image = image / image.max().clamp(min=1e-6)
    image = image ** math.exp(config.gamma * float(_normal((), rng)))
    image = gaussian_blur(image, _uniform(config.blur_mm, rng) / spacing)
    if _chance(config.thick, rng):
        axis = int(_uniform((0.0, 3.0), rng)) % 3
        image = thicken(image, axis, _uniform(config.thickness_mm, rng) / spacing)
    return image + _uniform(config.noise, rng) * _normal(shape, rng)
