"""Neonatal: a residual 3D U-Net, supervised at several depths, that also tells the age at scan.

1. Conform T1w and T2w scans to cubic voxels, once. Where one of them is missing, its channel is
   zero; `augment.drop_modality` hides one of two now and then, so that either will do alone.
2. Draw patches; mirror, bend, smooth, scale and shift them, add noise.
3. **train** with Dice and cross-entropy on the annotated voxels of every supervised resolution,
   and with the squared error of the age where it is known (AgeU-Net).
4. Now and then, label whole scans that were held out, tell their age, and keep the weights that
   do best.

Source: richter2022. What the paper leaves open is listed in docs/papers/richter2022.md. Departs
from it: softmax throughout, as the paper has it (the published Dice loss is on sigmoids); patches
lie around structures (`patches.foreground`) where the paper crops scans to what is not dark;
Gaussian noise and smoothing are as likely as scaling and shifting, 0.24. Hiding modalities is ours,
and so is that heads which are resized by more than 5 % teach no age, as size tells much of it.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import Field, model_validator

from fewlabel.augment import AugmentConfig
from fewlabel.batches import PatchConfig, Patches
from fewlabel.cache import Cache
from fewlabel.cohort import Case, Cohort
from fewlabel.conform import GridRule
from fewlabel.conformed import WorkingRule, conform_cases
from fewlabel.datasets.choice import DataConfig
from fewlabel.errors import CohortError
from fewlabel.examples import Heads, load_heads, make_examples, require_every_class, require_labels
from fewlabel.held_out import HeldOut
from fewlabel.nets.mirror import Mirrored
from fewlabel.nets.unet import UNet, stride_of
from fewlabel.objective import ObjectiveConfig, losses_of
from fewlabel.patches import Index
from fewlabel.settings import Settings
from fewlabel.train.config import OptimizerConfig
from fewlabel.train.stage import Batch, Export, Losses, Networks, Stage, Turn, Workplace
from fewlabel.warm_start import start_from_run

STAGE = "train"
_BRAIN_MM = (128.0, 160.0, 128.0)  # a brain of 45 weeks measures about 100 x 131 x 104 mm


class Config(Settings):
    """What is learned, from what, and how long."""

    data: DataConfig
    protocols: tuple[str, ...] = Field(default=("drawem9",), min_length=1)
    """What the network tells apart: a head for each; `segment` gives the first."""
    working: WorkingRule = WorkingRule(spacing_mm=0.6, modalities=("T1w", "T2w"), any_modality=True)
    patches: PatchConfig = PatchConfig(size=(96, 96, 96), batch=2)
    augment: AugmentConfig = AugmentConfig(
        flip=0.1, flip_others=0.1, move=0.24, rotation_deg=5, scaling=0.15, elastic_voxels=0.6,
        bias=0, gamma=0, noise=0.01, blur_voxels=1.15, low_resolution=1, scale_intensity=0.1,
        shift_intensity=0.1, chance=0.24, drop_modality=0.3,
    )  # fmt: skip
    channels: tuple[int, ...] = (32, 64, 128, 256, 320)
    fine: int = Field(default=0, ge=0)
    """Maps of the only layer at full resolution, if `channels` begin at half of it; see `UNet`."""
    fine_norm: bool = True
    """Whether that layer has a norm. Without it, the network can learn in patches of a field that
    it sees whole (`windows`), and go on from one that works at half the resolution (`start`)."""
    residual: bool = True
    depths: int = Field(default=3, ge=1)
    """Resolutions that are supervised; each counts half as much as the one before."""
    age: bool | None = None
    """Whether the network tells the age at scan; None: if that of any training case is known."""
    objective: ObjectiveConfig = ObjectiveConfig()
    start: Path | None = None
    """A finished run of this recipe to go on from, on larger voxels say, which is cheaper. With
    `fine` and without `fine_norm`, its network may lack that layer: it becomes all the rest."""
    steps: int = Field(default=2_280, ge=1)
    """40 epochs of 114 scans, two a batch."""
    optimizer: OptimizerConfig = OptimizerConfig(
        kind="sgd", learning_rate=0.01, momentum=0.99, weight_decay=3e-5, decay="poly"
    )
    validate_every: int | None = Field(default=None, ge=1)
    """Steps between two validations; None: ten times in all."""
    field_mm: tuple[float, float, float] = _BRAIN_MM
    """What `segment` looks at of a scan, at least."""
    windows: bool = True
    """Whether `segment` shows the network windows as large as patches, or the whole field. Then it
    sees that while it learns, too, if patches are smaller; they are where the finest layer is
    judged, if it has no norm."""
    mirror: bool = False
    """Whether the exported network averages over the image and its mirror image: better, and
    twice the time."""
    description: str | None = None
    """For the model's card: what it segments, in one sentence; None: what the data say."""
    input: str | None = None
    """For the model's card: scans that it is meant for; None: those like the training scans."""
    allow_empty_classes: bool = False
    """Go on although a structure never occurs in the training cases."""

    @model_validator(mode="after")
    def _fits(self) -> "Config":
        self.patches.require_stride(stride_of(self.channels, self.fine))
        if self.depths >= len(self.channels):
            raise ValueError(f"`depths` must be less than the {len(self.channels)} levels")
        if not (self.fine or self.fine_norm):
            raise ValueError("`fine_norm: false` needs `fine`, a layer at full resolution")
        self.augment.require_from_zero(self.working.intensity)
        return self


