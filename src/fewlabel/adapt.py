"""Adapting a model to how somebody draws: an offset for the logit of each structure.

Two protocols that both know an amygdala may draw one twice as large as the other, and a network
that learned from synthetic images is now and then more willing to call something amygdala in real
ones. A few labeled scans are enough to see that, and to make good for it: no weight of the network
moves, nothing but the readiness to say one thing rather than another. It takes seconds a scan on a
CPU, and how well it does is measured on people whose scans did not choose the offsets.

Source: shifting logits for classes that are more or less common than in training goes back to
Saerens 2002 (doi 10.1162/089976602753284446). Departs from it: offsets are chosen for the mean
Dice, by coordinate ascent.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int16

from fewlabel.cohort import Case, refuse
from fewlabel.conformed import labels_on
from fewlabel.engine import Compute, Offsets
from fewlabel.errors import CohortError
from fewlabel.grid import Grid
from fewlabel.io import read_labels
from fewlabel.labels import UNLABELED, LabelProtocol, other_side, shared_protocol
from fewlabel.modalities import Images, read_images
from fewlabel.model import REGISTRATION, ModelFolder, write_model
from fewlabel.offsets import Evidence, Pair, counted, fit
from fewlabel.segmenter import Segmenter
from fewlabel.volume import LabelMap

_SETTLED = 250
"""Of 255: a class that has such a share stays the most likely one, whatever the offsets."""
_MOST_FOLDS = 5

Watch = Callable[[str], None]


@dataclass(frozen=True)
class Adapted:
    """Offsets, and what they are worth.

    Attributes:
        offsets: By structure; those of the model before are counted in.
        before: Mean Dice of each person's scans as the model was.
        after: The same with offsets that were chosen without that person; empty if there is
            one person only.
        chosen_on: The same with the offsets, on the scans that chose them.
    """

    offsets: Mapping[str, float]
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
    """Choose offsets on labeled scans.

    Left and right share an offset; a structure that nobody has drawn keeps its own. People are
    left out in turn, five at the most, to tell what offsets are worth that others have chosen.

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
    for case in _usable(model, cases):
        watch(f"{case.id}: looking at it")
        found.append(look_at(segmenter, case))
    pairs = pairs_of(own, found)
    people = list(dict.fromkeys(one.person for one in found))
    watch(f"{len(found)} scans of {len(people)} people: choosing offsets")
    nothing = np.zeros(own.n_classes, dtype=np.float32)
    offsets = fit(found, pairs)
    after = _left_out(found, people, pairs, watch) if len(people) > 1 else {}
    total = offsets + (0 if model.card.class_offsets is None else model.card.class_offsets)
    named = {label.name: round(float(value), 2)
             for label, value in zip(own.labels, total[1:], strict=True) if value}  # fmt: skip
    return Adapted(named, _by_person(found, nothing), after, _by_person(found, offsets))


def _usable(model: ModelFolder, cases: Sequence[Case]) -> list[Case]:
    """The cases with labels, each with a scan that the model looks at."""
    labeled = [case for case in cases if case.labels is not None and case.protocol]
    if not labeled:
        raise CohortError(
            "None of the cases has labels, whose protocol is known, to adapt to.",
            fix="fill in the columns `labels` and `protocol` of the manifest.",
        )
    problems = [f"{case.id} has no scan that the model looks at." for case in labeled
                if _images(case, model) is None]  # fmt: skip
    refuse("The cohort", problems, fix="leave these cases out, or name their modality.")
    return labeled


def _left_out(
    found: Sequence[Evidence], people: Sequence[str], pairs: Sequence[Pair], watch: Watch
) -> dict[str, float]:
    """Mean Dice of each person under offsets that were chosen without them."""
    after: dict[str, float] = {}
    for left_out in _folds(people):
        watch(f"choosing them without {', '.join(left_out)}")
        others = fit([one for one in found if one.person not in left_out], pairs)
        after |= _by_person([one for one in found if one.person in left_out], others)
    return after


