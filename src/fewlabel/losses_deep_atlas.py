"""What each of DeepAtlas's two networks learns from while the other is held still."""

from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from fewlabel.augment import AugmentConfig, augment
from fewlabel.labels import UNLABELED
from fewlabel.losses import dice_and_cross_entropy, soft_dice
from fewlabel.losses_registration import anatomy_loss, bending_energy, local_correlation_loss
from fewlabel.nets.register import RegistrationNet
from fewlabel.nets.spatial import resized, warp, warp_classes
from fewlabel.patches import Index
from fewlabel.settings import Settings
from fewlabel.train.stage import Batch, Losses, Networks

_MOST_CARRIED = 100
"""Scans and label maps that are kept; of brains at 2 mm they take 0.4 GB."""


class RegistrationLoss(Settings):
    """What counts in registration; the weight of the local correlation is 1."""

    bending: float = Field(default=1.0, ge=0)
    """Weight of the bending energy, at half resolution."""
    anatomy: float = Field(default=1.0, ge=0)
    """Weight of the anatomy loss."""
    radius: int = Field(default=2, ge=1)
    """Windows of the local correlation have 2 radius + 1 voxels an edge."""
    every: int = Field(default=2, ge=1)
    """The anatomy loss looks at every so many voxels along each axis, from a random one on."""


@dataclass(frozen=True)
class Classes:
    """What the segmentation network tells apart, and what the labels do.

    Attributes:
        head: Name of its output.
        merge: The class that stands for each class in the labels; see `pairs.told_apart`.
    """

    head: str
    merge: tuple[int, ...]

    def table(self, like: Tensor) -> Int[Tensor, "n"]:
        """`merge` as a tensor, where `like` is."""
        return torch.tensor(self.merge, device=like.device)


@dataclass(frozen=True)
class RegisterTurn:
    """The registration network's loss.

    Attributes:
        config: What counts.
        classes: What is told apart.
        teacher: The segmentation network that stands in for labels; None: the anatomy loss
            counts only where both scans have labels.

    Source:
        xu2019, eq. of the registration loss.
    """

    config: RegistrationLoss
    classes: Classes
    teacher: str | None = None

    def __call__(self, networks: Networks, batch: Batch) -> Losses:
        """Losses of a batch of `Pairs`."""
        fixed, moving = batch["fixed"], batch["moving"]
        net = cast("RegistrationNet", networks["register"])
        coarse = net.coarse(fixed, moving)
        displacement = resized(coarse, fixed.shape[2:])
        likeness = local_correlation_loss(warp(moving, displacement), fixed, self.config.radius)
        bending = bending_energy(coarse)
        losses = {"correlation": likeness, "bending": bending}
        total = likeness + self.config.bending * bending
        theirs = self._probabilities(networks, fixed, batch["fixed_classes"])
        labels = self._labels(networks, moving, batch["moving_classes"])
        if theirs is not None and labels is not None and self.config.anatomy:
            anatomy = anatomy_loss(displacement, labels, theirs, self.config.every)
            total = total + self.config.anatomy * anatomy
            losses["anatomy"] = anatomy
        else:
            losses["anatomy"] = torch.zeros_like(likeness)
        return {"total": total, **losses}

    def _probabilities(self, networks: Networks, image: Tensor, known: Tensor) -> Tensor | None:
        n = len(self.classes.merge)
        if bool((known != UNLABELED).any()):
            return F.one_hot(known.long() + 1, n + 1)[..., 1:].movedim(-1, 1).float()
        seen = self._segmented(networks, image)
        if seen is None:
            return None
        shares = seen.softmax(1)
        return torch.zeros_like(shares).index_add(1, self.classes.table(image), shares)

    def _labels(self, networks: Networks, image: Tensor, known: Tensor) -> Tensor | None:
        if bool((known != UNLABELED).any()):
            return known
        seen = self._segmented(networks, image)
        return None if seen is None else self.classes.table(image)[seen.argmax(1)]

    def _segmented(self, networks: Networks, image: Tensor) -> Float[Tensor, "b n i j k"] | None:
        if self.teacher is None:
            return None
        with torch.no_grad():
            logits: Tensor = networks[self.teacher](image)[self.classes.head].float()
        return logits


