"""What a recipe hands to the loop, and what it is given."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from fewlabel.card import Contrast
from fewlabel.conform import GridRule
from fewlabel.labels import LabelProtocol
from fewlabel.slices import SliceRule
from fewlabel.train.config import OptimizerConfig

Batch = Mapping[str, Tensor]
Losses = dict[str, Tensor]
"""Scalars; "total" is minimized, the rest are logged."""
Networks = Mapping[str, nn.Module]
Draw = Callable[[int], Batch]
"""Batch number n, and the same one whenever n is asked for: all randomness is derived from the
seed and n, none from global generators. So a run can be taken up at any step, and draws can be
made ahead of time in other threads."""


@dataclass(frozen=True)
class Turn:
    """One kind of optimizer step.

    Attributes:
        trains: Which weights move, as prefixes of their names: `("net",)` for a whole
            network, `("net.decoders", "net.bottleneck")` to fine-tune a part of it.
        draw: Its batches, by number.
        loss: Losses of one batch. Runs on the training device, so heavy augmentation or
            synthesis may live here; torch's generator is seeded before each call.
        times: Steps of this kind in a row before the next turn.
    """

    trains: tuple[str, ...]
    draw: Draw
    loss: Callable[[Networks, Batch], Losses]
    times: int = 1


@dataclass(frozen=True)
class Stage:
    """A stretch of training with fixed networks and losses.

    Attributes:
        name: Folder of its checkpoints; unique within a recipe.
        networks: What is trained or used, by name.
        turns: Taken one after another, over and over.
        optimizer: How weights move.
        steps: Optimizer steps in all; with none, networks are validated once and kept.
        validate: Scores of the networks on whole held-out scans, by name; higher is better
            for "score", which picks the best checkpoint. None: the last checkpoint wins.
        validate_every: Steps between two validations; None: ten times in the stage.
        patience: Validations without a better score after which the stage ends; None: never.
    """

    name: str
    networks: Networks
    turns: tuple[Turn, ...]
    optimizer: OptimizerConfig
    steps: int
    validate: Callable[[Networks], dict[str, float]] | None = None
    validate_every: int | None = None
    patience: int | None = None

    def turn_of(self, step: int) -> int:
        """Index of the turn that takes a step."""
        place = step % sum(turn.times for turn in self.turns)
        for number, turn in enumerate(self.turns):
            place -= turn.times
            if place < 0:
                return number
        raise AssertionError("unreachable")


@dataclass(frozen=True)
class Workplace:
    """Where a recipe works.

    Attributes:
        run: The run folder.
        cache: Folder of conformed scans, shared by runs.
        device: Where networks train, as torch names it ("cpu", "cuda:0").
        tell: Takes what people should know before training begins.
    """

    run: Path
    cache: Path
    device: str = "cpu"
    tell: Callable[[str], None] = lambda _: None


@dataclass(frozen=True)
class Registrar:
    """A registration network for a model folder.

    Attributes:
        network: A `nets.register.RegistrationNet`.
        settings: Its arguments.
    """

    network: nn.Module
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Export:
    """What a model folder is made of, besides who made it.

    Attributes:
        network: From images, shape (b, channels, i, j, k), to logits by head; a lone tensor
            belongs to the only head.
        heads: Protocol of each head; the first is the one that `segment` gives.
        grid: What the network wants its input to be like.
        intensity: Function of `fewlabel.intensity` that scales its input.
        space: Whether it looks at scans where they lie, or placed as in MNI space.
        channels: Modalities, or the three colors of a slice.
        description: What it segments, in one sentence.
        input: Scans that it is meant for.
        registrar: A network that registers such scans, at the same voxel size, if there is one.
        modalities: What each channel of a field holds, in order.
        any_modality: Some of them may be missing; such a channel is zero everywhere.
        ages_weeks: Youngest and oldest that it was trained on, if `network` tells the age: then
            its output holds "age_weeks", shape (b,), beside the logits.
        contrast: What is brighter than what in most of what it was trained on.
    """

    network: nn.Module
    heads: Mapping[str, LabelProtocol]
    grid: GridRule | SliceRule
    intensity: Literal["robust_scale", "z_score", "equalize"] = "robust_scale"
    space: Literal["native", "mni-rigid"] = "native"
    channels: int = 1
    description: str = "Structures of the brain."
    input: str = "Scans like those it was trained on"
    registrar: Registrar | None = None
    modalities: tuple[str, ...] = ("T1w",)
    any_modality: bool = False
    ages_weeks: tuple[float, float] | None = None
    contrast: Contrast | None = None


def numbered(names: Iterable[str]) -> list[str]:
    """The same names, numbered where one comes again, so that each can be a stage's.

    >>> numbered(("4mm", "2mm", "2mm"))
    ['4mm', '2mm', '2mm-2']
    """
    times, found = Counter[str](), []
    for name in names:
        times[name] += 1
        found.append(name if times[name] == 1 else f"{name}-{times[name]}")
    return found
