"""Supervised: a U-Net learns from every label there is.

1. Conform the scans of a cohort to cubic voxels, once.
2. Draw patches around structures, rare ones more often than their size would have it; bend,
   mirror and spoil them.
3. **train** a U-Net with Dice and cross-entropy on whatever is labeled: whole maps, maps in a
   smaller protocol, maps that lack structures, slices, scribbles, or nothing.
4. Now and then, label whole scans that were held out, and keep the weights that do best.

Source: patches, losses and schedule are those of nnU-Net (Isensee 2021, doi
10.1038/s41592-020-01008-z); the loss over partial labels is told in
docs/labels-that-are-missing.md.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import Field, model_validator

from fewlabel.augment import AugmentConfig
from fewlabel.batches import PatchConfig, Patches
from fewlabel.cache import Cache
from fewlabel.cohort import Cohort
from fewlabel.conform import GridRule
from fewlabel.conformed import WorkingRule, conform_cases
from fewlabel.datasets.choice import DataConfig
from fewlabel.examples import load_heads, make_examples, require_every_class, require_labels
from fewlabel.held_out import HeldOut
from fewlabel.nets.unet import UNet, stride_of
from fewlabel.objective import ObjectiveConfig, losses_of
from fewlabel.settings import Settings
from fewlabel.train.config import OptimizerConfig
from fewlabel.train.stage import Batch, Export, Losses, Networks, Stage, Turn, Workplace
from fewlabel.warm_start import start_from_run

STAGE = "train"


class Config(Settings):
    """What is learned, from what, and how long."""

    data: DataConfig
    protocols: tuple[str, ...] = Field(min_length=1)
    """What the network tells apart: a head for each; `segment` gives the first."""
    working: WorkingRule = WorkingRule()
    patches: PatchConfig = PatchConfig()
    augment: AugmentConfig = AugmentConfig()
    channels: tuple[int, ...] = (16, 32, 64, 128, 160)
    residual: bool = False
    depths: int = Field(default=1, ge=1)
    """Resolutions that are supervised; each counts half as much as the one before."""
    dice_weight: float = Field(default=1.0, ge=0)
    """Weight of the Dice loss; that of the cross-entropy is 1."""
    start: Path | None = None
    """A finished run of this recipe to go on from, on larger voxels say, which is cheaper."""
    steps: int = Field(default=10_000, ge=1)
    optimizer: OptimizerConfig = OptimizerConfig(
        kind="sgd", learning_rate=0.01, momentum=0.99, weight_decay=3e-5, decay="poly"
    )
    validate_every: int | None = Field(default=None, ge=1)
    """Steps between two validations; None: ten times in all."""
    patience: int | None = Field(default=None, ge=1)
    """Validations without a better score after which training ends; None: never."""
    allow_empty_classes: bool = False
    """Go on although a structure never occurs in the training cases."""
    cache_gb: float = Field(default=20.0, gt=0)
    """Largest size of the cache of conformed scans."""

    @model_validator(mode="after")
    def _fits(self) -> "Config":
        self.patches.require_stride(stride_of(self.channels))
        self.augment.require_from_zero(self.working.intensity)
        if self.depths >= len(self.channels):
            raise ValueError(f"`depths` must be less than the {len(self.channels)} levels")
        return self


def stages(config: Config, seed: int, work: Workplace) -> Iterator[Stage]:
    """The one stage."""
    heads = load_heads(config.protocols)
    everybody = cohort(config, work.run)
    cases = [*(train_cases := everybody.part("train")), *everybody.part("val")]
    scans = conform_cases(cases, config.working, Cache(work.cache, config.cache_gb))
    examples = make_examples(scans, heads, flips=config.augment.flip > 0, tell=work.tell)
    train, val = examples[: len(train_cases)], examples[len(train_cases) :]
    require_labels(train)
    if not config.allow_empty_classes:
        require_every_class(train, heads)
    torch.manual_seed(seed)
    net = UNet({name: head.n_classes for name, head in heads.items()}, **_shape(config))
    if config.start is not None:
        start_from_run(net, config.start, STAGE, everybody)
    objective = ObjectiveConfig(dice_weight=config.dice_weight)

    def loss(networks: Networks, batch: Batch) -> Losses:
        return losses_of(cast("UNet", networks["net"]), batch, objective)

    held_out = HeldOut(val, heads, config.patches.size, work)
    yield Stage(
        name=STAGE,
        networks={"net": net},
        turns=(Turn(("net",), Patches(train, heads, config.patches, config.augment, seed), loss),),
        optimizer=config.optimizer,
        steps=config.steps,
        validate=held_out.score if held_out.examples else None,
        validate_every=config.validate_every,
        patience=config.patience,
    )


def cohort(config: Config, run: Path) -> Cohort:
    """The cases, split."""
    return config.data.load(run).seen_in(config.working.modalities)


def exports(config: Config, networks: Networks) -> Export:
    """The network, for a field that holds a brain, seen in windows as large as the patches."""
    heads = load_heads(config.protocols)
    modalities = " and ".join(config.working.modalities)
    about = f"Structures of {' and '.join(heads)}, learned from labeled {modalities} scans."
    return Export(
        network=networks["net"],
        heads=heads,
        grid=GridRule(
            spacing_mm=config.working.spacing_mm,
            multiple=2 ** (len(config.channels) - 1),
            window=config.patches.size,
        ),
        intensity=config.working.intensity,
        channels=len(config.working.modalities),
        modalities=config.working.modalities,
        any_modality=config.working.any_modality,
        description=" ".join((about, *config.data.allowed_leaks())),
        input=f"{modalities} scans like those it was trained on",
    )


def _shape(config: Config) -> dict[str, Any]:
    """Arguments of the network."""
    return {
        "in_channels": len(config.working.modalities),
        "channels": list(config.channels),
        "residual": config.residual,
        "depths": config.depths,
    }
