"""Settings shared by all recipes."""

import math
from typing import Literal

from pydantic import Field

from fewlabel.settings import Settings


class OptimizerConfig(Settings):
    """How weights move."""

    kind: Literal["adam", "adamw", "sgd"] = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0)
    """Highest step size; `warmup_steps` and `decay` lower it."""
    momentum: float = Field(default=0.99, ge=0, lt=1)
    """SGD only; Nesterov."""
    weight_decay: float = Field(default=0.0, ge=0)
    warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the rate grows linearly from nothing."""
    decay: Literal["none", "poly", "cosine"] = "none"
    """`poly` multiplies the rate by (1 - step/steps)^0.9; `cosine` falls to zero along half a
    cosine."""
    clip: float = Field(default=12.0, gt=0)
    """Largest norm of all gradients together; longer ones are shortened to it."""
    accumulate: int = Field(default=1, ge=1)
    """Batches whose gradients are averaged into one step."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Share of the past in the running mean of weights that is validated and kept, such as
    0.999; 0 keeps the weights themselves."""

    def rate_at(self, step: int, steps: int) -> float:
        """Learning rate of one step.

        >>> OptimizerConfig(learning_rate=0.01, decay="poly").rate_at(step=0, steps=10)
        0.01
        """
        share = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if self.decay == "poly":
            share *= (1 - step / steps) ** 0.9
        elif self.decay == "cosine":
            share *= (1 + math.cos(math.pi * step / steps)) / 2
        return self.learning_rate * share
