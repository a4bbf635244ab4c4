"""MO-Net: many scans with a few structures drawn by a program help few with all drawn by hand.

1. **pretrain** a U-Net on partial annotations: scans in which an automatic tool drew some
   structures, images made up from label maps, or both.
2. Give its encoder one decoder for the full protocol and one for the partial one. Encoder and
   both decoders start from stage 1; the last layer of the full decoder is new.
3. **joint**: train all of it on the few fully labeled scans. The partial labels are cut from the
   full ones, and both losses count half.

`start` also chooses its baselines on the same parts, **scratch** (U-Net FS) and **finetune** (U-Net
FT, one decoder), and **pretrain**, which is stage 1 alone.

Source: dai2019. What the paper leaves open is listed in docs/papers/dai2019.md.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from pydantic import Field, model_validator

from fewlabel.augment import AugmentConfig
from fewlabel.batches import PatchConfig, Patches
from fewlabel.cache import Cache
from fewlabel.cohort import Case, Cohort
from fewlabel.conform import GridRule
from fewlabel.conformed import WorkingRule
from fewlabel.datasets.choice import DataConfig
from fewlabel.examples import Example, load_heads, make_examples, require_labels
from fewlabel.held_out import HeldOut
from fewlabel.joint import (
    joint_loss,
    load_start,
    loss_weights,
    missing_source,
    source_cases,
    start_from,
)
from fewlabel.labels import LabelProtocol, load_protocol
from fewlabel.mni import Space, conform_in
from fewlabel.nets.unet import UNet, stride_of
from fewlabel.partial import STAGE, PartialConfig, PartialImages, painter_of
from fewlabel.settings import Settings
from fewlabel.train.config import OptimizerConfig
from fewlabel.train.stage import Batch, Export, Losses, Networks, Stage, Turn, Workplace
from fewlabel.warm_start import require_new_people

_ELASTIC = AugmentConfig(flip=0, move=1, rotation_deg=0, scaling=0, chance=0)


class Config(Settings):
    """What is learned, from what, and how long."""

    start: Literal["joint", "finetune", "scratch", "pretrain"] = "joint"
    """MO-Net, U-Net (FT), U-Net (FS), or stage 1 alone."""
    data: DataConfig | None = None
    """Scans with full labels; only `pretrain` goes without."""
    pretraining: PartialConfig | None = None
    """Stage 1 in this run; or else:"""
    pretrained: Path | None = None
    """A run folder with stage 1, or its final.safetensors."""
    protocols: tuple[str, ...] = Field(default=("neuromorphometrics138",), min_length=1)
    """What is wanted: a decoder for each; `segment` gives the first."""
    partial: str = "fsl15"
    """What stage 1 learns."""
    partial_weight: float = Field(default=0.5, ge=0, lt=1)
    """Of the loss of the partial decoder in joint training; the others share the rest."""
    dice_weight: float = Field(default=0.0, ge=0)
    """Weight of a Dice loss beside the cross-entropy; the paper has none."""
    working: WorkingRule = WorkingRule(spacing_mm=1.0, intensity="z_score")
    space: Space = "native"
    """Where scans lie: as they are, or rigidly registered to MNI space, as in the paper."""
    patches: PatchConfig = PatchConfig(size=(128, 128, 128), batch=1, foreground=0)
    augment: AugmentConfig = _ELASTIC
    channels: tuple[int, ...] = (16, 32, 64, 128, 160)
    steps: int = Field(default=3_000, ge=1)
    """Of stage 2: 200 epochs of 15 scans."""
    optimizer: OptimizerConfig = OptimizerConfig(kind="adam", learning_rate=1e-3, decay="poly")
    validate_every: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> "Config":
        self.patches.require_stride(stride_of(self.channels))
        self.augment.require_from_zero(self.working.intensity)
        here, there = self.pretraining is not None, self.pretrained is not None
        problem = missing_source(self.start, here=here, there=there, data=self.data is not None)
        if problem:
            raise ValueError(problem)
        return self


def stages(config: Config, seed: int, work: Workplace) -> Iterator[Stage]:
    """Stage 1 unless it is done or not wanted, then stage 2."""
    before = None if config.pretrained is None else load_start(config.pretrained)
    if config.pretraining is not None:
        yield (first := _pretrain(config, config.pretraining, seed, work))
        before = first.networks["net"].state_dict()
    if config.start == "pretrain":
        return
    everybody, partial = cohort(config, work.run), load_protocol(config.partial)
    heads = load_heads(config.protocols)
    if config.start == "joint":
        heads[partial.name] = partial
    require_new_people(source_cases(config.pretraining, config.pretrained, work.run), everybody)
    train, val = (_examples(everybody.part(s), heads, config, work) for s in ("train", "val"))
    require_labels(train)
    torch.manual_seed(seed)
    net = _net(config, heads)
    if before is not None:
        start_from(net, before, partial.name)
    weights = loss_weights(heads, partial.name, config.partial_weight)

    def loss(networks: Networks, batch: Batch) -> Losses:
        return joint_loss(cast("UNet", networks["net"]), batch, weights, config.dice_weight)

    held_out = HeldOut(val, heads, config.patches.size, work)
    yield Stage(
        name=config.start,
        networks={"net": net},
        turns=(Turn(("net",), Patches(train, heads, config.patches, config.augment, seed), loss),),
        optimizer=config.optimizer,
        steps=config.steps,
        validate=held_out.score if held_out.examples else None,
        validate_every=config.validate_every,
    )


def _pretrain(config: Config, source: PartialConfig, seed: int, work: Workplace) -> Stage:
    """Stage 1."""
    head = load_protocol(config.partial)
    torch.manual_seed(seed)
    net = _net(config, {head.name: head})
    patches = None
    if source.data is not None:
        cases = source_cases(source, None, work.run).part("train")
        examples = _examples(cases, {head.name: head}, config, work)
        require_labels(examples)
        patches = Patches(examples, {head.name: head}, config.patches, config.augment, seed)
    painter = painter_of(source, config.patches.size, config.working.spacing_mm, seed)
    z_score = config.working.intensity == "z_score"
    images = PartialImages(patches, painter, source.share, head, z_score=z_score)

    def loss(networks: Networks, batch: Batch) -> Losses:
        net, weights = cast("UNet", networks["net"]), {head.name: 1.0}
        return joint_loss(net, images.finish(batch), weights, config.dice_weight)

    turns = (Turn(("net",), images, loss),)
    return Stage(STAGE, {"net": net}, turns, config.optimizer, source.steps)


def _examples(
    cases: Sequence[Case], heads: dict[str, LabelProtocol], config: Config, work: Workplace
) -> list[Example]:
    scans = conform_in(config.space, cases, config.working, Cache(work.cache))
    return make_examples(scans, heads, flips=config.augment.flip > 0, tell=work.tell)


def cohort(config: Config, run: Path) -> Cohort:
    """The fully labeled cases, split; those of stage 1 if it is alone."""
    found = config.data.load(run) if config.data else source_cases(config.pretraining, None, run)
    return found.seen_in(config.working.modalities)


def exports(config: Config, networks: Networks) -> Export:
    """The network with all its heads, in windows as large as the patches."""
    net = cast("UNet", networks["net"])
    known = load_heads((*config.protocols, config.partial))
    heads = {name: head for name, head in known.items() if name in net.decoders}
    modalities = " and ".join(config.working.modalities)
    return Export(
        network=net,
        heads=heads,
        grid=GridRule(
            spacing_mm=config.working.spacing_mm,
            multiple=2 ** (len(config.channels) - 1),
            window=config.patches.size,
        ),
        intensity=config.working.intensity,
        space=config.space,
        channels=len(config.working.modalities),
        modalities=config.working.modalities,
        any_modality=config.working.any_modality,
        description=f"{' and '.join(heads)}, by dai2019 ({config.start}).",
        input=f"{modalities} scans like those it was trained on",
    )


def _net(config: Config, heads: dict[str, LabelProtocol]) -> UNet:
    return UNet({name: head.n_classes for name, head in heads.items()}, **_shape(config))


def _shape(config: Config) -> dict[str, Any]:
    """Arguments of the network."""
    return {"in_channels": len(config.working.modalities), "channels": list(config.channels)}
