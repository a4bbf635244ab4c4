"""Adapting a model to how somebody draws: an offset and a slope for the logit of each structure.

Two protocols that both know an amygdala may draw one twice as large as the other, or end it
elsewhere; and a network that learned from synthetic images is now and then more willing to call
something amygdala in real ones. A few labeled scans are enough to see that, and to make good for
it: no weight of the network moves, nothing but the readiness to say one thing rather than another.
It takes a minute or two on a CPU, and how well it does is measured on people whose scans chose
nothing.

Source: shifting logits for classes that are more or less common than in training goes back to
Saerens 2002 (doi 10.1162/089976602753284446). Departs from it: they are chosen for the mean Dice,
and may depend on the place.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int16

from fewlabel.cohort import Case
from fewlabel.conformed import labels_on
from fewlabel.engine import Compute
from fewlabel.errors import CohortError
from fewlabel.evidence import Evidence, evidence_of
from fewlabel.examples import drawn_in_vain
from fewlabel.grid import Grid
from fewlabel.labels import LabelProtocol
from fewlabel.modalities import images_of, labeled, read_images, truth_of
from fewlabel.model import ModelFolder, copy_model
from fewlabel.segmenter import Segmenter
from fewlabel.sides import other_side
from fewlabel.splits import in_turn, relatives_as_one
from fewlabel.style import Style
from fewlabel.style_fit import Pair, fit
from fewlabel.volume import LabelMap

_LEAST = 0.005
"""What is smaller is written as nothing."""
_MOST_FOLDS = 5

Watch = Callable[[str], None]


@dataclass(frozen=True)
class Adapted:
    """Offsets and slopes, and what they are worth.

    Attributes:
        offsets: By structure; those of the model before are counted in.
        slopes: The same, in logits per cm to the right, to the front and up.
        before: Mean Dice of each person's scans as the model was.
        after: The same with what was chosen without that person; empty if there is one person
            only.
        chosen_on: The same with what was chosen, on the scans that chose it.
    """

    offsets: Mapping[str, float]
    slopes: Mapping[str, tuple[float, float, float]]
    before: Mapping[str, float]
    after: Mapping[str, float]
    chosen_on: Mapping[str, float]

    @property
    def gain(self) -> float | None:
        """How much better people are segmented who had no say; None if there is one only."""
        if not self.after:
            return None
        return statistics.fmean(self.after.values()) - statistics.fmean(self.before.values())


def adapt(
    model: ModelFolder,
    cases: Sequence[Case],
    compute: Compute | None = None,
    watch: Watch = lambda _: None,
) -> Adapted:
    """Choose offsets and slopes on labeled scans.

    Left and right are mirror images; a structure that nobody has drawn keeps its own. People are
    left out in turn, five at the most, to tell what is worth that others have chosen; relatives
    count as one person.

    Args:
        model: What to adapt.
        cases: With labels, in any protocol that shares structures with the model's.
        compute: What to run it on.
        watch: Told what is done.

    Raises:
        CohortError: If no case has labels, or naming those that cannot be used.
        ConfigError: If a case lacks a modality of the model.
    """
    own, segmenter = model.card.protocol, Segmenter(model, compute or Compute())
    found = []
    known = relatives_as_one(labeled(cases, model.card))
    for sentence in drawn_in_vain((case.drawn_in() for case in known), {own.name: own}):
        watch(sentence)
    for case in known:
        watch(f"{case.id}: looking at it")
        found.append(evidence_in(segmenter, case))
    pairs = pairs_of(own, found)
    people = list(dict.fromkeys(one.person for one in found))
    watch(f"{len(found)} scans of {len(people)} people: choosing offsets and slopes")
    style = fit(found, pairs)
    after = _left_out(found, people, pairs, watch) if len(people) > 1 else {}
    offsets = model.card.style.offsets + style.offsets
    slopes = model.card.style.slopes + style.slopes
    return Adapted(
        {name: round(float(value), 2) for name, value in zip(own.names, offsets[1:], strict=True)
         if abs(value) >= _LEAST},
        {name: _rounded(rise) for name, rise in zip(own.names, slopes[1:], strict=True)
         if np.abs(rise).max() >= _LEAST},
        _by_person(found, Style.plain(own.n_classes)),
        after,
        _by_person(found, style),
    )  # fmt: skip


def _rounded(slope: Float32[np.ndarray, "3"]) -> tuple[float, float, float]:
    right, front, up = (round(float(value), 2) for value in slope)
    return right, front, up


def _left_out(
    found: Sequence[Evidence], people: Sequence[str], pairs: Sequence[Pair], watch: Watch
) -> dict[str, float]:
    """Mean Dice of each person under what was chosen without them."""
    after: dict[str, float] = {}
    for left_out in in_turn(people, _MOST_FOLDS):
        watch(f"choosing without {', '.join(left_out)}")
        others = fit([one for one in found if one.person not in left_out], pairs)
        after |= _by_person([one for one in found if one.person in left_out], others)
    return after


def write_adapted(model: ModelFolder, found: Adapted, out: Path) -> ModelFolder:
    """Write the model with its offsets and slopes to a folder of its own.

    What `quality.json` says of results, and what was measured, holds for the model as it was, so
    both are left behind.

    Raises:
        OutputError: If something else is at `out`, or it cannot be written to.
    """
    origin = f"{model.card.name} {model.card.version}, scans of {len(found.before)} people"
    changes = {
        "name": out.resolve().name.lower(),
        "offsets": dict(found.offsets),
        "slopes": dict(found.slopes),
        "measured": (),
        "provenance": model.card.provenance | {"offsets and slopes chosen on": origin},
    }
    return copy_model(model, out, model.card.model_copy(update=changes))


def _by_person(found: Sequence[Evidence], style: Style) -> dict[str, float]:
    scores: dict[str, list[float]] = {}
    for one in found:
        scores.setdefault(one.person, []).append(one.dice(style))
    return {person: statistics.fmean(values) for person, values in scores.items()}


def pairs_of(protocol: LabelProtocol, found: Sequence[Evidence]) -> list[Pair]:
    """Classes that are mirror images: left and right of what is drawn in any of the scans."""
    drawn = np.any([one.meaning > 0 for one in found], axis=0)
    number = {name: n for n, name in enumerate(protocol.names, start=1)}
    both = ({n, number.get(other_side(name) or name, n)} for name, n in number.items() if drawn[n])
    return list(dict.fromkeys(tuple(sorted(pair)) for pair in both))


def evidence_in(segmenter: Segmenter, case: Case) -> Evidence:
    """What a model says of a labeled scan, and what is true.

    Raises:
        CohortError: If no structure is drawn where the model looks.
        FewlabelError: If a file cannot be used, or the case lacks a modality.
    """
    model, images = segmenter.model, images_of(case, segmenter.model.card)
    assert images is not None
    labels = truth_of(case, model.card.protocol)
    scans = read_images(images, model.card)
    seen, placed = segmenter.look(scans)
    native = next(iter(scans.values())).grid
    moved = placed.affine @ np.linalg.inv(native.affine) @ labels.grid.affine
    there = LabelMap(labels.data, Grid(labels.grid.shape, moved), labels.protocol)
    truth = labels_on(there, seen.field)
    if not (truth.data > 0).any():
        raise CohortError(
            f"The labels of {case.id} hold no structure where {model.card.name} looks.",
            fix="leave the case out, or check that labels and scan lie in the same place.",
        )
    meaning = _meaning(model.card.protocol, labels.protocol)
    return evidence_of(case.person, seen.shares, seen.field, truth, meaning)


def _meaning(own: LabelProtocol, shared: LabelProtocol) -> Int16[np.ndarray, "classes"]:
    """What each class of a network is called in the protocol that both sides share."""
    classes = np.arange(own.n_classes, dtype=np.int16).reshape(-1, 1, 1)
    grid = Grid((own.n_classes, 1, 1), np.eye(4))
    meaning: np.ndarray = LabelMap(classes, grid, own).to(shared).data.ravel()
    return meaning
