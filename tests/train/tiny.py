"""A recipe of a second's work: two classes that differ in intensity, two stages."""

import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from fewlabel.cohort import Cohort
from fewlabel.conform import GridRule
from fewlabel.errors import ConfigError
from fewlabel.labels import Label, LabelProtocol
from fewlabel.settings import Settings
from fewlabel.train import (
    Batch,
    Export,
    Losses,
    Networks,
    OptimizerConfig,
    Stage,
    Turn,
    Workplace,
)

BRIGHT = LabelProtocol("bright", (Label(1, "bright"),))


class Config(Settings):
    first_steps: int = 20
    second_steps: int = 20
    norm: bool = True
    """Batch norm, whose statistics depend on which process sees which batch."""
    pause_s: float = 0.0
    """How long a batch takes to draw."""
    patience: int | None = None
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=0.05)


def stages(config: Config, seed: int, work: Workplace) -> Iterator[Stage]:  # noqa: ARG001
    if not config.first_steps:
        raise ConfigError("There is nothing to learn from.", fix="take a step.")
    torch.manual_seed(seed)
    net = network(norm=config.norm)

    def draw(n: int) -> Batch:
        time.sleep(config.pause_s)
        return batch(seed * 1_000_003 + n)

    turn = Turn(("net",), draw, loss)
    yield Stage(
        "first",
        {"net": net},
        (turn,),
        config.optimizer,
        config.first_steps,
        score,
        validate_every=5,
        patience=config.patience,
    )
    grown = nn.Sequential(net, nn.Conv3d(2, 2, 1))
    turn = Turn(("net.1", "net.0.0"), draw, loss)
    yield Stage("second", {"net": grown}, (turn,), config.optimizer, config.second_steps)


def cohort(config: Config, run: Path) -> Cohort:  # noqa: ARG001
    return Cohort(())


def exports(config: Config, networks: Networks) -> Export:  # noqa: ARG001
    return Export(networks["net"], {"bright": BRIGHT}, GridRule(spacing_mm=8, multiple=2))


def network(*, norm: bool = True) -> nn.Module:
    middle = nn.BatchNorm3d(4) if norm else nn.InstanceNorm3d(4, affine=True)
    return nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), middle, nn.Dropout(0.2), nn.Conv3d(4, 2, 1))


def batch(seed: int) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    classes = torch.randint(0, 2, (2, 4, 4, 4), generator=rng)
    noise = torch.randn((2, 1, 4, 4, 4), generator=rng)
    return {"image": classes[:, None] + 0.1 * noise, "classes": classes}


def loss(networks: Networks, batch: Batch) -> Losses:
    total = F.cross_entropy(networks["net"](batch["image"]).float(), batch["classes"])
    return {"total": total}


def score(networks: Networks) -> dict[str, float]:
    held_out = batch(12345)
    found = networks["net"](held_out["image"]).argmax(1)
    return {"score": float((found == held_out["classes"]).float().mean())}