def write_adapted(model: ModelFolder, found: Adapted, out: Path) -> ModelFolder:
    """Write the model with its offsets to a folder of its own.

    What `quality.json` says of results, and what was measured, holds for the model as it was, so
    both are left behind.

    Raises:
        OutputError: If something else is at `out`, or it cannot be written to.
    """
    origin = f"{model.card.name} {model.card.version}, scans of {len(found.before)} people"
    changes = {
        "name": out.resolve().name.lower(),
        "offsets": dict(found.offsets),
        "measured": (),
        "provenance": model.card.provenance | {"offsets chosen on": origin},
    }
    bends = model.folder / REGISTRATION
    return write_model(
        out,
        model.card.model_copy(update=changes),
        onnx=model.onnx.read_bytes(),
        weights=None if model.weights is None else model.weights.read_bytes(),
        registration=bends.read_bytes() if model.card.registration else None,
    )


def _by_person(found: Sequence[Evidence], offsets: Offsets) -> dict[str, float]:
    scores: dict[str, list[float]] = {}
    for one in found:
        scores.setdefault(one.person, []).append(one.dice(offsets))
    return {person: statistics.fmean(values) for person, values in scores.items()}


def _folds(people: Sequence[str]) -> list[tuple[str, ...]]:
    n = min(len(people), _MOST_FOLDS)
    return [tuple(people[start::n]) for start in range(n)]


def pairs_of(protocol: LabelProtocol, found: Sequence[Evidence]) -> list[Pair]:
    """Classes that share an offset: left and right of what is drawn in any of the scans."""
    drawn = np.any([one.meaning > 0 for one in found], axis=0)
    number = {name: n for n, name in enumerate(protocol.names, start=1)}
    both = ({n, number.get(other_side(name) or name, n)} for name, n in number.items() if drawn[n])
    return list(dict.fromkeys(tuple(sorted(pair)) for pair in both))


def _images(case: Case, model: ModelFolder) -> Images | None:
    """The scans of a case that the model looks at; a model of one modality looks at any."""
    known = model.card.looks_at
    there = {name: case.scans[name] for name in known if name in case.scans}
    if not there and len(known) == 1:
        there = dict(list(case.scans.items())[:1])
    if not there:
        return None
    first, *others = there
    return Images(there[first], first, {name: there[name] for name in others})


def look_at(segmenter: Segmenter, case: Case) -> Evidence:
    """What a model says of a labeled scan, and what is true.

    Raises:
        CohortError: If no structure is drawn where the model looks.
        FewlabelError: If a file cannot be used, or the case lacks a modality.
    """
    model, images = segmenter.model, _images(case, segmenter.model)
    assert case.labels is not None
    assert images is not None
    drawn = case.drawn_in()
    wanted = drawn if case.looked_for is None else drawn.restrict(case.looked_for)
    shared = shared_protocol(model.card.protocol, wanted)
    scans = read_images(images, model.card)
    seen, placed = segmenter.look(scans)
    native = next(iter(scans.values())).grid
    labels = read_labels(case.labels, drawn).to(shared)
    moved = placed.affine @ np.linalg.inv(native.affine) @ labels.grid.affine
    there = LabelMap(labels.data, Grid(labels.grid.shape, moved), shared)
    truth = labels_on(there, seen.field).data.ravel()
    if not (truth > 0).any():
        raise CohortError(
            f"The labels of {case.id} hold no structure where {model.card.name} looks.",
            fix="leave the case out, or check that labels and scan lie in the same place.",
        )
    meaning = _meaning(model.card.protocol, shared)
    shares = np.stack([share.ravel() for share in seen.shares])
    sure, looked = shares.max(axis=0) >= _SETTLED, truth != UNLABELED
    said = meaning[shares[:, sure & looked].argmax(axis=0)]
    counts = counted(said, truth[sure & looked], shared.n_classes)
    doubt = looked & ~sure
    return Evidence(case.person, shares[:, doubt], truth[doubt], meaning, counts)


def _meaning(own: LabelProtocol, shared: LabelProtocol) -> Int16[np.ndarray, "classes"]:
    """What each class of a network is called in the protocol that both sides share."""
    classes = np.arange(own.n_classes, dtype=np.int16).reshape(-1, 1, 1)
    grid = Grid((own.n_classes, 1, 1), np.eye(4))
    meaning: np.ndarray = LabelMap(classes, grid, own).to(shared).data.ravel()
    return meaning
