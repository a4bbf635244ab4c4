"""The rules that a result is judged by. Each says what it found and what would have passed."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fewlabel.conform import turned
from fewlabel.norms import Norms, StructureNorm, contrast_fit, place_fit
from fewlabel.sides import is_left, other_side
from fewlabel.traits import FACES, Traits
from fewlabel.volume import LabelMap

_CUT_MM2 = 1000.0
_TURNED_DEGREES = 30.0
_NEARLY_EMPTY = 0.1
_SIZE_NAMES = ("wide", "long", "high")


@dataclass(frozen=True)
class Finding:
    """A rule that a result broke.

    Attributes:
        rule: Its name, as in docs/quality.md.
        value: What was found.
        limit: What would still have passed.
        says: The same as a sentence.
        structures: Those that it is about, worst first.
    """

    rule: str
    value: float
    limit: float
    says: str
    structures: tuple[str, ...] = ()


def cut(labels: LabelMap) -> Iterator[Finding]:
    """The scan ends inside the brain."""
    grid, classes = turned(labels)
    areas = {}
    for axis in range(3):
        mm2 = grid.voxel_mm3 / grid.spacing_mm[axis]
        for end, face in zip((0, -1), FACES[2 * axis : 2 * axis + 2], strict=True):
            areas[face] = float(np.count_nonzero(classes.take(end, axis) > 0) * mm2)
    cut = [face for face, area in areas.items() if area > _CUT_MM2]
    if cut:
        says = f"The scan ends inside the brain ({', '.join(cut)})."
        yield Finding("field of view", max(areas.values()), _CUT_MM2, says)


def sides(traits: Traits) -> Iterator[Finding]:
    """Left structures on the right of their partners."""
    number = {name: n for n, name in enumerate(traits.names)}
    wrong, pairs = [], 0
    for name, n in number.items():
        partner = number.get(other_side(name) or "")
        if partner is None or not is_left(name):
            continue
        gap = float(traits.center_mm[partner][0] - traits.center_mm[n][0])
        pairs += math.isfinite(gap)
        if gap < 0:
            wrong.append((gap, name))
    if len(wrong) > pairs / 4:
        says = (
            f"{len(wrong)} of {pairs} paired structures lie on the wrong side"
            f" ({_few([name for _, name in sorted(wrong)])}): left and right may be exchanged."
        )
        yield Finding(
            "left and right", float(len(wrong)), pairs / 4, says, tuple(n for _, n in sorted(wrong))
        )


def structures(traits: Traits, norms: Norms) -> Iterator[Finding]:
    """Volumes, asymmetries and loose pieces that are not usual."""
    seen = [
        (name, float(traits.volume_mm3[n]), float(traits.pieces_mm3[n]), norms.structures[name])
        for n, name in enumerate(traits.names)
        if name in norms.structures
    ]
    empty = [(mm3, low, name) for name, mm3, low in _empties(seen)]
    if empty:
        mm3, low, _ = min(empty)
        names = [name for _, _, name in sorted(empty)]
        says = f"Empty or nearly empty: {_few(names)} (from {mm3:.0f} mm3; usual is {low:.0f} up)."
        yield Finding("empty", mm3, low, says, tuple(names))
    off = sorted(_off_volumes(seen), reverse=True)
    if off:
        _, name, mm3, limit = off[0]
        names = [name for _, name, _, _ in off]
        word = "more" if mm3 > limit else "less"
        says = (
            f"Unusual volume: {_few(names)} ({name} has {mm3 / 1000:.2f} cm3, {word} than the"
            f" usual {limit / 1000:.2f})."
        )
        yield Finding("volume", mm3, limit, says, tuple(names))
    loose = [(mm3 / norm.loose_mm3, name, mm3, norm) for name, _, mm3, norm in seen]
    broken = [one for one in sorted(loose, reverse=True, key=_first) if one[0] > 1]
    if broken:
        _, name, mm3, norm = broken[0]
        says = (
            f"In pieces: {_few([one[1] for one in broken])} ({mm3 / 1000:.1f} cm3 of {name} lie"
            f" apart from the rest; usual is {norm.loose_mm3 / 1000:.1f} at most)."
        )
        yield Finding("pieces", mm3, norm.loose_mm3, says, tuple(one[1] for one in broken))
    yield from _asymmetries(traits, norms)


def _empties(
    seen: Sequence[tuple[str, float, float, StructureNorm]],
) -> Iterator[tuple[str, float, float]]:
    for name, mm3, _, norm in seen:
        always = norm.volume_mm3[0] > 0
        if always and mm3 < _NEARLY_EMPTY * norm.volume_mm3[0]:
            yield name, mm3, norm.volume_mm3[0]


def _off_volumes(
    seen: Sequence[tuple[str, float, float, StructureNorm]],
) -> Iterator[tuple[float, str, float, float]]:
    """How far off as a factor, name, volume and the limit that was passed."""
    for name, mm3, _, norm in seen:
        low, high = norm.volume_mm3
        if mm3 > high:
            yield mm3 / high, name, mm3, high
        elif _NEARLY_EMPTY * low <= mm3 < low:
            yield low / mm3, name, mm3, low


def _asymmetries(traits: Traits, norms: Norms) -> Iterator[Finding]:
    off = []
    for name, index in traits.asymmetry().items():
        norm = norms.structures.get(name)
        if norm is None or norm.asymmetry is None:
            continue
        low, high = norm.asymmetry
        if not low <= index <= high:
            off.append((max(low - index, index - high), name, index, high if index > 0 else low))
    if off:
        _, name, index, limit = max(off)
        names = [one[1] for one in sorted(off, reverse=True)]
        side = "left" if index > 0 else "right"
        says = (
            f"Unusual asymmetry: {_few(names)} ({name} against its partner: {100 * index:+.0f} %,"
            f" larger on the {side}; usual is {100 * limit:+.0f} % at most)."
        )
        yield Finding("asymmetry", index, limit, says, tuple(names))


def whole(traits: Traits, norms: Norms) -> Iterator[Finding]:
    """The brain's size, ends, holes and arrangement."""
    for axis, (low, high) in enumerate(norms.size_mm):
        mm = float(traits.size_mm[axis])
        if not low <= mm <= high:
            says = (
                f"The brain is {mm:.0f} mm {_SIZE_NAMES[axis]}; usual is {low:.0f} to {high:.0f}:"
                " part of it is missing, or voxel sizes are wrong."
            )
            yield Finding("size", mm, low if mm < low else high, says)
    ends = [
        (area / most, face, area, most)
        for face, area, most in zip(FACES, traits.ends_mm2, norms.ends_mm2, strict=True)
    ]
    share, face, area, most = max(ends)
    if share > 1:
        says = (
            f"The brain ends abruptly ({face}: {area / 100:.0f} cm2 at once, usual is"
            f" {most / 100:.0f} at most): part of the scan is blank or was cut off."
        )
        yield Finding("abrupt end", float(area), most, says)
    if traits.enclosed_mm3 > norms.enclosed_mm3:
        says = (
            f"The brain has a hole of {traits.enclosed_mm3 / 1000:.1f} cm3 (usual is"
            f" {norms.enclosed_mm3 / 1000:.1f} at most): a lesion, or a part that was missed."
        )
        yield Finding("hole", traits.enclosed_mm3, norms.enclosed_mm3, says)
    yield from _places(traits, norms)


