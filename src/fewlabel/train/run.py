"""Where a run lives and how it is carried out."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fewlabel.train.ranks import Alone, Ranks


@dataclass(frozen=True)
class Progress:
    """How far a stage is.

    Attributes:
        stage: Its name.
        step: Steps taken.
        steps: Steps in all.
        values: Latest losses, scores, pace, by name.
        left_s: Seconds until the stage ends at the present pace.
    """

    stage: str
    step: int
    steps: int
    values: dict[str, float]
    left_s: float


@dataclass(frozen=True)
class Run:
    """Where a run lives and how it is carried out.

    Attributes:
        folder: Run folder.
        seed: Of batches and of everything random in losses and networks.
        device: As torch names it.
        precision: "bf16" computes networks in bfloat16; weights stay float32.
        checkpoint_s: Seconds between two checkpoints.
        checkpoint_every: Steps between two checkpoints besides; None: by time only.
        workers: Threads that draw batches.
        ranks: The processes that train together.
        watch: Told of progress now and then, on rank 0.
        stop: Asked after each step; if it says yes, the run ends there with a checkpoint.
    """

    folder: Path
    seed: int = 0
    device: str = "cpu"
    precision: Literal["32", "bf16"] = "32"
    checkpoint_s: float = 300.0
    checkpoint_every: int | None = None
    workers: int = 1
    ranks: Ranks = field(default_factory=Alone)
    watch: Callable[[Progress], None] = lambda _: None
    stop: Callable[[], bool] = lambda: False
