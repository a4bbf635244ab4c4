"""Synthetic: learn from images made up from label maps, coarse to fine.

Every step paints a new image of one of the label maps and asks the network for the labels. No
real image is seen. Most of the anatomy is learned at a coarse resolution, where a step costs
little; each further level starts from the weights of the one before.

Source: training on label maps alone is SynthSeg's idea (Billot 2023, doi
10.1016/j.media.2023.102789); the coarse-to-fine schedule is ours.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float32
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from fewlabel.card import Contrast
from fewlabel.cohort import Cohort
from fewlabel.conform import GridRule
from fewlabel.finer import begin_finer
from fewlabel.heads import Heads, class_weights, read_heads
from fewlabel.labels import UNLABELED, load_protocol
from fewlabel.losses import soft_dice
from fewlabel.nets.mirror import Mirrored
from fewlabel.nets.unet import UNet, Window, inside
from fewlabel.painter import Painter
from fewlabel.palette import Palette, load_palette
from fewlabel.settings import Settings
from fewlabel.source import read_source
from fewlabel.synthesis import SynthesisConfig
from fewlabel.train.config import OptimizerConfig
from fewlabel.train.stage import (
    Batch,
    Export,
    Losses,
    Networks,
    Stage,
    Turn,
    Workplace,
    numbered,
)

_APART = 10_000_000
"""Numbers of images between two levels, so that none sees those of another."""


class Level(Settings):
    """One resolution of the schedule."""

    spacing_mm: float = Field(gt=0)
    steps: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    field_mm: tuple[float, float, float] = (192.0, 224.0, 192.0)
    """The box around the brain that the network sees."""
    window_mm: tuple[float, float, float] | None = None
    """With `fine`: the box in it, somewhere else each time, in which the layer at full resolution
    is trained; None: everywhere."""
    batch: int = Field(default=1, gt=0)
    """Images that are seen at once. On a GPU four cost little more than two."""
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
    contrast: Contrast | None = None
    """For the model's card: what is brighter than what in most images that are painted."""
    channels: tuple[int, ...] = (16, 32, 64, 128, 160)
    fine: int = Field(default=0, ge=0)
    """Maps of the only layer at full resolution, if `channels` begin at half of it; see `UNet`.
    The level below is then supervised too, and counts half."""
    start: Path | None = None
    """A finished run whose network has the same `channels` and no `fine`: it becomes all but the
    layer at full resolution."""
    levels: tuple[Level, ...] = (
        Level(spacing_mm=4.0, steps=4000, learning_rate=2e-3),
        Level(spacing_mm=2.0, steps=2000, learning_rate=1e-3),
    )
    optimizer: OptimizerConfig = OptimizerConfig(
        kind="adamw", weight_decay=1e-4, warmup_steps=100, decay="poly", ema=0.998
    )
    """Its learning rate is set by each level."""

    @model_validator(mode="after")
    def _fits(self) -> "Config":
        if not self.fine and (self.start or any(level.window_mm for level in self.levels)):
            raise ValueError("`start` and `window_mm` need `fine`, a layer at full resolution")
        return self


def stages(config: Config, seed: int, work: Workplace) -> Iterator[Stage]:
    """One stage per level; each starts from the weights of the one before."""
    protocol = load_protocol(config.protocol)
    palette = load_palette(config.palette, protocol)
    torch.manual_seed(seed)
    sizes = {protocol.name: protocol.n_classes}
    net = UNet(sizes, **_shape(config))
    if config.start is not None:
        begin_finer(net, read_source(config.start).weights)

    @cache  # read when the first image is painted: building the networks needs no label maps
    def heads() -> Heads:
        return _heads(config, palette)

    @cache
    def weights() -> Tensor:
        return torch.from_numpy(class_weights(heads(), palette, protocol)).to(work.device)

    names = numbered(f"{level.spacing_mm:g}mm" for level in config.levels)
    for number, (level, name) in enumerate(zip(config.levels, names, strict=True)):
        near = cache(lambda level=level: heads().for_spacing(level.spacing_mm))
        rule = GridRule(spacing_mm=level.spacing_mm, field_mm=level.field_mm, multiple=net.stride)
        painter = Painter(
            palette, near, level.synthesis, rule.field, level.spacing_mm, seed, level.batch
        )

        def loss(
            networks: Networks, batch: Batch, painter: Painter = painter, level: Level = level
        ) -> Losses:
            image, classes = painter.paint(batch)
            window, corner = _draw_window(image.shape[2:], level)
            logits, *coarser = cast("UNet", networks["net"]).deep(image, window)[protocol.name]
            found = _judged(logits, inside(classes, window), weights())
            for half in coarser:
                below = _judged(half, classes[(slice(None), *corner)], weights())
                found["total"] = (found["total"] + below["total"] / 2) / 1.5
                found |= {f"half: {key}": below[key] for key in ("cross-entropy", "dice")}
            return found

        def draw(n: int, painter: Painter = painter, first: int = number * _APART) -> Batch:
            return painter.draw(first + n)

        yield Stage(
            name=name,
            networks={"net": net},
            turns=(Turn(("net",), draw, loss),),
            optimizer=config.optimizer.model_copy(update={"learning_rate": level.learning_rate}),
            steps=level.steps,
        )


