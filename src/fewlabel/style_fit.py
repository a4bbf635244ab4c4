"""Offsets and slopes for the logits of a network, chosen for the Dice of labeled scans.

The mean Dice of probabilities, made sharper so that it is close to that of the labels, is climbed
along its gradient. A price on large values keeps what few scans say from being overrated.
"""

import statistics
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Float64

from fewlabel.evidence import Evidence, mean_dice
from fewlabel.style import Style

LARGEST = 3.0
"""No offset, in logits, and no slope, in logits per cm, is larger."""
PRICE = 1e-4
"""Of an offset or a slope of 1, in mean Dice; it grows with the square."""
_SHARPER = 3.0
"""Logits are multiplied by it."""
_STEPS = 30
_MOST_VOXELS = 2_000_000
"""Of all scans together; of more, every second, third, ... is looked at."""
_SMALL_CM3 = 100.0
"""Structures that are larger, as the white matter is, lie all around: they have no slopes."""

Pair = tuple[int, ...]
"""Classes that share an offset, and slopes that are each other's mirror image."""


def fit(found: Sequence[Evidence], pairs: Sequence[Pair]) -> Style:
    """The offsets and slopes that give the highest mean Dice, less a price of large ones.

    Args:
        found: Scans.
        pairs: Classes to choose them for. What has no sides gets no slope to the right.
    """
    from scipy.optimize import minimize

    cm3 = np.mean([one.cm3 for one in found], axis=0)
    small = [pair for pair in pairs if cm3[list(pair)].max() <= _SMALL_CM3]
    shape = _Shape(len(found[0].meaning), pairs, small)
    step = max(1, -(-sum(len(one.truth) for one in found) // _MOST_VOXELS))
    scans = [_Soft(one.every(step), step) for one in found]

    def cost(values: Float64[np.ndarray, "v"]) -> tuple[float, Float64[np.ndarray, "v"]]:
        style = shape.style(values)
        gains = [scan.gain(style) for scan in scans]
        dice = statistics.fmean(gain[0] for gain in gains)
        rise = sum(shape.gathered(*gain[1:]) for gain in gains) / len(gains)
        return PRICE * float(values @ values) - dice, 2 * PRICE * values - rise

    start = np.zeros(shape.size)
    limits = [(-LARGEST, LARGEST)] * shape.size
    ended = minimize(
        cost, start, jac=True, method="L-BFGS-B", bounds=limits, options={"maxiter": _STEPS}
    )
    return shape.style(ended.x)


class _Shape:
    """Which numbers offsets and slopes are made of.

    Args:
        n_classes: Of the network.
        pairs: Classes that get an offset.
        leaning: Those that get slopes, too.
    """

    def __init__(self, n_classes: int, pairs: Sequence[Pair], leaning: Sequence[Pair]) -> None:
        self.n_classes, self.pairs = n_classes, pairs
        self.axes = [(pair, axis) for pair in leaning for axis in range(3)
                     if axis or len(pair) > 1]  # fmt: skip
        self.size = len(pairs) + len(self.axes)

    def style(self, values: Float64[np.ndarray, "v"]) -> Style:
        style = Style.plain(self.n_classes)
        for pair, value in zip(self.pairs, values, strict=False):
            style.offsets[list(pair)] = value
        for (pair, axis), value in zip(self.axes, values[len(self.pairs) :], strict=True):
            style.slopes[list(pair), axis] = [value * sign for sign in _signs(pair, axis)]
        return style

    def gathered(
        self, offsets: Float64[np.ndarray, "classes"], slopes: Float64[np.ndarray, "classes 3"]
    ) -> Float64[np.ndarray, "v"]:
        """Of gradients of each class: those of the numbers."""
        of_offsets = [offsets[list(pair)].sum() for pair in self.pairs]
        of_slopes = [slopes[list(pair), axis] @ _signs(pair, axis) for pair, axis in self.axes]
        return np.array(of_offsets + of_slopes)


def _signs(pair: Pair, axis: int) -> list[int]:
    """What is to the right on the left side is to the left on the right side."""
    return [1 if n == 0 or axis else -1 for n in range(len(pair))]


class _Soft:
    """A scan, ready to be asked often.

    Args:
        evidence: Of it.
        step: Each voxel in doubt stands for so many.
    """

    def __init__(self, evidence: Evidence, step: int) -> None:
        self.evidence, self.n = evidence, evidence.counts.shape[1]
        self.step = step
        self.starts, self.lengths = evidence.runs
        self.far = evidence.from_center_cm
        meaning = evidence.meaning[evidence.number].astype(np.int64)
        self.known = meaning >= 0
        self.meaning = np.where(self.known, meaning, self.n)
        self.truth = evidence.truth[evidence.voxel].astype(np.int64)
        self.right = meaning == self.truth

    def gain(
        self, style: Style
    ) -> tuple[float, Float64[np.ndarray, "classes"], Float64[np.ndarray, "classes 3"]]:
        """Mean Dice of the probabilities, and its gradients by offsets and slopes."""
        evidence, n_classes = self.evidence, len(style.offsets)
        if not len(evidence.voxel):
            nothing = np.zeros(n_classes), np.zeros((n_classes, 3))
            return mean_dice(evidence.counts), *nothing
        logits, free = evidence.logits(style, self.far)
        likely = self._softmax(_SHARPER * logits)
        dice, rise = self._dice(likely)
        mean = np.add.reduceat(likely * rise, self.starts)
        rise = _SHARPER * likely * (rise - np.repeat(mean, self.lengths))
        by_offset = np.bincount(evidence.number, rise, n_classes)
        rise *= free
        by_slope = [np.bincount(evidence.number, rise * far, n_classes) for far in self.far]
        return dice, by_offset, np.stack(by_slope, axis=1)

    def _dice(
        self, likely: Float32[np.ndarray, "entries"]
    ) -> tuple[float, Float64[np.ndarray, "entries"]]:
        """Mean Dice of probabilities, and its gradient by each of them."""
        n = self.n
        predicted = np.bincount(self.meaning, likely, n + 1)[:n]
        drawn = np.bincount(self.truth, likely * self.known, n)
        alike = np.bincount(self.truth, likely * self.right, n)
        predicted, drawn, alike = self.evidence.counts + self.step * np.stack(
            [predicted, drawn, alike]
        )
        scored = drawn > 0
        scored[0] = False
        both = np.where(scored, predicted + drawn, np.inf)
        by_alike = 2 / both / scored.sum()
        by_size = np.append(2 * alike / both**2 / scored.sum(), 0)  # of what is unknown: 0
        rise = by_alike[self.truth] * self.right - by_size[self.meaning]
        rise -= by_size[self.truth] * self.known
        return float(np.sum(2 * alike / both) / scored.sum()), self.step * rise

    def _softmax(self, logits: Float32[np.ndarray, "entries"]) -> Float32[np.ndarray, "entries"]:
        logits -= np.repeat(np.maximum.reduceat(logits, self.starts), self.lengths)
        likely: np.ndarray = np.exp(logits, out=logits)
        likely /= np.repeat(np.add.reduceat(likely, self.starts), self.lengths)
        return likely