@dataclass(frozen=True)
class SegmentTurn:
    """The segmentation network's loss: of labeled patches, and of labels carried to a scan.

    Attributes:
        classes: What is told apart.
        teacher: The registration network that carries labels; None: none are carried.
        size: Voxels of the patch of the scan that labels are carried to.
        augment: What is done to it.
        weight: Of the carried labels.
        moved: In this share of steps carried labels are learned on their own scan, moved along
            with them, instead of on the scan that they were carried to: both fit exactly.
        every: Only so many voxels along each axis are looked at: the second, third and so on.
        carried: Labels that were carried before, by pair, if the teacher learns nothing
            meanwhile; None: carry them anew each time.

    Source:
        xu2019, eq. of the segmentation loss. Departs from it: cross-entropy besides Dice where
        labels were drawn by hand; of a labeled and an unlabeled scan it is always the labels
        that are moved. `moved` is the data augmentation of Zhao et al. 2019 (CVPR) without its
        change of appearance.
    """

    classes: Classes
    teacher: str | None
    size: Index
    augment: AugmentConfig
    weight: float = 1.0
    moved: float = 0.0
    every: int = 1
    carried: dict[tuple[int, ...], tuple[Tensor, Tensor]] | None = None

    def __call__(self, networks: Networks, batch: Batch) -> Losses:
        """Losses of a batch of `PairsAndPatches`."""
        net, name = networks["segment"], self.classes.head
        image, drawn = self._thin(batch["image"]), self._thin(batch[f"classes/{name}"])
        merge = batch[f"merge/{name}"]
        supervised = dice_and_cross_entropy(net(image)[name], drawn, merge)
        total = supervised.cross_entropy + supervised.dice
        losses = {"supervised": total}
        if self.teacher is not None:
            carried = self._carried(networks, batch)
            total = total + self.weight * carried
            losses["carried"] = carried
        return {"total": total, **losses}

    def _carried(self, networks: Networks, batch: Batch) -> Tensor:
        image, labels = batch["fixed"], batch["moving_classes"]
        unlabeled = not bool((batch["fixed_classes"] != UNLABELED).any())
        if not unlabeled or not bool((labels != UNLABELED).any()):
            return image.new_zeros(())
        moving, labels = self._moved(networks, batch)
        image = moving if float(batch["chance"]) < self.moved else image
        image, labels = (_patch(one, batch["start"], self.size) for one in (image, labels))
        image, labels = self._augmented(image[0], labels[0], float(batch["chance"]))
        logits = networks["segment"](image)[self.classes.head]
        return soft_dice(logits, labels, self.classes.table(image)[None])

    def _augmented(self, image: Tensor, labels: Tensor, chance: float) -> tuple[Tensor, Tensor]:
        i, j, k = (int(n) for n in labels.shape)
        rng = torch.Generator().manual_seed(int(chance * 2**52))
        with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            found = augment(image.float(), labels, (i, j, k), self.augment, rng)
        return self._thin(found.image[None]), self._thin(found.classes[None])

    def _moved(self, networks: Networks, batch: Batch) -> tuple[Tensor, Tensor]:
        """The moving scan and its labels, carried to the fixed scan."""
        assert self.teacher is not None
        known = {} if self.carried is None else self.carried
        pair = () if self.carried is None else tuple(int(n) for n in batch["pair"])
        if pair in known:
            image, labels = known[pair]
            return image.to(batch["fixed"].device), labels.to(batch["fixed"].device)
        with torch.no_grad():
            motion = networks[self.teacher](batch["fixed"], batch["moving"])
            image = warp(batch["moving"], motion)
            labels = warp_classes(batch["moving_classes"], motion)
        if self.carried is not None and len(known) < _MOST_CARRIED:
            known[pair] = image.cpu(), labels.cpu()
        return image, labels

    def _thin(self, image: Tensor) -> Tensor:
        return image[..., :: self.every, :: self.every, :: self.every]


def _patch(image: Tensor, start: Tensor, size: Index) -> Tensor:
    """A part along the last three axes; all of an axis that is shorter."""
    first = image.dim() - 3
    for axis, (begin, n) in enumerate(zip(start.tolist(), size, strict=True), start=first):
        image = image.narrow(axis, int(begin), min(n, image.shape[axis]))
    return image
