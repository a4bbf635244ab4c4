"""Fine-tune: go on from a trained network, on few scans of other people, in one of six ways.

1. Read the source: a model folder, or the folder of a run.
2. Build its network anew for the structures and modalities that are wanted now, and copy what
   means the same there (`fewlabel.surgery`).
3. **finetune** the part of it that `strategy` names (`fewlabel.strategies`), from nothing at all
   (`frozen`) to all of it (`full`), or train the same network from random weights (`scratch`).

People and families whom the source has learned from are refused in the validation and test set.

Source: richter2022, transfer learning. Departs from it: all ways take equally many steps, where
the published code trains new networks twice as long.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import Field

from fewlabel.augment import AugmentConfig
from fewlabel.batches import PatchConfig, Patches
from fewlabel.cache import Cache
from fewlabel.cohort import Case, Cohort
from fewlabel.conform import GridRule
from fewlabel.conformed import WorkingRule
from fewlabel.datasets.choice import DataConfig
from fewlabel.errors import ConfigError
from fewlabel.examples import load_heads, make_examples, require_every_class, require_labels
from fewlabel.held_out import HeldOut
from fewlabel.labels import LabelProtocol
from fewlabel.mni import conform_in
from fewlabel.nets.mirror import Mirrored
from fewlabel.nets.unet import UNet
from fewlabel.objective import ObjectiveConfig, losses_of
from fewlabel.settings import Settings
from fewlabel.source import Source, WorkingChange, differences, people_apart, read_source
from fewlabel.strategies import Strategy, record, trained_by
from fewlabel.surgery import Sees, transplant
from fewlabel.train.config import OptimizerConfig
from fewlabel.train.stage import Batch, Export, Losses, Networks, Stage, Turn, Workplace

STAGE = "finetune"


class Config(Settings):
    """What is learned from what, and which weights move."""

    source: Path
    """A run folder, a model folder, or the name of a model."""
    strategy: Strategy = "full"
    """`frozen`, `inner-1`, `inner-2`, `inner-all`, `full` or `scratch`; the paper's names work."""
    data: DataConfig
    protocols: tuple[str, ...] = ()
    """What is wanted: a head for each; none: the source's. `frozen` keeps the source's anyway."""
    working: WorkingChange = WorkingChange()
    patches: PatchConfig = PatchConfig()
    windows: bool | None = None
    """Whether the network sees patches only, while it learns and in `segment`, or the source's
    whole field; None: what the source has seen. In a whole field it is judged at full resolution
    in a patch only, if the finest layer has no norm, as in `adult-aseg32`."""
    mirror: bool | None = None
    """Whether the exported network averages over the image and its mirror image: better, and
    twice the time; None: as the source does. Networks that tell an age cannot."""
    augment: AugmentConfig = AugmentConfig()
    depths: int | None = Field(default=None, ge=1)
    """Resolutions that are supervised; None: as many as in the source."""
    objective: ObjectiveConfig = ObjectiveConfig()
    steps: int = Field(default=2_000, ge=1)
    optimizer: OptimizerConfig = OptimizerConfig(
        kind="sgd", learning_rate=1e-3, momentum=0.99, weight_decay=3e-5, decay="poly"
    )
    validate_every: int | None = Field(default=None, ge=1)
    """Steps between two validations; None: ten times in all."""
    patience: int | None = Field(default=None, ge=1)
    """Validations without a better score after which training ends; None: never."""
    allow_empty_classes: bool = False
    """Go on although a structure never occurs in the training cases."""
    cache_gb: float = Field(default=20.0, gt=0)
    """Largest size of the cache of conformed scans."""


def stages(config: Config, seed: int, work: Workplace) -> Iterator[Stage]:
    """The one stage; nothing moves in it under `frozen`."""
    source = read_source(config.source)
    heads, rule = heads_of(config, source), rule_of(config, source)
    everybody = config.data.load(work.run).seen_in(rule.modalities)
    notes = differences(source, rule)
    if config.strategy != "scratch":
        notes += people_apart(source, everybody)
    cases = [*(train_cases := everybody.part("train")), *everybody.part("val")]
    scans = conform_in(source.space, cases, rule, Cache(work.cache, config.cache_gb))
    examples = make_examples(scans, heads, flips=config.augment.flip > 0, tell=work.tell)
    train, val = examples[: len(train_cases)], examples[len(train_cases) :]
    if config.strategy != "frozen":
        require_labels(train)
        if not config.allow_empty_classes:
            require_every_class(train, heads)
    torch.manual_seed(seed)
    shape = _shape(config, source, rule)
    net = UNet({name: head.n_classes for name, head in heads.items()}, **shape)
    if net.age is not None:
        net.age.expect(_ages(config, source, train_cases))
    fresh = tuple(name for name, _ in net.named_parameters())
    if config.strategy != "scratch":
        begun = transplant(net, Sees(heads, rule.modalities), source.weights, source.sees)
        fresh, notes = begun.fresh, notes + begun.notes
    trains = trained_by(config.strategy, net, fresh)
    said = record(work.run, net, trains, fresh=fresh)
    work.tell(" ".join((f"{config.strategy} from {source.name}: {said}", *notes)))

    def loss(networks: Networks, batch: Batch) -> Losses:
        return losses_of(cast("UNet", networks["net"]), batch, config.objective)

    grid = grid_of(config, source, rule)
    field = None if grid.window else grid
    held_out = HeldOut(val, heads, config.patches.size, work, field)
    draw = Patches(train, heads, config.patches, config.augment, seed, field)
    yield Stage(
        name=STAGE,
        networks={"net": net},
        turns=(Turn(trains, draw, loss),) if trains else (),
        optimizer=config.optimizer,
        steps=config.steps if trains else 0,
        validate=held_out.score if held_out.examples else None,
        validate_every=config.validate_every,
        patience=config.patience,
    )


