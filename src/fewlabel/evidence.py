"""What a network says of a labeled scan, and what is true: by this a style is chosen."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int16, Int32, Int64, UInt8

from fewlabel.grid import Grid
from fewlabel.labels import UNLABELED
from fewlabel.shares import Probabilities
from fewlabel.style import LARGEST_SHIFT, Style, center_of
from fewlabel.volume import LabelMap

_SETTLED = 250
"""Of 255: a class that has such a share is taken to stay the most likely one."""

Counts = Float64[np.ndarray, "3 structures"]
"""Voxels of each structure: predicted, drawn, both."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a network says of one labeled scan, and what is true.

    Only voxels where it is in doubt are kept, and of those only the classes that it thinks of:
    entries, voxel after voxel.

    Attributes:
        person: Whose scan it is.
        voxel: Of each entry.
        number: Class of each entry.
        share: Its probability, from 1 to 255.
        place_cm: Where each voxel is, right, front and up of the field's first one.
        center_cm: Where the center of each class is; of one that is nowhere likely, NaN.
        truth: What is drawn at each voxel, in the protocol that both sides share.
        meaning: The class in that protocol of each class of the network; -1 if it cannot say.
        counts: Voxels elsewhere, where the network is sure.
        cm3: Of what the network takes for each class.
    """

    person: str
    voxel: Int32[np.ndarray, "entries"]
    number: Int16[np.ndarray, "entries"]
    share: UInt8[np.ndarray, "entries"]
    place_cm: Float32[np.ndarray, "3 voxels"]
    center_cm: Float32[np.ndarray, "3 classes"]
    truth: Int16[np.ndarray, "voxels"]
    meaning: Int16[np.ndarray, "classes"]
    counts: Counts
    cm3: Float64[np.ndarray, "classes"]

    def dice(self, style: Style) -> float:
        """Mean over the structures that are drawn."""
        return mean_dice(self.counts + self._counted(style))

    def _counted(self, style: Style) -> Counts:
        n = self.counts.shape[1]
        if not len(self.voxel):
            return np.zeros((3, n))
        (logits, _), (starts, lengths) = self.logits(style, self.from_center_cm), self.runs
        best = np.repeat(np.maximum.reduceat(logits, starts), lengths)
        entry = np.arange(len(logits), dtype=np.int32)
        first = np.minimum.reduceat(np.where(logits == best, entry, len(entry)), starts)
        said = self.meaning[self.number[first]]
        return counted(said, self.truth[self.voxel[starts]], n)

    def every(self, step: int) -> "Evidence":
        """The same of every second, third, ... voxel in doubt."""
        kept = self.voxel % step == 0
        return replace(
            self,
            voxel=self.voxel[kept],
            number=self.number[kept],
            share=self.share[kept],
        )

    @property
    def from_center_cm(self) -> Float32[np.ndarray, "3 entries"]:
        """How far right, front and up of its class's center each entry's voxel is; or 0."""
        far = self.place_cm[:, self.voxel] - self.center_cm[:, self.number]
        found: np.ndarray = np.nan_to_num(far, copy=False)
        return found

    def logits(
        self, style: Style, from_center_cm: Float32[np.ndarray, "3 entries"]
    ) -> tuple[Float32[np.ndarray, "entries"], Bool[np.ndarray, "entries"]]:
        """Of each entry under a style, and whether its slope is within the limit."""
        rise = np.zeros(len(self.number), dtype=np.float32)
        if style.slopes.any():
            for slope, far in zip(style.slopes.T, from_center_cm, strict=True):
                rise += slope[self.number] * far
        free = np.abs(rise) < LARGEST_SHIFT
        np.clip(rise, -LARGEST_SHIFT, LARGEST_SHIFT, out=rise)
        rise += np.log(self.share, dtype=np.float32)
        rise += style.offsets[self.number]
        return rise, free

    @property
    def runs(self) -> tuple[Int64[np.ndarray, "v"], Int64[np.ndarray, "v"]]:
        """Where the entries of each voxel begin, and how many there are."""
        changes = np.flatnonzero(self.voxel[1:] != self.voxel[:-1]) + 1
        starts = np.concatenate([[0], changes]).astype(np.int64)
        return starts, np.diff(np.append(starts, len(self.voxel)))


def evidence_of(
    person: str,
    shares: Probabilities,
    field: Grid,
    truth: LabelMap,
    meaning: Int16[np.ndarray, "classes"],
) -> Evidence:
    """What is in doubt in a scan, and what is true there.

    Args:
        person: Whose scan it is.
        shares: Probabilities from 0 to 255, background first.
        field: Where they lie.
        truth: What is drawn there.
        meaning: The class in the truth's protocol of each class of the network; -1 if it cannot
            say.
    """
    drawn = truth.data.ravel()
    to_cm = (field.affine[:3, :3] / 10).astype(np.float32)
    best, top = np.zeros(drawn.shape, np.int16), np.zeros(drawn.shape, np.uint8)
    for n, share in enumerate(shares):
        best[share.ravel() > top] = n
        np.maximum(top, share.ravel(), out=top)
    looked = drawn != UNLABELED
    sure = looked & (top >= _SETTLED)
    doubt = np.flatnonzero(looked & ~sure)
    parts = [_entries(share, doubt) for share in shares]
    voxel, likely = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    number = np.repeat(np.arange(len(parts), dtype=np.int16), [len(part[0]) for part in parts])
    order = np.argsort(voxel, kind="stable")
    places = np.stack(np.unravel_index(doubt, truth.data.shape)).astype(np.float32)
    nowhere = np.full(3, np.nan)
    centers = [center_of(shares, n) for n in range(len(parts))]
    center = np.stack([nowhere if one is None else one for one in centers], axis=1)
    return Evidence(
        person=person,
        voxel=voxel[order],
        number=number[order],
        share=likely[order],
        place_cm=to_cm @ places,
        center_cm=to_cm @ center.astype(np.float32),
        truth=drawn[doubt],
        meaning=meaning,
        counts=counted(meaning[best[sure]], drawn[sure], truth.protocol.n_classes),
        cm3=np.bincount(best, minlength=len(parts)) * field.voxel_mm3 / 1000,
    )


def _entries(
    share: UInt8[np.ndarray, "i j k"], doubt: Int64[np.ndarray, "voxels"]
) -> tuple[Int32[np.ndarray, "entries"], UInt8[np.ndarray, "entries"]]:
    """Of one class: numbers of voxels in doubt that may be it, and its share there."""
    there = share.ravel()[doubt]
    voxel = np.flatnonzero(there)
    return voxel.astype(np.int32), there[voxel]


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
