"""Batches of patches from conformed cases, each following from the seed and its number."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float64
from pydantic import Field

from fewlabel.augment import AugmentConfig, augment, mirrored, repainted
from fewlabel.conform import GridRule
from fewlabel.conformed import Conformed
from fewlabel.examples import Example, Heads
from fewlabel.labels import UNLABELED
from fewlabel.patches import Index, draw_start
from fewlabel.settings import Settings
from fewlabel.shares import index
from fewlabel.train.stage import Batch

WINDOW = "window"
"""Key of the voxels, from and to along each axis, that a patch of a larger image has."""

_APART = 4  # voxels between where `segment` looks and where fields are drawn, at most
_SAME_AGE = 0.05  # logarithm of length: heads of one age differ so much, about


class PatchConfig(Settings):
    """Which patches are learned from."""

    size: Index = (96, 96, 96)
    """Voxels; each must be divisible by the stride of the network."""
    batch: int = Field(default=2, ge=1)
    """Patches a batch."""
    foreground: float = Field(default=0.67, ge=0, le=1)
    """Share of patches that are drawn around a structure; the others lie anywhere."""
    rarity: float = Field(default=0.5, ge=0, le=1)
    """How much rare structures are preferred then: 0 not at all, 1 until all are drawn alike."""
    balance: float = Field(default=0.0, ge=0, le=1)
    """How much cases are preferred whose labels tell more structures apart: 0 not at all, 1 in
    proportion to their number."""

    def require_stride(self, stride: int) -> None:
        """Refuse patches that a network cannot halve often enough.

        Raises:
            ValueError: If a side is not divisible by the stride.
        """
        if any(n % stride for n in self.size):
            raise ValueError(
                f"`patches.size` must be divisible by {stride}, as the network halves it"
                f" {stride.bit_length() - 1} times"
            )


def _age_weeks(example: Example, growth: float) -> float:
    """Age of a head that was made larger, NaN if none of that age is so large."""
    age = example.scan.case.age_weeks
    return math.nan if age is None or abs(math.log(growth)) > _SAME_AGE else age


@dataclass(frozen=True, eq=False)
class Patches:
    """Draws batches.

    A batch has "image", and for each head "classes/NAME" and "merge/NAME" as `losses` takes them,
    and "age_weeks", NaN where it is unknown or the head was made much larger or smaller. With
    `field`, images are the fields that `segment` looks at, placed by chance up to four voxels
    elsewhere, and "window" says where the patch is. A
    modality that a case lacks is zero everywhere, whatever else happens to a patch. Cases are
    taken in a random order, all of them before any comes again; or at random, if some are
    preferred.

    Attributes:
        examples: To draw from.
        heads: Protocol of each head of the network.
        config: Which patches.
        chance: How they are changed.
        seed: Decides all that is random, with the number of the batch.
        field: What the network sees, if it shall see more than the patch.
    """

    examples: Sequence[Example]
    heads: Heads
    config: PatchConfig
    chance: AugmentConfig
    seed: int
    field: GridRule | None = None

    def __call__(self, n: int) -> Batch:
        """Batch number n."""
        size = self.config.batch
        drawn = [self._patch(number) for number in range(n * size, (n + 1) * size)]
        return {key: torch.stack([one[key] for one in drawn]) for key in drawn[0]}

    def _patch(self, number: int) -> Batch:
        rng = np.random.default_rng((self.seed, 0, number))
        example = self._turn_of(number)
        torch_rng = torch.Generator().manual_seed(int(rng.integers(2**63 - 1)))
        margin, size = self.chance.margin_voxels, self._seen
        i, j, k = (n + 2 * margin for n in size)
        first, around = self._place(rng, example.scan)
        image, classes = example.scan.part(index(np.array(first) - margin), (i, j, k))
        more_rng = np.random.default_rng((self.seed, 4, number))
        moved = torch.from_numpy(image), torch.from_numpy(classes)
        if more_rng.random() < self.chance.synthetic:
            moved = self._repainted(*moved, example.scan, more_rng), moved[1]
        flip = rng.random() < self.chance.flip
        if flip:
            moved = mirrored(*moved)
        intensities, labels, growth = augment(*moved, size, self.chance, torch_rng)
        if len(image) > 1:
            intensities[torch.from_numpy(self._hidden(example.scan, more_rng))] = 0
        return {
            "image": intensities.contiguous(),
            "age_weeks": torch.tensor(_age_weeks(example, growth), dtype=torch.float32),
            **self._labels(example, labels, flip=flip),
            **(self._window(more_rng, around, flip=flip) if self.field else {}),
        }

    def _repainted(
        self, image: torch.Tensor, classes: torch.Tensor, scan: Conformed, rng: np.random.Generator
    ) -> torch.Tensor:
        if scan.protocol is None or not scan.is_complete:
            return image
        partner = torch.from_numpy(scan.protocol.mirrored()[:-1])
        torch_rng = torch.Generator().manual_seed(int(rng.integers(2**63 - 1)))
        return repainted(image, classes, partner, torch_rng)

    def _hidden(self, scan: Conformed, rng: np.random.Generator) -> Bool[np.ndarray, "c"]:
        """Which modalities are not to be seen: those that lack, and by chance all but one."""
        hidden: np.ndarray = ~scan.there
        if rng.random() < self.chance.drop_modality and scan.there.any():
            hidden[:] = True
            hidden[rng.choice(np.flatnonzero(scan.there))] = False
        return hidden

    def _turn_of(self, number: int) -> Example:
        if self.config.balance:
            rng = np.random.default_rng((self.seed, 3, number))
            return self.examples[int(rng.choice(len(self.examples), p=self._shares))]
        lap, place = divmod(number, len(self.examples))
        order = np.random.default_rng((self.seed, 1, lap)).permutation(len(self.examples))
        return self.examples[int(order[place])]

    @cached_property
    def _shares(self) -> Float64[np.ndarray, "cases"]:
        """How often each case is drawn, if some are preferred."""
        taught = [
            sum(found.n_told_apart for found, _ in example.contracts.values())
            for example in self.examples
        ]
        weights = np.asarray(taught, dtype=np.float64) ** self.config.balance
        if not weights.any():
            weights[:] = 1
        shares: np.ndarray = weights / weights.sum()
        return shares

    @property
    def _seen(self) -> Index:
        return self.field.field if self.field else self.config.size

    def _place(self, rng: np.random.Generator, scan: Conformed) -> tuple[Index, Index | None]:
        """First voxel of what is seen, and one in it that the patch shall show, if any."""
        around = None
        if scan.places is not None and rng.random() < self.config.foreground:
            around = scan.places.draw(rng, self.config.rarity)
        if self.field is None:
            return draw_start(rng, index(scan.image.shape[1:]), self.config.size, around), None
        first = np.array(scan.start_of(self.field)) + rng.integers(-_APART, _APART + 1, 3)
        return index(first), None if around is None else index(np.array(around) - first)

    def _window(self, rng: np.random.Generator, around: Index | None, *, flip: bool) -> Batch:
        """A patch in the field, from even voxels on, around a voxel as far as chance left it."""
        if around and flip:
            around = (self._seen[0] - 1 - around[0], *around[1:])
        start = np.array(draw_start(rng, self._seen, self.config.size, around)) // 2 * 2
        return {WINDOW: torch.from_numpy(np.stack((start, start + self.config.size), axis=1))}

    def _labels(self, example: Example, classes: torch.Tensor, *, flip: bool) -> Batch:
        found: dict[str, torch.Tensor] = {}
        for name, head in self.heads.items():
            if name in example.contracts:
                terms = example.contracts[name][flip]
                table, merge = torch.from_numpy(terms.labels), torch.from_numpy(terms.merge)
                found[f"classes/{name}"] = table[classes.long()]
            else:
                merge = torch.arange(head.n_classes, dtype=torch.int16)
                found[f"classes/{name}"] = torch.full_like(classes, UNLABELED)
            found[f"merge/{name}"] = merge
        return found