def _places(traits: Traits, norms: Norms) -> Iterator[Finding]:
    fit = place_fit(norms.structures, traits)
    if fit.mirrored:
        says = "The structures fit the mirror image of a brain: left and right may be exchanged."
        yield Finding("mirrored", 1.0, 0.0, says)
    elif fit.turned_degrees > _TURNED_DEGREES:
        says = (
            f"The head is turned by {fit.turned_degrees:.0f} degrees against its header (usual is"
            f" {_TURNED_DEGREES:.0f} at most)."
        )
        yield Finding("turned", fit.turned_degrees, _TURNED_DEGREES, says)
    if fit.stretch > norms.stretch:
        says = (
            f"The brain is stretched by {100 * (fit.stretch - 1):.0f} % along one axis (usual is"
            f" {100 * (norms.stretch - 1):.0f} % at most): the voxel sizes may be wrong."
        )
        yield Finding("stretch", fit.stretch, norms.stretch, says)
    if fit.scatter_mm > norms.scatter_mm:
        says = (
            f"The structures do not lie as in a brain: {fit.scatter_mm:.1f} mm off on average"
            f" (usual is {norms.scatter_mm:.1f} at most)."
        )
        yield Finding("arrangement", fit.scatter_mm, norms.scatter_mm, says)
        return
    off = sorted(
        ((mm / norms.structures[name].off_mm, mm, name) for name, mm in fit.off_mm.items()),
        reverse=True,
    )
    moved = [one for one in off if one[0] > 1]
    if moved:
        _, mm, name = moved[0]
        limit = norms.structures[name].off_mm
        says = (
            f"Out of place: {_few([one[2] for one in moved])} ({name} by {mm:.0f} mm; usual is"
            f" {limit:.0f} at most): a lesion, or a part that was mistaken."
        )
        yield Finding("place", mm, limit, says, tuple(one[2] for one in moved))


def image(traits: Traits, norms: Norms) -> Iterator[Finding]:
    """Intensities unlike those of the scans that the model was checked on."""
    if traits.air > norms.air:
        says = (
            f"What surrounds the head is not dark ({100 * traits.air:.0f} % of the brain's"
            f" brightness; usual is {100 * norms.air:.0f} % at most): inverted, or no head."
        )
        yield Finding("background", traits.air, norms.air, says)
    likeness = contrast_fit(norms.structures, traits)
    if likeness < norms.contrast:
        says = (
            f"The contrast is unlike that of the scans this model was checked on (correlation"
            f" {likeness:.2f}; usual is {norms.contrast:.2f} or more), as in a T2w scan given as"
            " T1w: the expected Dice does not hold."
        )
        yield Finding("contrast", likeness, norms.contrast, says)
    if traits.noise > norms.noise:
        says = (
            f"The image is noisy or moved: unevenness {traits.noise:.2f} of the contrast (usual is"
            f" {norms.noise:.2f} at most)."
        )
        yield Finding("noise", traits.noise, norms.noise, says)


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _first(one: tuple[float, str, float, StructureNorm]) -> float:
    return one[0]
