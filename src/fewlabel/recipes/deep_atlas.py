"""DeepAtlas: a network that registers and one that segments teach each other.

1. **registration**: learn to bend scans onto each other without labels.
2. **segmentation**: learn from the labeled scans, and from their labels carried to the others
   by the registration network, which is held still; `coarse_steps` on every second voxel first.
3. **joint**: in turns, each network learns while the other is held still. Where a scan has no
   labels, the segmentation network's own stand in for them.

`ablation` chooses the paper's comparisons, with equally many steps of each network:
**unsupervised** (stage 1 goes on), **weak** (registration with labels where both scans have
some), **segmentation** (of the labeled scans alone), **held** (stage 3 with the networks as
stage 2 left them in place of each other).

Source: xu2019. What the paper leaves open is listed in docs/papers/deepatlas2019.md.
"""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, PositiveInt, model_validator

from fewlabel.augment import AugmentConfig
from fewlabel.batches import PatchConfig
from fewlabel.cache import Cache
from fewlabel.cohort import Cohort
from fewlabel.conform import GridRule
from fewlabel.conformed import WorkingRule
from fewlabel.datasets.choice import DataConfig
from fewlabel.deep_atlas_study import Study, with_labels_of
from fewlabel.errors import ConfigError
from fewlabel.labels import load_protocol
from fewlabel.losses_deep_atlas import Carrier, Look, RegistrationLoss
from fewlabel.nets.register import RegistrationNet
from fewlabel.nets.unet import UNet, stride_of
from fewlabel.settings import Settings
from fewlabel.train.checkpoint import load_weights
from fewlabel.train.config import OptimizerConfig
from fewlabel.train.stage import Export, Networks, Registrar, Stage, Workplace
from fewlabel.train.weights import load_state

FINAL = "final.safetensors"
Ablation = Literal["joint", "held", "segmentation", "weak", "unsupervised"]
_PLAN: dict[Ablation, tuple[str, ...]] = {
    "unsupervised": ("registration", "unsupervised"),
    "weak": ("registration", "weak"),
    "segmentation": ("coarse-alone", "alone"),
    "held": ("registration", "coarse", "segmentation", "held"),
    "joint": ("registration", "coarse", "segmentation", "joint"),
}


class Config(Settings):
    """What is learned, from what, and how long."""

    data: DataConfig
    protocol: str
    """What the labels say and the segmentation network learns."""
    labeled: tuple[str, ...] | None = None
    """Training cases whose labels are used; None: all that have some."""
    ablation: Ablation = "joint"
    working: WorkingRule = WorkingRule(spacing_mm=2.0)
    field_mm: tuple[float, float, float] = (192.0, 224.0, 192.0)
    """How much of a scan is looked at to segment it."""
    register_channels: tuple[int, ...] = (16, 32, 32, 32)
    velocity: bool = True
    """Flow along a velocity, instead of a displacement at once."""
    consistent: bool = False
    """Exchanging two scans reverses their motion exactly; twice the work."""
    segment_channels: tuple[int, ...] = (8, 16, 32, 64)
    patches: PatchConfig = PatchConfig(size=(64, 64, 64), batch=1)
    augment: AugmentConfig = AugmentConfig(flip=0)
    registration: RegistrationLoss = RegistrationLoss()
    carried_weight: float = Field(default=1.0, ge=0)
    """Of the anatomy loss in turns of the segmentation network; the supervised loss has 1."""
    moved_share: float = Field(default=0.0, ge=0, le=1)
    """Share of steps in which carried labels are learned on their own scan, moved with them."""
    labeled_share: float = Field(default=0.5, ge=0, le=1)
    """Share of pairs whose moving scan is a labeled one, in turns of the registration network."""
    ratio: tuple[PositiveInt, PositiveInt] = (1, 20)
    """Steps of the segmentation and of the registration network in joint training."""
    register_steps: int = Field(default=2000, ge=1)
    """Of stage 1."""
    coarse_steps: int = Field(default=0, ge=0)
    """Of stage 2 on every second voxel along each axis, before `segment_steps`."""
    segment_steps: int = Field(default=2000, ge=1)
    """Of stage 2."""
    joint_steps: int = Field(default=2100, ge=1)
    """Of stage 3, both networks together."""
    optimizer: OptimizerConfig = OptimizerConfig(
        kind="adam", learning_rate=1e-3, decay="cosine", clip=1.0
    )
    segment_optimizer: OptimizerConfig | None = None
    """Of stages that train the segmentation network only; None: the same."""
    start: tuple[Path, ...] = ()
    """Runs whose finished stages are taken over, where they have the same names."""
    cache_gb: float = Field(default=20.0, gt=0)

    @model_validator(mode="after")
    def _fits(self) -> "Config":
        self.augment.require_from_zero(self.working.intensity)
        coarser = 2 if self.coarse_steps else 1
        self.patches.require_stride(coarser * stride_of(self.segment_channels))
        return self

    @property
    def multiple(self) -> int:
        """What sizes must be divisible by for both networks."""
        return 1 << max(len(self.register_channels), len(self.segment_channels) - 1)


