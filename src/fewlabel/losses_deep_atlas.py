"""What each of DeepAtlas's two networks learns from while the other is held still."""

from dataclasses import dataclass, field
from typing import cast

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from fewlabel.augment import AugmentConfig, augment
from fewlabel.batches import PatchConfig
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
class Look:
    """How scans are shown to the segmentation network.

    Attributes:
        patches: Their size, and how they are drawn.
        augment: What is done to them.
        every: Only so many voxels along each axis are looked at: the second, third and so on.
    """

    patches: PatchConfig
    augment: AugmentConfig
    every: int = 1

    def thin(self, image: Tensor) -> Tensor:
        """The voxels that are looked at, along the last three axes."""
        return image[..., :: self.every, :: self.every, :: self.every]


@dataclass(frozen=True)
class Carrier:
    """How labels get to scans that have none.

    Attributes:
        network: Name of the registration network.
        weight: Of carried labels; those of labeled patches count 1.
        moved: In this share of steps carried labels are learned on their own scan, moved along
            with them, instead of on the scan that they were carried to: both fit exactly.
        held: Whether the network learns nothing meanwhile, so that each pair needs it once.
    """

    network: str
    weight: float = 1.0
    moved: float = 0.0
    held: bool = False


@dataclass(frozen=True, eq=False)
class SegmentTurn:
    """The segmentation network's loss: of labeled patches, and of labels carried to a scan.

    Attributes:
        classes: What is told apart.
        look: How scans are shown.
        carrier: How labels get to scans without; None: they do not.

    Source:
        xu2019, eq. of the segmentation loss. Departs from it: cross-entropy besides Dice where
        labels were drawn by hand; of a labeled and an unlabeled scan it is always the labels
        that are moved. `moved` is the data augmentation of Zhao et al. 2019 (CVPR) without its
        change of appearance.
    """

    classes: Classes
    look: Look
    carrier: Carrier | None = None
    _known: dict[tuple[int, ...], tuple[Tensor, Tensor]] = field(default_factory=dict, init=False)
    """What a held network has carried before, by pair."""

    def __call__(self, networks: Networks, batch: Batch) -> Losses:
        """Losses of a batch of `PairsAndPatches`."""
        net, name = networks["segment"], self.classes.head
        image, drawn = (self.look.thin(batch[key]) for key in ("image", f"classes/{name}"))
        merge = batch[f"merge/{name}"]
        supervised = dice_and_cross_entropy(net(image)[name], drawn, merge)
        total = supervised.cross_entropy + supervised.dice
        losses = {"supervised": total}
        if self.carrier is not None:
            carried = self._carried(networks, batch, self.carrier)
            total = total + self.carrier.weight * carried
            losses["carried"] = carried
        return {"total": total, **losses}

    def _carried(self, networks: Networks, batch: Batch, carrier: Carrier) -> Tensor:
        image, labels = batch["fixed"], batch["moving_classes"]
        unlabeled = not bool((batch["fixed_classes"] != UNLABELED).any())
        if not unlabeled or not bool((labels != UNLABELED).any()):
            return image.new_zeros(())
        moving, labels = self._moved(networks, batch, carrier)
        image = moving if float(batch["chance"]) < carrier.moved else image
        size = self.look.patches.size
        image, labels = (_patch(one, batch["start"], size) for one in (image, labels))
        image, labels = self._augmented(image[0], labels[0], float(batch["chance"]))
        logits = networks["segment"](image)[self.classes.head]
        return soft_dice(logits, labels, self.classes.table(image)[None])

    def _augmented(self, image: Tensor, labels: Tensor, chance: float) -> tuple[Tensor, Tensor]:
        i, j, k = (int(n) for n in labels.shape)
        rng = torch.Generator().manual_seed(int(chance * 2**52))
        with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            found = augment(image.float(), labels, (i, j, k), self.look.augment, rng)
        return self.look.thin(found.image[None]), self.look.thin(found.classes[None])

    def _moved(self, networks: Networks, batch: Batch, carrier: Carrier) -> tuple[Tensor, Tensor]:
        """The moving scan and its labels, carried to the fixed scan."""
        pair = tuple(int(n) for n in batch["pair"]) if carrier.held else ()
        if pair in self._known:
            image, labels = self._known[pair]
            return image.to(batch["fixed"].device), labels.to(batch["fixed"].device)
        with torch.no_grad():
            motion = networks[carrier.network](batch["fixed"], batch["moving"])
            image = warp(batch["moving"], motion)
            labels = warp_classes(batch["moving_classes"], motion)
        if carrier.held and len(self._known) < _MOST_CARRIED:
            self._known[pair] = image.cpu(), labels.cpu()
        return image, labels


def _patch(image: Tensor, start: Tensor, size: Index) -> Tensor:
    """A part along the last three axes; all of an axis that is shorter."""
    first = image.dim() - 3
    for axis, (begin, n) in enumerate(zip(start.tolist(), size, strict=True), start=first):
        image = image.narrow(axis, int(begin), min(n, image.shape[axis]))
    return image
