"""Slice FCN: a network for photographs learns to label brains, slice by slice, from few scans.

1. Equalize the volume's histogram and show each slice with its neighbors as red, green, blue.
2. Take VGG-16 with the weights of ImageNet, put a 3x3 convolution with K maps on each stage,
   and combine the maps linearly. For adults the coarsest stage is left out.
3. Fine-tune all of it on turned and scaled slices; the gradients of 20 make a step.

Source: xu2017, section 3. What the paper leaves open and what we chose is listed in
docs/papers/xu2017.md.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import Field

from fewlabel.cohort import Cohort, of_each
from fewlabel.datasets.choice import DataConfig
from fewlabel.errors import CohortError
from fewlabel.labels import UNLABELED, LabelProtocol, load_protocol
from fewlabel.losses import cross_entropy
from fewlabel.nets.backbone import find_backbone, load_backbone
from fewlabel.nets.vgg_fcn import VggFcn
from fewlabel.settings import Settings
from fewlabel.slice_data import LabeledSlices, load_case
from fewlabel.slice_draw import Chance, Slices, turned_and_scaled
from fewlabel.slices import SliceRule
from fewlabel.train.config import OptimizerConfig
from fewlabel.train.stage import Batch, Export, Losses, Networks, Stage, Turn, Workplace


def for_mean_loss(rate: float, decay: float, pixels: int) -> tuple[float, float]:
    """Learning rate and weight decay that do with a mean over pixels what these do with a sum.

    The sum is `pixels` times the mean, and so is its gradient g: a step of rate * (g + decay * w)
    is one of (rate * pixels) * (g / pixels + (decay / pixels) * w).

    >>> for_mean_loss(1e-8, 0.005, 240 * 240)[0]
    0.000576
    """
    return rate * pixels, decay / pixels


_RATE, _DECAY = for_mean_loss(1e-8, 0.005, 240 * 240)


class Config(Settings):
    """Defaults are the paper's for adults; `configs/xu2017_exp*.yaml` has those for neonates."""

    cohort: Path
    """Manifest of the cases; learns from those of split "train", validates on "val"."""
    cases: tuple[str, ...] = ()
    """Names of the training cases to use; all if empty."""
    protocol: str
    """What the label maps say and the network learns."""
    backbone: str = "imagenet"
    """Weights of VGG-16 to start from: "imagenet" (fetched if need be), a file, or "random"."""
    slices: SliceRule = SliceRule()
    stages: int = Field(default=4, ge=1, le=5)
    """Stages of VGG-16 that are used: 4 for adults, 5 for neonates."""
    side_maps: int = Field(default=16, ge=1)
    """K."""
    even_stages: bool = False
    """Divide the maps of each stage by their root mean square over some training images, so
    that Adam can use one learning rate for all layers. Not in the paper."""
    rotation_deg: float = Field(default=10.0, ge=0)
    scaling: float = Field(default=0.1, ge=0, lt=1)
    steps: int = Field(default=6000, ge=1)
    """120,000 images, 20 a step."""
    optimizer: OptimizerConfig = OptimizerConfig(
        kind="sgd",
        learning_rate=_RATE,
        momentum=0.99,
        weight_decay=_DECAY,
        accumulate=20,
        clip=1e9,
    )


def stages(config: Config, seed: int, work: Workplace) -> Iterator[Stage]:
    """The one stage."""
    protocol = load_protocol(config.protocol)
    backbone = find_backbone(config.backbone, work.cache)
    everybody = cohort(config, work.run)
    train, val = (
        of_each(lambda case: load_case(case, config.slices, protocol), everybody.part(split))
        for split in ("train", "val")
    )
    torch.manual_seed(seed)
    chance = Chance(seed, config.rotation_deg, config.scaling)
    draw = Slices(train, config.slices, chance)
    net = VggFcn(
        {protocol.name: protocol.n_classes},
        side_maps=config.side_maps,
        stages=config.stages,
        mean=draw.mean(),
    )
    if backbone is not None:
        load_backbone(net, backbone)
    if config.even_stages:
        net.even_out(draw.some())

    def loss(networks: Networks, batch: Batch) -> Losses:
        image, classes = turned_and_scaled(batch["image"], batch["classes"], batch["matrix"])
        logits = networks["net"](image)[protocol.name]
        return {"total": cross_entropy(logits[..., None], classes[..., None])}

    def validate(networks: Networks) -> dict[str, float]:
        return {"score": _mean_dice(networks["net"], protocol, val, config, work.device)}

    yield Stage(
        name="slices",
        networks={"net": net},
        turns=(Turn(("net",), draw, loss),),
        optimizer=config.optimizer,
        steps=config.steps,
        validate=validate if val else None,
    )


def cohort(config: Config, run: Path) -> Cohort:
    """The cases, split, of those to train on only the ones that were asked for."""
    found = DataConfig(cohort=config.cohort).load(run)
    unknown = sorted(set(config.cases) - {case.id for case in found.part("train")})
    if unknown:
        raise CohortError(
            f"{config.cohort} has no training case {', '.join(unknown)}.",
            fix="correct `cases`, or set the split of these to train.",
        )
    kept = tuple(
        case
        for case in found.cases
        if case.split != "train" or not config.cases or case.id in config.cases
    )
    return Cohort(kept).seen_in(config.slices.modalities)


def exports(config: Config, networks: Networks) -> Export:
    """The network, for three-slice images."""
    start = "random weights" if config.backbone == "random" else "ImageNet weights"
    modalities = " and ".join(config.slices.modalities)
    protocol = load_protocol(config.protocol)
    return Export(
        network=networks["net"],
        heads={protocol.name: protocol},
        grid=config.slices,
        intensity="equalize",
        channels=3,
        description=f"{protocol.name} by slices (xu2017), from {start} (backbone:"
        f" {Path(config.backbone).name}).",
        input=f"{modalities} scans like those it was trained on",
    )


def _mean_dice(
    net: torch.nn.Module,
    protocol: LabelProtocol,
    cases: Sequence[LabeledSlices],
    config: Config,
    device: str,
) -> float:
    """Dice over whole scans, averaged over structures and scans; without post-processing."""
    scores = []
    for case in cases:
        count = np.zeros((3, protocol.n_classes))  # both, found, true
        for axis, n in case.slices():
            image, truth = case.image(config.slices, axis, n)
            shades = torch.from_numpy(image)[None].float().to(device)
            found = net(shades)[protocol.name][0].argmax(0).cpu().numpy()
            known = truth != UNLABELED
            for row, classes in enumerate(
                (truth[known & (found == truth)], found[known], truth[known])
            ):
                count[row] += np.bincount(classes, minlength=protocol.n_classes)
        both, size = count[0, 1:], count[1:, 1:].sum(axis=0)
        scores += list(2 * both[size > 0] / size[size > 0])
    return float(np.mean(scores))
