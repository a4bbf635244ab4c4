"""Numbered images made up from label maps, each the same whenever it is asked for."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fewlabel.heads import Heads
from fewlabel.palette import Palette
from fewlabel.synthesis import SynthesisConfig, synthesize
from fewlabel.train.stage import Batch


@dataclass(frozen=True, eq=False)
class Painter:
    """Paints image n, always the same one.

    Attributes:
        palette: What the label maps stand for.
        heads: The label maps; read when the first image is drawn.
        synthesis: How far chance may go.
        field: Voxels of an image.
        spacing_mm: Edge of its voxels.
        seed: Decides all that is random, with the number of the image.
    """

    palette: Palette
    heads: Callable[[], Heads]
    synthesis: SynthesisConfig
    field: tuple[int, int, int]
    spacing_mm: float
    seed: int

    def draw(self, n: int) -> Batch:
        """Whose head is painted, and what decides how; painting is done on the device."""
        words = np.random.SeedSequence((self.seed, round(1000 * self.spacing_mm), n))
        first, second = (int(word) for word in words.generate_state(2))
        rows = self.heads().rows
        return {"rows": rows[first % len(rows)], "chance": torch.tensor(second)}

    def paint(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Intensities, shape (1, 1, i, j, k), and classes, shape (1, i, j, k)."""
        rows = batch["rows"]
        rng = torch.Generator(rows.device).manual_seed(int(batch["chance"]))
        working = (self.field, self.spacing_mm, self.heads().spacing_mm)
        with torch.autocast(rows.device.type, enabled=False):
            return synthesize(rows, self.palette, self.synthesis, working, rng)