def _shape(config: Config) -> dict[str, Any]:
    """Arguments of the network."""
    shape: dict[str, Any] = {"channels": list(config.channels)}
    if config.fine:
        shape |= {"fine": config.fine, "fine_norm": False, "first": 7, "depths": 2}
    return shape


def _draw_window(shape: Sequence[int], level: Level) -> tuple[Window | None, Window]:
    """A window of the level, and which of the eight voxels stands for each coarse one.

    Chance is torch's, which is seeded for each batch.
    """
    coin = [int(torch.randint(2, ())) for _ in range(3)]
    corner = (slice(coin[0], None, 2), slice(coin[1], None, 2), slice(coin[2], None, 2))
    if level.window_mm is None:
        return None, corner
    sizes = [round(mm / level.spacing_mm / 2) * 2 for mm in level.window_mm]
    room = [max(0, n - size) // 2 for n, size in zip(shape, sizes, strict=True)]
    starts = [2 * int(torch.randint(n + 1, ())) for n in room]
    i, j, k = (slice(start, start + size) for start, size in zip(starts, sizes, strict=True))
    return (i, j, k), corner


def _judged(logits: Tensor, classes: Tensor, weights: Tensor) -> Losses:
    count = torch.bincount(classes.flatten() + 1, minlength=len(weights) + 1)[1:]
    summed = F.cross_entropy(
        logits.float(), classes, weights, ignore_index=UNLABELED, reduction="sum"
    )
    entropy = summed / (count * weights).sum().clamp(min=1)  # a window may hold no label at all
    dice = soft_dice(logits.float(), classes)
    return {"total": entropy + dice, "cross-entropy": entropy, "dice": dice}


def _heads(config: Config, palette: Palette) -> Heads:
    i, j, k = np.max([level.field_mm for level in config.levels], axis=0)
    return read_heads(config.label_maps, palette, (float(i), float(j), float(k)))


def _shifted(network: UNet, head: str, shift: Float32[np.ndarray, "classes"]) -> UNet:
    """A copy of a U-Net whose logits of one head differ by a constant for each class."""
    copy = deepcopy(network)
    _, bias = copy.last_of(head)
    bias.data += torch.from_numpy(shift)
    return copy


def cohort(config: Config, run: Path) -> Cohort:  # noqa: ARG001  (as other recipes have it)
    """No cases: label maps are all that is learned from."""
    return Cohort(())


def exports(config: Config, networks: Networks) -> Export:
    """The network, for the field of the last level."""
    last, protocol = config.levels[-1], load_protocol(config.protocol)
    network = cast("UNet", networks["net"])
    stride = network.stride
    if config.unweight:
        palette = load_palette(config.palette, protocol)
        weights = class_weights(_heads(config, palette), palette, protocol)
        network = _shifted(network, protocol.name, -config.unweight * np.log(weights))
    heads = {protocol.name: protocol}
    return Export(
        network=Mirrored(network, heads) if config.mirror else network,
        heads=heads,
        grid=GridRule(
            spacing_mm=last.spacing_mm,
            field_mm=last.field_mm,
            multiple=stride,
        ),
        intensity="robust_scale",
        description=config.description,
        input=config.input,
        contrast=config.contrast,
    )
