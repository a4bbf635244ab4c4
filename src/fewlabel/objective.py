"""What a U-Net with any number of heads is asked, all at once."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from fewlabel.batches import WINDOW
from fewlabel.losses import Classes, Loss, Merge, dice_and_cross_entropy
from fewlabel.nets.unet import AGE, UNet, Window, inside
from fewlabel.settings import Settings
from fewlabel.train.stage import Batch, Losses


class ObjectiveConfig(Settings):
    """How much each thing that is asked counts; the cross-entropy counts 1."""

    dice_weight: float = Field(default=1.0, ge=0)
    dice: Literal["linear", "log"] = "linear"
    """One minus the overlap of a structure, or minus its logarithm, which does not let go of
    structures that are small or found late."""
    age_weight: float = Field(default=0.01, ge=0)
    """Of squared weeks, if the network tells the age."""
    coarse: Literal["labels", "logits"] = "labels"
    """What is brought to the other's resolution where coarse logits are judged: labels, as in
    the paper richter2022, or logits, as in its code."""


def losses_of(net: UNet, batch: Batch, config: ObjectiveConfig) -> Losses:
    """Dice and cross-entropy over whatever the batch has labels for, and the error of ages.

    Args:
        net: Heads are averaged; each resolution counts half as much as the finer one.
        batch: "image", for each head "classes/NAME" and "merge/NAME", and "age_weeks" if the
            network tells the age. With "window", the network is judged at full resolution in
            there only, if it can be.
        config: What counts how much.
    """
    window = _window(batch) if net.in_windows else None
    found = net.deep(batch["image"], window)
    both = torch.zeros(2, device=batch["image"].device)
    for name in net.decoders:
        classes, merge = batch[f"classes/{name}"], batch[f"merge/{name}"]
        one = supervise(
            found[name],
            classes,
            merge,
            partial(_both, log=config.dice == "log"),
            upsampled=config.coarse == "logits",
            finest=inside(classes, window),
        )
        both = both + one / len(net.decoders)
    entropy, dice = both
    losses = {"total": entropy + config.dice_weight * dice, "cross-entropy": entropy, "dice": dice}
    if net.age is not None:
        losses["squared age error"] = error = age_error(found[AGE], batch["age_weeks"])
        losses["total"] = losses["total"] + config.age_weight * error
    return losses


def _window(batch: Batch) -> Window | None:
    """The first image's: one for all, as a network takes one."""
    if WINDOW not in batch:
        return None
    i, j, k = (slice(int(a), int(b)) for a, b in batch[WINDOW][0])
    return i, j, k


def age_error(found_weeks: Float[Tensor, "b"], age_weeks: Float[Tensor, "b"]) -> Float[Tensor, ""]:
    """Mean squared error of ages in weeks; scans of unknown age (NaN) do not count.

    Source:
        richter2022, AgeU-Net.
    """
    known = ~age_weeks.isnan()
    error = torch.where(known, found_weeks - age_weeks.nan_to_num(), 0.0)
    return (error**2).sum() / known.sum().clamp(min=1)


def supervise(
    levels: Sequence[Tensor],
    classes: Classes,
    merge: Merge | None,
    loss: Loss,
    *,
    upsampled: bool = False,
    finest: Int[Tensor, "b x y z"] | None = None,
) -> Float[Tensor, "..."]:
    """A loss at several resolutions, each counting half as much as the finer one.

    A coarse voxel gets the label of the fine voxel it is centered on. It is unlabeled if that
    one is, even if others under it are not, so that no label is stretched over unseen tissue.

    Args:
        levels: Logits, finest first, each with half the resolution of the one before.
        classes: Labels at the finest resolution; -1 where nobody has looked.
        merge: As in `losses.cross_entropy`.
        loss: Of one resolution; or several losses, in one tensor.
        upsampled: Judge coarse logits by every label they cover, as the published code does,
            where the paper brings labels to each resolution. The finest costs its price each time.
        finest: Labels for the finest logits, if those are of a part of the image only.

    Returns:
        The weighted mean.

    Source:
        richter2022, eq. 3. Departs from it: weights add up to 1.
    """
    total = classes.new_zeros((), dtype=torch.float32)
    for number, logits in enumerate(levels):
        step = 2**number
        near = classes if upsampled else classes[:, ::step, ::step, ::step]
        spread = F.interpolate(logits, classes.shape[1:]) if upsampled and number else logits
        if number == 0 and finest is not None:
            near = finest
        total = total + 0.5**number * loss(spread, near, merge)
    return total / sum(0.5**number for number in range(len(levels)))


def _both(
    logits: Tensor, classes: Tensor, merge: Tensor | None, *, log: bool
) -> Float[Tensor, "2"]:
    return torch.stack(dice_and_cross_entropy(logits, classes, merge, log=log))