def cohort(config: Config, run: Path) -> Cohort:
    """The cases, split."""
    return config.data.load(run).seen_in(rule_of(config, read_source(config.source)).modalities)


def exports(config: Config, networks: Networks) -> Export:
    """The network in the source's field; in windows as large as patches, if it was trained so."""
    source, net = read_source(config.source), cast("UNet", networks["net"])
    heads, rule = heads_of(config, source), rule_of(config, source)
    grid = source.grid
    if config.strategy != "frozen" or rule.spacing_mm != grid.spacing_mm:
        grid = grid_of(config, source, rule)
    modalities = (" or " if rule.any_modality else " and ").join(rule.modalities)
    about = f"Structures of {' and '.join(heads)}: {config.strategy} from {source.name}."
    mirrored = config.mirror or (config.mirror is None and source.mirrored)
    return Export(
        network=Mirrored(net, heads) if mirrored else net,
        heads=heads,
        grid=grid,
        intensity=rule.intensity,
        space=source.space,
        channels=len(rule.modalities),
        modalities=rule.modalities,
        any_modality=rule.any_modality,
        ages_weeks=None if net.age is None else net.age.range_weeks,
        description=" ".join((about, *config.data.allowed_leaks())),
        input=f"{modalities} scans like those it was trained on",
    )


def heads_of(config: Config, source: Source) -> dict[str, LabelProtocol]:
    """Protocol of each head by its name; those of the source if nothing else is wanted.

    Raises:
        ProtocolError: If there is no such protocol.
    """
    wanted = load_heads(config.protocols)
    own = dict(source.sees.heads)
    if config.strategy == "frozen":
        return {name: own[name] for name in wanted if name in own} | own
    return wanted or own


def rule_of(config: Config, source: Source) -> WorkingRule:
    """What scans are made into: the same as for the source, but for what `working` changes.

    Raises:
        ConfigError: If patches, augmentation or depths do not go with it.
    """
    rule, levels = config.working.of(source.working), len(source.shape["channels"])
    try:
        config.patches.require_stride(source.stride)
    except ValueError as problem:
        raise ConfigError(f"{problem}.", fix="change `patches.size`.") from None
    if (config.depths or 1) >= levels:
        raise ConfigError(
            f"`depths` must be less than the {levels} levels of the source.", fix="lower it."
        )
    try:
        config.augment.require_from_zero(rule.intensity)
    except ValueError as problem:
        raise ConfigError(
            f"The source learned from scans scaled by {rule.intensity}: {problem}.",
            fix="set `augment.chance: 0` and `augment.synthetic: 0`.",
        ) from None
    return rule


def grid_of(config: Config, source: Source, rule: WorkingRule) -> GridRule:
    """What the network looks at: windows as large as patches, or whole fields.

    Raises:
        ConfigError: If patches are larger than the whole field.
    """
    windows = source.grid.window is not None if config.windows is None else config.windows
    changes = {"spacing_mm": rule.spacing_mm, "window": config.patches.size if windows else None}
    grid = GridRule.model_validate(source.grid.model_dump() | changes)
    if not windows and any(a > b for a, b in zip(config.patches.size, grid.field, strict=True)):
        raise ConfigError(
            f"Patches of {config.patches.size} voxels are larger than the source's field of"
            f" {grid.field}.",
            fix="make `patches.size` smaller, or set `windows: true`.",
        )
    return grid


def _shape(config: Config, source: Source, rule: WorkingRule) -> dict[str, Any]:
    """Arguments of the network: the source's, for the channels and depths that are wanted."""
    own = {"in_channels": len(rule.modalities), "depths": config.depths or source.shape["depths"]}
    return source.shape | own


def _ages(config: Config, source: Source, cases: Sequence[Case]) -> tuple[float, float]:
    """Youngest and oldest that the network has learned from or will."""
    new = [case.age_weeks for case in cases if case.age_weeks is not None]
    assert source.ages_weeks is not None
    told = [*source.ages_weeks, *(new if config.strategy != "frozen" else ())]
    return min(told), max(told)