def stages(config: Config, seed: int, work: Workplace) -> Iterator[Stage]:
    """The one stage."""
    heads = load_heads(config.protocols)
    everybody = cohort(config, work.run)
    train_cases, val_cases = everybody.part("train"), everybody.part("val")
    scans = conform_cases((*train_cases, *val_cases), config.working, Cache(work.cache))
    examples = make_examples(scans, heads, flips=config.augment.flip > 0, tell=work.tell)
    train, val = examples[: len(train_cases)], examples[len(train_cases) :]
    require_labels(train)
    if not config.allow_empty_classes:
        require_every_class(train, heads)
    torch.manual_seed(seed)
    net = _net(config, heads, train_cases)
    if config.start is not None:
        start_from_run(net, config.start, STAGE, everybody)

    def loss(networks: Networks, batch: Batch) -> Losses:
        return losses_of(cast("UNet", networks["net"]), batch, config.objective)

    grid = _grid(config, net)
    field = None if config.windows or not _within(config.patches.size, grid.field) else grid
    held_out = HeldOut(val, heads, config.patches.size, work, field)
    draw = Patches(train, heads, config.patches, config.augment, seed, field)
    yield Stage(
        name=STAGE,
        networks={"net": net},
        turns=(Turn(("net",), draw, loss),),
        optimizer=config.optimizer,
        steps=config.steps,
        validate=held_out.score if held_out.examples else None,
        validate_every=config.validate_every,
    )


def cohort(config: Config, run: Path) -> Cohort:
    """The cases, split."""
    return config.data.load(run).seen_in(config.working.modalities)


def exports(config: Config, networks: Networks) -> Export:
    """The network, for a field that holds a neonate's brain."""
    heads, net = load_heads(config.protocols), cast("UNet", networks["net"])
    modalities = (" or " if config.working.any_modality else " and ").join(
        config.working.modalities
    )
    about = f"Structures of {' and '.join(heads)}, learned from labeled {modalities} scans."
    return Export(
        network=Mirrored(net, heads) if config.mirror else net,
        heads=heads,
        grid=_grid(config, net),
        intensity=config.working.intensity,
        channels=len(config.working.modalities),
        description=" ".join((config.description or about, *config.data.allowed_leaks())),
        input=config.input or f"{modalities} scans of neonates like those it was trained on",
        modalities=config.working.modalities,
        any_modality=config.working.any_modality,
        ages_weeks=net.age.range_weeks if net.age is not None else None,
    )


def _grid(config: Config, net: UNet) -> GridRule:
    """What `segment` looks at."""
    return GridRule(
        spacing_mm=config.working.spacing_mm,
        multiple=net.stride,
        field_mm=config.field_mm,
        window=config.patches.size if config.windows else None,
    )


def _within(patch: Index, field: Index) -> bool:
    """Whether a field shows all of a patch and more."""
    return patch != field and all(a <= b for a, b in zip(patch, field, strict=True))


def _net(config: Config, heads: Heads, cases: Sequence[Case]) -> UNet:
    """The network, with an age head if wanted, which begins in the middle of the cases' ages."""
    ages = [case.age_weeks for case in cases if case.age_weeks is not None]
    tells_age = bool(ages) if config.age is None else config.age
    sizes = {name: head.n_classes for name, head in heads.items()}
    net = UNet(sizes, **_shape(config), age=tells_age)
    if net.age is not None:
        if not ages:
            raise CohortError(
                f"The network shall tell ages, but none of {len(cases)} training cases has one.",
                fix="fill in the column `age_weeks` of the manifest, or set `age: false`.",
            )
        net.age.expect((min(ages), max(ages)))
    return net


def _shape(config: Config) -> dict[str, Any]:
    """Arguments of the network, but for its age head."""
    return {
        "in_channels": len(config.working.modalities),
        "channels": list(config.channels),
        "fine": config.fine,
        "fine_norm": config.fine_norm,
        "first": 3 if config.fine_norm else 7,
        "residual": config.residual,
        "depths": config.depths,
    }
