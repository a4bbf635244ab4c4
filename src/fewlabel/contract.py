"""The label contract: what the labels of one case say about the classes of a network.

Labels may be whole, drawn in a smaller or merged protocol, or lack structures that nobody looked
for. All of this is one table: which classes of the network a label does not tell apart.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int16

from fewlabel.labels import UNLABELED, LabelProtocol, shared_protocol


@dataclass(frozen=True, eq=False)
class Contract:
    """How the labels of a case bear on a network.

    Classes that the labels do not tell apart form a set, and a set goes by the number of its
    first class. So labels that tell all classes apart are simply the network's classes.

    Attributes:
        labels: Look-up table from the classes of the case's label map to sets; the last entry
            keeps -1 at -1.
        merge: The set of each network class; -1 for a class that could be under any label.
    """

    labels: Int16[np.ndarray, "entries"]
    merge: Int16[np.ndarray, "classes"]

    @property
    def is_whole(self) -> bool:
        """Whether the labels tell all classes apart."""
        return bool((self.merge == np.arange(len(self.merge))).all())

    @property
    def n_told_apart(self) -> int:
        """Structures that the labels tell from everything else."""
        known = self.merge[self.merge >= 0]
        alone = np.flatnonzero(np.bincount(known, minlength=len(self.merge)) == 1)
        return int((alone > 0).sum())

    def mirrored(self, head: LabelProtocol) -> "Contract":
        """The contract of the same labels after left and right have changed places."""
        swapped = self.merge[head.mirrored()[:-1]]
        number = _first_of_each(swapped)
        return Contract(number[self.labels], number[swapped])


def contract(
    head: LabelProtocol, drawn: LabelProtocol, looked_for: Collection[str] | None = None
) -> Contract:
    """What label maps say about the classes of a network.

    Structures that nobody looked for are one set with the background: a voxel without a label
    may be any of them.

    Args:
        head: What the network tells apart.
        drawn: Protocol of the label maps.
        looked_for: Structures of `drawn` that the annotator looked for; None for all.

    Raises:
        ProtocolError: If the protocols have no structure in common, or `drawn` lacks one of
            `looked_for`.
    """
    seen = drawn if looked_for is None else drawn.restrict(looked_for)
    shared = shared_protocol(head, seen)
    merge = head.table_to(shared)[:-1]
    labels = drawn.table_to(shared)
    number = _first_of_each(merge)
    return Contract(number[labels], number[merge])


def _first_of_each(merge: Int16[np.ndarray, "classes"]) -> Int16[np.ndarray, "entries"]:
    """Look-up table from sets, numbered in any way, to the first class of each."""
    number = np.full(max(len(merge), int(merge.max()) + 1) + 1, UNLABELED, dtype=np.int16)
    for first in reversed(range(len(merge))):
        if merge[first] >= 0:
            number[merge[first]] = first
    return number
