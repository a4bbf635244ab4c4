"""Losses that say how well a warped scan fits, and how calm the warp is."""

from collections.abc import Sequence
from itertools import product

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fewlabel.nets.spatial import Field, box_mean

Scans = Float[Tensor, "b 1 i j k"]
Classes = Int[Tensor, "1 i j k"]
Probabilities = Float[Tensor, "1 n i j k"]
Scalar = Float[Tensor, ""]

_NOISE = 1e-5


def local_correlation_loss(warped: Scans, fixed: Scans, radius: int = 1) -> Scalar:
    """One minus the mean squared correlation in a window around each voxel.

    Equal up to brightness and contrast of each neighborhood gives 0, unrelated 1. Empty space
    has no correlation, and counts as 1 whatever the warp does. Only windows that lie within the
    scans count.

    Args:
        warped: Intensities of about 0 to 1.
        fixed: The same.
        radius: Windows have 2 radius + 1 voxels an edge.

    Source:
        xu2019, L_i. Departs from it: local instead of global, as in the authors' later work.
    """
    a, b = box_mean(warped, radius), box_mean(fixed, radius)
    common = box_mean(warped * fixed, radius) - a * b
    of_warped = (box_mean(warped * warped, radius) - a * a).clamp(min=0) + _NOISE
    of_fixed = (box_mean(fixed * fixed, radius) - b * b).clamp(min=0) + _NOISE
    inner = (..., *(slice(radius, -radius),) * 3)
    return 1 - (common.square() / (of_warped * of_fixed))[inner].mean()


def bending_energy(displacement: Field) -> Scalar:
    """Mean squared second derivatives, per voxel: 0 for every affine motion.

    Source:
        xu2019, L_r; Rueckert et al. 1999, IEEE TMI 18(8).
    """
    energy = displacement.new_zeros(())
    for a in (2, 3, 4):
        bend = _step(_step(displacement, a), a)
        energy = energy + bend.square().mean()
        for b in range(a + 1, 5):
            twist = _step(_step(displacement, a), b)
            energy = energy + 2 * twist.square().mean()
    return energy


def _step(field: Tensor, axis: int) -> Tensor:
    """From each voxel to the next along an axis."""
    n = field.shape[axis] - 1
    return field.narrow(axis, 1, n) - field.narrow(axis, 0, n)


def anatomy_loss(
    displacement: Field, moving: Classes, fixed: Probabilities, every: int = 1
) -> Scalar:
    """One minus the soft Dice of warped and fixed structures, averaged over those present.

    The eight voxels around each looked-up position count for their class by their share in
    linear interpolation, so gradients flow into the displacement, though classes are never
    mixed; and into the fixed probabilities. That is what warping each structure by itself
    gives, at a fraction of the work.

    Args:
        displacement: In voxels, of one pair.
        moving: Classes; -1 where nobody has looked, which does not count.
        fixed: Of each class in the fixed scan, background first; all 0 where nobody has looked.
        every: Look only at every so many voxels along each axis, from a random one on.

    Returns:
        From 0 to 1; 0 if there is no structure on either side.

    Source:
        xu2019, L_a.
    """
    start = torch.randint(every, (3,)).tolist()
    classes, shares = _around(moving[0], displacement[0], start, every)
    theirs = lattice(fixed, start, every)[0].flatten(1)
    shares = shares * ((classes >= 0) & (theirs.sum(0) > 0))
    index = classes.clamp(min=0).long()
    found = shares * theirs.gather(0, index)
    nothing = theirs.new_zeros(len(theirs))
    overlap = nothing.index_add(0, index.flatten(), found.flatten())
    sizes = nothing.index_add(0, index.flatten(), shares.flatten())
    sizes = sizes + (theirs * (classes[0] >= 0)).sum(1)
    present = (sizes > 1).to(sizes.dtype)
    present[0] = 0
    missed = present * (1 - 2 * overlap / sizes.clamp(min=1))
    return missed.sum() / present.sum().clamp(min=1)


def lattice(image: Tensor, start: Sequence[int], every: int) -> Tensor:
    """Every so many voxels along the last three axes, from a first one on."""
    a, b, c = start
    return image[..., a::every, b::every, c::every]


def _around(
    classes: Int[Tensor, "i j k"], displacement: Float[Tensor, "3 i j k"], start: list[int],
    every: int,
) -> tuple[Int[Tensor, "8 v"], Float[Tensor, "8 v"]]:  # fmt: skip
    """Classes of the eight voxels around each looked-up position, and their shares."""
    moved = lattice(displacement, start, every)
    lows, shares = [], []
    for axis, n in enumerate(classes.shape):
        shape = [1, 1, 1]
        shape[axis] = -1
        steps = torch.arange(start[axis], n, every, device=moved.device, dtype=moved.dtype)
        place = (moved[axis] + steps.view(shape)).clamp(0, n - 1).flatten()
        low = place.detach().floor().clamp(max=max(n - 2, 0))
        lows.append(low.long())
        shares.append(place - low)
    flat = classes.flatten()
    found, weights = [], []
    for corner in product((0, 1), repeat=3):
        index, weight = torch.zeros_like(lows[0]), torch.ones_like(shares[0])
        for axis, n in enumerate(classes.shape):
            index = index * n + (lows[axis] + corner[axis]).clamp(max=n - 1)
            weight = weight * (shares[axis] if corner[axis] else 1 - shares[axis])
        found.append(flat[index])
        weights.append(weight)
    return torch.stack(found), torch.stack(weights)
