"""Synthetic: learn from images made up from label maps, coarse to fine.

Every step paints a new image of one of the label maps and asks the network for the labels. No
real image is seen. Most of the anatomy is learned at a coarse resolution, where a step costs
little; each further level starts from the weights of the one before.

Source: training on label maps alone is SynthSeg's idea (Billot 2023, doi
10.1016/j.media.2023.102789); the coarse-to-fine schedule is ours.
"""

from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float32
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from fewlabel.cohort import Cohort
from fewlabel.conform import GridRule
from fewlabel.heads import Heads, class_weights, read_heads
from fewlabel.labels import UNLABELED, load_protocol
from fewlabel.losses import soft_dice
from fewlabel.nets.mirror import Mirrored
from fewlabel.nets.unet import UNet
from fewlabel.painter import Painter
from fewlabel.palette import Palette, load_palette
from fewlabel.settings import Settings
from fewlabel.synthesis import SynthesisConfig
from fewlabel.train.config import OptimizerConfig
from fewlabel.train.stage import Batch, Export, Losses, Networks, Stage, Turn, Workplace


class Level(Settings):
    """One resolution of the schedule."""

    spacing_mm: float = Field(gt=0)
    steps: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    field_mm: tuple[float, float, float] = (192.0, 224.0, 192.0)
    """The box around the brain that the network sees."""
    synthesis: SynthesisConfig = SynthesisConfig()


class Config(Settings):
    """What is learned from, and how long."""

    label_maps: Path
    """Folder that is searched for `*_dseg.nii.gz`; one person a file."""
    palette: str = "aseg"
    """What the numbers in those files stand for; see `protocols/palettes/`."""
    protocol: str = "aseg32"
    """What the network says."""
    description: str = "Brain structures, learned from synthetic images"
    """For the model's card: what it segments, in one sentence."""
    input: str = "brain MR images of any contrast"
    """For the model's card: scans that it is meant for."""
    unweight: float = Field(default=0.0, ge=0, le=1)
    """Share of the class weights that the exported network takes back. Training weighs rare
    structures up, so that the network gives them too much room; 0.75 did best on real scans."""
    mirror: bool = False
    """Whether the exported network averages over the image and its mirror image: better, and
    twice the time."""
    channels: tuple[int, ...] = (16, 32, 64, 128, 160)
    fine: int = Field(default=0, ge=0)
    """Maps of the only layer at full resolution, if `channels` begin at half of it; see `UNet`."""
    levels: tuple[Level, ...] = (
        Level(spacing_mm=4.0, steps=4000, learning_rate=2e-3),
        Level(spacing_mm=2.0, steps=2000, learning_rate=1e-3),
    )
    optimizer: OptimizerConfig = OptimizerConfig(
        kind="adamw", weight_decay=1e-4, warmup_steps=100, decay="poly", ema=0.998
    )
    """Its learning rate is set by each level."""


def stages(config: Config, seed: int, work: Workplace) -> Iterator[Stage]:
    """One stage per level; each starts from the weights of the one before."""
    protocol = load_protocol(config.protocol)
    palette = load_palette(config.palette, protocol)
    torch.manual_seed(seed)
    sizes = {protocol.name: protocol.n_classes}
    net = UNet(sizes, **_shape(config))

    @cache  # read when the first image is painted: building the networks needs no label maps
    def heads() -> Heads:
        return _heads(config, palette)

    @cache
    def weights() -> Tensor:
        return torch.from_numpy(class_weights(heads(), palette, protocol)).to(work.device)

    for level, name in zip(config.levels, _names(config.levels), strict=True):
        near = cache(lambda level=level: heads().for_spacing(level.spacing_mm))
        rule = GridRule(spacing_mm=level.spacing_mm, field_mm=level.field_mm, multiple=net.stride)
        painter = Painter(palette, near, level.synthesis, rule.field, level.spacing_mm, seed)

        def loss(networks: Networks, batch: Batch, painter: Painter = painter) -> Losses:
            image, classes = painter.paint(batch)
            logits = networks["net"](image)[protocol.name].float()
            entropy = F.cross_entropy(logits, classes, weights(), ignore_index=UNLABELED)
            dice = soft_dice(logits, classes)
            return {"total": entropy + dice, "cross-entropy": entropy, "dice": dice}

        yield Stage(
            name=name,
            networks={"net": net},
            turns=(Turn(("net",), painter.draw, loss),),
            optimizer=config.optimizer.model_copy(update={"learning_rate": level.learning_rate}),
            steps=level.steps,
        )


def _shape(config: Config) -> dict[str, Any]:
    """Arguments of the network."""
    return {"channels": list(config.channels), "fine": config.fine}


def _heads(config: Config, palette: Palette) -> Heads:
    i, j, k = np.max([level.field_mm for level in config.levels], axis=0)
    return read_heads(config.label_maps, palette, (float(i), float(j), float(k)))


def _shifted(network: nn.Module, head: str, shift: Float32[np.ndarray, "classes"]) -> nn.Module:
    """A copy of a U-Net whose logits of one head differ by a constant for each class."""
    copy = deepcopy(network)
    (bias,) = (
        weight
        for name, weight in copy.named_parameters()
        if name.startswith(f"decoders.{head}.outs.0.") and name.endswith("bias")
    )
    bias.data += torch.from_numpy(shift)
    return copy


def _names(levels: tuple[Level, ...]) -> list[str]:
    """Stage names: the spacing, numbered where it comes again.

    >>> level = Level(spacing_mm=2, steps=1, learning_rate=1)
    >>> _names((level, level))
    ['2mm', '2mm-2']
    """
    seen: list[str] = []
    for level in levels:
        name = f"{level.spacing_mm:g}mm"
        times = sum(other.split("-")[0] == name for other in seen)
        seen.append(f"{name}-{times + 1}" if times else name)
    return seen


def cohort(config: Config, run: Path) -> Cohort:  # noqa: ARG001  (as other recipes have it)
    """No cases: label maps are all that is learned from."""
    return Cohort(())


def exports(config: Config, networks: Networks) -> Export:
    """The network, for the field of the last level."""
    last, protocol = config.levels[-1], load_protocol(config.protocol)
    network, stride = networks["net"], cast("UNet", networks["net"]).stride
    if config.unweight:
        palette = load_palette(config.palette, protocol)
        weights = class_weights(_heads(config, palette), palette, protocol)
        network = _shifted(network, protocol.name, -config.unweight * np.log(weights))
    if config.mirror:
        network = Mirrored(network, {protocol.name: protocol.mirrored()})
    return Export(
        network=network,
        heads={protocol.name: protocol},
        grid=GridRule(
            spacing_mm=last.spacing_mm,
            field_mm=last.field_mm,
            multiple=stride,
        ),
        intensity="robust_scale",
        description=config.description,
        input=config.input,
        settings=None if config.mirror else _shape(config),
    )