def stages(config: Config, seed: int, work: Workplace) -> Iterator[Stage]:
    """Those of the ablation; ones that `start` has finished are loaded instead."""
    cases = with_labels_of(cohort(config, work.run).part("train"), config.labeled)
    place = (config.working, config.multiple, Cache(work.cache, config.cache_gb))
    protocol, needs = load_protocol(config.protocol), config.ablation != "unsupervised"
    flips = config.augment.flip > 0
    study = Study.of(cases, protocol, place, seed, needs_labels=needs, flips=flips)
    torch.manual_seed(seed)
    register, segment = networks_of(config)
    wanted = (n for n in _PLAN[config.ablation] if config.coarse_steps or "coarse" not in n)
    for name in wanted:
        networks = {"register": register, "segment": segment}
        if name == "held":
            networks |= {f"{key}_still": copy.deepcopy(net) for key, net in networks.items()}
        done = [path for run in config.start if (path := run / name / FINAL).is_file()]
        if done:
            load_state(networks, load_weights(done[0]))
        else:
            yield _stage(config, study, name, networks)


def cohort(config: Config, run: Path) -> Cohort:
    """The cases, split."""
    return config.data.load(run).seen_in(config.working.modalities[:1])


def networks_of(config: Config) -> tuple[RegistrationNet, UNet]:
    """Both networks, untrained."""
    protocol = load_protocol(config.protocol)
    segment = UNet({protocol.name: protocol.n_classes}, channels=config.segment_channels)
    return RegistrationNet(**_register_shape(config)), segment


def exports(config: Config, networks: Networks) -> Export:
    """Both networks in one model folder; ConfigError if the ablation trained no segmentation."""
    if config.ablation in ("unsupervised", "weak"):
        raise ConfigError(
            f"`ablation: {config.ablation}` trains no segmentation network, as a model needs one.",
            fix="train with `ablation: joint`.",
        )
    protocol, registrar = load_protocol(config.protocol), None
    if config.ablation != "segmentation":
        registrar = Registrar(networks["register"], _register_shape(config))
    return Export(
        network=networks["segment"],
        heads={protocol.name: protocol},
        grid=GridRule(
            spacing_mm=config.working.spacing_mm, multiple=config.multiple, field_mm=config.field_mm
        ),
        intensity=config.working.intensity,
        modalities=config.working.modalities[:1],
        description=f"{protocol.name} learned with DeepAtlas ({config.ablation}).",
        input=f"{config.working.modalities[0]} scans like those it was trained on",
        registrar=registrar,
    )


def _register_shape(config: Config) -> dict[str, Any]:
    shape = {"velocity": config.velocity, "consistent": config.consistent}
    return {"channels": list(config.register_channels), **shape}


def _stage(config: Config, study: Study, name: str, networks: Networks) -> Stage:
    segment, register = config.ratio
    last = config.joint_steps * segment // (segment + register)
    still = "_still" if name == "held" else ""
    teacher = f"segment{still}" if name in ("held", "joint") else None
    look = Look(config.patches, config.augment, 2 if "coarse" in name else 1)
    carrier = Carrier(
        f"register{still}", config.carried_weight, config.moved_share, held=name != "joint"
    )
    loss = config.registration
    if name in ("registration", "unsupervised"):
        loss = loss.model_copy(update={"anatomy": 0.0})
    bends = study.register_turn(loss, config.labeled_share, teacher, register)
    labels = study.segment_turn(look, None if "alone" in name else carrier, segment)
    turns, steps = {
        "registration": ((bends,), config.register_steps),
        "unsupervised": ((bends,), config.joint_steps - last),
        "weak": ((bends,), config.joint_steps - last),
        "coarse": ((labels,), config.coarse_steps),
        "segmentation": ((labels,), config.segment_steps),
        "alone": ((labels,), config.segment_steps + last),
    }.get(name.removesuffix("-alone"), ((labels, bends), config.joint_steps))
    alone = turns == (labels,) and config.segment_optimizer
    return Stage(name, networks, turns, alone or config.optimizer, steps)
