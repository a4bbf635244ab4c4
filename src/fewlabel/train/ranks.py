"""Processes that train together, as the loop sees them."""

from collections.abc import Iterable
from typing import Protocol, TypeVar, runtime_checkable

from torch import Tensor

T = TypeVar("T")


@runtime_checkable
class Ranks(Protocol):
    """One process among those that train together."""

    @property
    def rank(self) -> int:
        """Number of this process, from 0. Rank 0 writes files."""

    @property
    def world(self) -> int:
        """Processes in all."""

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its mean over all processes."""

    def agree(self, value: T) -> T:
        """The value that rank 0 has."""


class Alone:
    """A single process."""

    rank = 0
    world = 1

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Nothing to do."""

    def agree(self, value: T) -> T:
        """The value itself."""
        return value


def batch_number(step: int, part: int, accumulate: int, ranks: Ranks) -> int:
    """Number of the batch that a rank draws for one part of a step.

    Numbers are dealt so that two ranks see together what one rank sees with twice the
    accumulation.

    >>> [batch_number(step=1, part=n, accumulate=2, ranks=Alone()) for n in range(2)]
    [2, 3]
    """
    return (step * accumulate + part) * ranks.world + ranks.rank
