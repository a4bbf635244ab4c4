"""Slices to learn from, drawn by number, turned and scaled."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, Num
from torch import Tensor
from torch.nn import functional as F

from fewlabel.labels import UNLABELED
from fewlabel.slice_data import LabeledSlices
from fewlabel.slices import SliceRule
from fewlabel.train.stage import Batch

_SOME = 8


@dataclass(frozen=True)
class Chance:
    """What decides how images vary, and how far they may.

    Attributes:
        seed: Decides all.
        rotation_deg: Largest turn, either way.
        scaling: Largest change of size, as a share.
    """

    seed: int
    rotation_deg: float
    scaling: float


@dataclass(frozen=True, eq=False)
class Slices:
    """Draws training image n, always the same one."""

    cases: Sequence[LabeledSlices]
    rule: SliceRule
    chance: Chance

    def sample(self, n: int) -> tuple[Tensor, Tensor, np.random.Generator]:
        """A slice of a random case, its labels, and the chance that is left."""
        rng = np.random.default_rng((self.chance.seed, n))
        case = self.cases[int(rng.integers(len(self.cases)))]
        places = case.slices()
        axis, number = places[int(rng.integers(len(places)))]
        image, classes = case.image(self.rule, axis, number)
        return torch.from_numpy(image), torch.from_numpy(classes).long(), rng

    def __call__(self, n: int) -> Batch:
        """One image, and how it is to be turned and scaled."""
        image, classes, rng = self.sample(n)
        angle = math.radians(rng.uniform(-1, 1) * self.chance.rotation_deg)
        size = 1 + rng.uniform(-1, 1) * self.chance.scaling
        turn = [[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0]]
        matrix = torch.tensor(turn) / size
        return {"image": image[None], "classes": classes[None], "matrix": matrix}

    def some(self) -> Float[Tensor, "b 3 h w"]:
        """A few images that stand for all, cut to the size of the smallest."""
        images = [self.sample(n)[0] for n in range(_SOME)]
        height, width = (min(image.shape[axis] for image in images) for axis in (1, 2))
        return torch.stack([image[:, :height, :width] for image in images]).float()

    def mean(self) -> tuple[float, ...]:
        """Mean shade of each channel over the training images."""
        sums = np.zeros(3)
        pixels = 0
        for case in self.cases:
            for axis, n in case.slices():
                image, _ = case.image(self.rule, axis, n)
                sums += image.sum(axis=(1, 2), dtype=np.float64)
                pixels += image[0].size
        return tuple(sums / pixels)


def turned_and_scaled(
    image: Num[Tensor, "1 3 h w"], classes: Int[Tensor, "1 h w"], matrix: Float[Tensor, "2 3"]
) -> tuple[Float[Tensor, "1 3 h w"], Int[Tensor, "1 h w"]]:
    """A turned and scaled image, with what comes from beyond it dark and unlabeled.

    Args:
        image: Shades, shape (1, 3, h, w).
        classes: Labels, shape (1, h, w).
        matrix: From where a pixel is to where it looks, in pixels, shape (2, 3).
    """
    h, w = image.shape[2:]
    square = torch.tensor([[1.0, h / w, 1.0], [w / h, 1.0, 1.0]], device=matrix.device)
    where = F.affine_grid((matrix * square)[None], [1, 1, h, w], align_corners=False)
    moved = F.grid_sample(image.float(), where, align_corners=False)
    above_zero = (classes - UNLABELED).float()[:, None]
    nearest = F.grid_sample(above_zero, where, mode="nearest", align_corners=False)
    return moved, nearest[:, 0].long() + UNLABELED
