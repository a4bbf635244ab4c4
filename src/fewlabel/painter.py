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
        batch: Images that are drawn and painted together.
    """

    palette: Palette
    heads: Callable[[], Heads]
    synthesis: SynthesisConfig
    field: tuple[int, int, int]
    spacing_mm: float
    seed: int
    batch: int = 1

    def draw(self, n: int) -> Batch:
        """Whose heads are painted, and what decides how; painting is done on the device."""
        rows = self.heads().rows
        whose, chance = [], []
        for image in range(n * self.batch, (n + 1) * self.batch):
            words = np.random.SeedSequence((self.seed, round(1000 * self.spacing_mm), image))
            first, second = (int(word) for word in words.generate_state(2))
            whose.append(first % len(rows))
            chance.append(second)
        return {"rows": rows[whose], "chance": torch.tensor(chance)}

    def paint(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Intensities, shape (batch, 1, i, j, k), and classes, shape (batch, i, j, k)."""
        device = batch["rows"].device
        working = (self.field, self.spacing_mm, self.heads().spacing_mm)
        images, classes = [], []
        with torch.autocast(device.type, enabled=False):
            for rows, chance in zip(batch["rows"], batch["chance"].tolist(), strict=True):
                rng = torch.Generator(device).manual_seed(chance)
                image, labels = synthesize(rows, self.palette, self.synthesis, working, rng)
                images.append(image)
                classes.append(labels)
        return torch.cat(images), torch.cat(classes)
