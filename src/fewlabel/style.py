"""How somebody draws: what a network's readiness to name a structure is changed by, and where.

An offset is added to the logit of a structure everywhere, and makes it larger or smaller. A slope
is added in proportion to the distance from the structure's center, and moves it: upwards, say, if
somebody draws the putamen higher than the network does. The center is that of the voxels which the
network thinks are more likely the structure than not, so nothing needs to be aligned with anything.

Offsets are added within a network's graph, where they cost nothing. Slopes wait for the whole
answer, as only that tells where the centers are.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64

from fewlabel.grid import Grid
from fewlabel.shares import Piece, Probabilities, box_in, cut_of, index, slabs

LARGEST_SHIFT = 3.0
"""No slope changes a logit by more, however far off the center."""
_LIKELY = 128.0
"""Of 255: more likely than all else together."""

Offsets = Float32[np.ndarray, "classes"]
"""What is added to the logit of each class, background first."""
Slopes = Float32[np.ndarray, "classes 3"]
"""The same for each cm to the right, to the front and up from the center of the class."""


@dataclass(frozen=True, eq=False)
class Style:
    """Offsets and slopes.

    Attributes:
        offsets: In logits.
        slopes: In logits per cm.
    """

    offsets: Offsets
    slopes: Slopes

    @classmethod
    def plain(cls, n_classes: int) -> "Style":
        """That of the network itself."""
        return cls(np.zeros(n_classes, np.float32), np.zeros((n_classes, 3), np.float32))


def center_of(shares: Probabilities, number: int) -> Float64[np.ndarray, "3"] | None:
    """The mean voxel of those where a class is more likely than all others together.

    Args:
        shares: Probabilities from 0 to 255, background first.
        number: The class.

    Returns:
        In voxels; None if there are none.
    """
    box = box_in(shares, number, _LIKELY)
    if box is None:
        return None
    low = index(box[0])
    there = cut_of(shares, number, low, index(box[1] - box[0]))
    likely = there >= _LIKELY
    weights = [likely.sum(axis=others) for others in ((1, 2), (0, 2), (0, 1))]
    return np.array([np.average(np.arange(len(w)), weights=w) for w in weights]) + low


def lean(shares: Probabilities, slopes: Slopes, field: Grid) -> None:
    """Apply slopes to probabilities; what those of a voxel add up to stays as it is.

    Args:
        shares: From 0 to 255, background first. Changed in place.
        slopes: In logits per cm; a class that is nowhere likely keeps its probabilities.
        field: Where the probabilities lie.
    """
    per_voxel = slopes @ field.affine[:3, :3] / 10
    rises: dict[int, _Rise] = {}
    for number in np.flatnonzero(slopes.any(axis=1)):
        center = center_of(shares, int(number))
        if center is not None:
            rises[int(number)] = _Rise(center, per_voxel[number])
    for pieces in slabs(shares):
        _lean_some(pieces, rises)


@dataclass(frozen=True)
class _Rise:
    """How the odds of a class change: logits per voxel, and where they stay as they are."""

    center: Float64[np.ndarray, "3"]
    slope: Float64[np.ndarray, "3"]

    def odds(self, piece: Piece) -> Float32[np.ndarray, "i j k"]:
        """What the odds are multiplied by at the voxels of a piece."""
        along = [
            np.exp(slope * (np.arange(start, start + n) - center))
            for slope, center, start, n in zip(
                self.slope, self.center, piece.start, piece.values.shape, strict=True
            )
        ]
        product = along[0][:, None, None] * along[1][:, None] * along[2]
        limit = np.exp(LARGEST_SHIFT)
        odds: np.ndarray = np.clip(product, 1 / limit, limit).astype(np.float32)
        return odds


def _lean_some(pieces: list[Piece], rises: dict[int, _Rise]) -> None:
    """The same for some planes, of which all classes are given."""
    ours = [piece for piece in pieces if piece.number in rises]
    if not ours:
        return
    low = np.min([piece.start for piece in ours], axis=0)
    high = np.max([piece.end for piece in ours], axis=0)
    leaning = {piece.number: piece.values * rises[piece.number].odds(piece) for piece in ours}
    before = np.zeros(high - low, dtype=np.float32)
    for piece in pieces:
        own, common = piece.within(low, high)
        before[common] += piece.values[own]
    after = before.copy()
    for piece in ours:
        after[piece.within(low, high)[1]] += leaning[piece.number] - piece.values
    scale = np.divide(before, np.maximum(after, 1, out=after), out=after)
    for piece in pieces:
        own, common = piece.within(low, high)
        part = piece.values[own]
        share = np.rint(leaning.get(piece.number, part) * scale[common])
        part[...] = np.minimum(share, 255)  # rounded ones may add up to a little more
