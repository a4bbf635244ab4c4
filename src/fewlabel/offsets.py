"""Offsets for the logits of a network, chosen for the Dice of labeled scans.

Coordinate ascent: one structure after the other, left and right together, in ever smaller steps.
Only voxels where a structure could win or lose are looked at when its offset moves.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int16, Int64, UInt8

from fewlabel.engine import Offsets

LARGEST = 2.0
"""No offset is larger: others are then off by at most twice that."""
_STEPS = (0.8, 0.4, 0.2)
_PRICE = 1e-3
"""Of an offset of 1, in mean Dice; it grows with the square. Few scans are easily overrated."""

Pair = tuple[int, ...]
"""Classes that share an offset."""
Counts = Float64[np.ndarray, "3 structures"]
"""Voxels of each structure: predicted, drawn, both."""
Said = Int64[np.ndarray, "v"]
"""Classes of the network."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a network says of one labeled scan, and what is true.

    Attributes:
        person: Whose scan it is.
        shares: Probabilities in steps of 1/255 where the network is in doubt.
        truth: What is drawn there, in the protocol that both sides share.
        meaning: The class in that protocol of each class of the network; -1 if it cannot say.
        counts: Voxels elsewhere, where the network is sure.
    """

    person: str
    shares: UInt8[np.ndarray, "classes voxels"]
    truth: Int16[np.ndarray, "voxels"]
    meaning: Int16[np.ndarray, "classes"]
    counts: Counts

    def dice(self, offsets: Offsets) -> float:
        """Mean over the structures that are drawn."""
        said = _likely(self.shares, offsets).argmax(axis=0)
        return mean_dice(self.counts + self.counted(said, slice(None)))

    def counted(self, said: Said, where: Said | slice) -> Counts:
        """Voxels in doubt, if the network said this of some of them."""
        return counted(self.meaning[said], self.truth[where], self.counts.shape[1])


def fit(found: Sequence[Evidence], pairs: Sequence[Pair]) -> Offsets:
    """The offsets that give the highest mean Dice, less a price of large ones.

    Args:
        found: Scans.
        pairs: Classes that share an offset.
    """
    offsets = np.zeros(len(found[0].shares), dtype=np.float32)
    scans = [_Scan(one, offsets) for one in found]
    best = statistics.fmean(mean_dice(scan.counts) for scan in scans)
    for step in _STEPS:
        for pair in pairs:
            contests = [_Contest(scan, pair, offsets) for scan in scans]
            for move in (step, -step):
                while abs(offsets[pair[0]] + move) <= LARGEST + 1e-6:
                    moved = offsets.copy()
                    moved[list(pair)] += move
                    price = _PRICE * sum(float(moved[one[0]]) ** 2 for one in pairs)
                    value = statistics.fmean(one.dice(moved) for one in contests) - price
                    if value <= best:
                        break
                    best, offsets = value, moved
            for contest in contests:
                contest.settle(offsets)
    return offsets


def mean_dice(counts: Counts) -> float:
    """Over the structures that are drawn."""
    predicted, drawn, alike = counts[:, 1:][:, counts[1, 1:] > 0]
    return float(np.mean(2 * alike / (predicted + drawn)))


def counted(said: Int16[np.ndarray, "v"], truth: Int16[np.ndarray, "v"], n: int) -> Counts:
    """Voxels of each structure, where both sides say something."""
    both = said >= 0
    said, truth = said[both], truth[both]
    alike = truth[said == truth]
    counts: np.ndarray = np.stack([np.bincount(part, minlength=n) for part in (said, truth, alike)])
    return counts.astype(np.float64)


def _likely(
    shares: UInt8[np.ndarray, "n v"], offsets: Float32[np.ndarray, "n"]
) -> Float32[np.ndarray, "n v"]:
    """What is proportional to probabilities after offsets."""
    weights = np.exp(offsets)[:, None]
    likely: np.ndarray = shares * weights
    likely += 0.5 * weights  # what was rounded to nothing may be a little
    return likely


class _Scan:
    """A scan under the offsets that have been accepted."""

    def __init__(self, evidence: Evidence, offsets: Offsets) -> None:
        self.evidence = evidence
        self.said = _likely(evidence.shares, offsets).argmax(axis=0)
        self.counts = evidence.counts + evidence.counted(self.said, slice(None))
        self.top = evidence.shares.max(axis=0)


class _Contest:
    """The voxels of a scan that two classes may win or lose, and who else may win them."""

    def __init__(self, scan: _Scan, pair: Pair, offsets: Offsets) -> None:
        shares = scan.evidence.shares
        self.scan, self.pair = scan, np.array(pair)
        reach = np.exp(2 * LARGEST) * (shares[self.pair].max(axis=0) + 0.5)
        self.where = np.flatnonzero(reach >= scan.top + 0.5)
        self.own = shares[self.pair][:, self.where]
        others = np.setdiff1d(np.arange(len(shares)), self.pair)
        rest = _likely(shares[others][:, self.where], offsets[others])
        first = rest.argmax(axis=0)
        self.rest, self.rival = np.take_along_axis(rest, first[None], 0)[0], others[first]
        self.elsewhere = scan.counts - scan.evidence.counted(scan.said[self.where], self.where)

    def dice(self, offsets: Offsets) -> float:
        """Mean Dice of the scan if the two classes had these offsets."""
        return mean_dice(self._counts(self._said(offsets)))

    def settle(self, offsets: Offsets) -> None:
        """Keep what these offsets say."""
        said = self._said(offsets)
        self.scan.counts = self._counts(said)
        self.scan.said[self.where] = said

    def _counts(self, said: Said) -> Counts:
        counts: np.ndarray = self.elsewhere + self.scan.evidence.counted(said, self.where)
        return counts

    def _said(self, offsets: Offsets) -> Said:
        likely = _likely(self.own, offsets[self.pair])
        first = likely.argmax(axis=0)
        value, number = np.take_along_axis(likely, first[None], 0)[0], self.pair[first]
        wins = (value > self.rest) | ((value == self.rest) & (number < self.rival))
        found: np.ndarray = np.where(wins, number, self.rival)
        return found
