"""Pairs of scans to register, each following from the seed and its number."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int16

from fewlabel.examples import Example
from fewlabel.labels import UNLABELED, LabelProtocol
from fewlabel.patches import Index, draw_start
from fewlabel.train.stage import Batch

_STREAM = 2  # of random numbers; others belong to patches


@dataclass(frozen=True, eq=False)
class Pairs:
    """Draws two different scans that lie in one place.

    A batch has "fixed" and "moving", shape (1, 1, i, j, k), and "fixed_classes" and
    "moving_classes", shape (1, i, j, k), which are -1 where a scan has no labels; "pair" has the
    numbers of both.

    Attributes:
        examples: To draw from, at least two, all on one grid.
        protocol: What the classes mean.
        labeled: Share of pairs whose moving scan is one with labels, if there is one.
        seed: Decides all that is random, with the number of the batch.
        unlabeled: Whether the fixed scan is one without labels, if there is one.
    """

    examples: Sequence[Example]
    protocol: LabelProtocol
    labeled: float
    seed: int
    unlabeled: bool = False

    def __call__(self, n: int) -> Batch:
        """Batch number n."""
        rng = np.random.default_rng((self.seed, _STREAM, n))
        everyone = range(len(self.examples))
        known = [i for i in everyone if self.examples[i].contracts]
        wanted = known if known and rng.random() < self.labeled else everyone
        moving = int(rng.choice(wanted))
        others = [i for i in everyone if i != moving]
        free = [i for i in others if not self.examples[i].contracts]
        fixed = int(rng.choice(free if self.unlabeled and free else others))
        batch = {"pair": torch.tensor([fixed, moving])}
        for role, number in (("fixed", fixed), ("moving", moving)):
            example = self.examples[number]
            batch[role] = torch.from_numpy(np.array(example.scan.image))[None]
            classes = torch.from_numpy(classes_of(example, self.protocol))
            batch[f"{role}_classes"] = classes[None]
        return batch


@dataclass(frozen=True, eq=False)
class PairsAndPatches:
    """Draws pairs with a patch of the fixed scan and a chance, and labeled patches beside them.

    Attributes:
        pairs: Their batches get "start", the first voxel of the patch, and "chance", 0 to 1.
        patches: Their batches are added.
        size: Voxels of the patch.
        seed: Decides where it lies.
    """

    pairs: Pairs
    patches: Callable[[int], Batch]
    size: Index
    seed: int

    def __call__(self, n: int) -> Batch:
        """Batch number n."""
        rng = np.random.default_rng((self.seed, _STREAM + 1, n))
        pair = self.pairs(n)
        i, j, k = pair["fixed"].shape[2:]
        size = (min(self.size[0], i), min(self.size[1], j), min(self.size[2], k))
        start = torch.tensor(draw_start(rng, (i, j, k), size))
        chance = torch.tensor(rng.random())
        return {**pair, **self.patches(n), "start": start, "chance": chance}


def classes_of(example: Example, protocol: LabelProtocol) -> Int16[np.ndarray, "i j k"]:
    """Classes of the protocol; -1 everywhere if the example has no labels."""
    if protocol.name not in example.contracts:
        return np.full(example.scan.image.shape[1:], UNLABELED, dtype=np.int16)
    assert example.scan.classes is not None
    table = example.contracts[protocol.name][0].labels
    classes: np.ndarray = table[np.asarray(example.scan.classes)]
    return classes
