"""What DeepAtlas learns from: scans in one place, some with labels, and turns on them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fewlabel.aligned import align_cases
from fewlabel.batches import Patches
from fewlabel.cache import Cache
from fewlabel.cohort import Case, refuse
from fewlabel.conformed import WorkingRule
from fewlabel.errors import CohortError
from fewlabel.examples import Example, make_examples
from fewlabel.labels import LabelProtocol
from fewlabel.losses_deep_atlas import (
    Carrier,
    Classes,
    Look,
    RegisterTurn,
    RegistrationLoss,
    SegmentTurn,
)
from fewlabel.pairs import Pairs, PairsAndPatches
from fewlabel.train.stage import Turn


@dataclass(frozen=True, eq=False)
class Study:
    """The scans of a run.

    Attributes:
        examples: On one grid; those without labels have no contracts.
        protocol: What the segmentation network learns.
        classes: What the labels tell apart of it.
        seed: Decides all that is random.
    """

    examples: Sequence[Example]
    protocol: LabelProtocol
    classes: Classes
    seed: int

    @classmethod
    def of(
        cls,
        cases: Sequence[Case],
        protocol: LabelProtocol,
        place: tuple[WorkingRule, int, Cache],
        seed: int,
        *,
        needs_labels: bool,
        flips: bool,
    ) -> "Study":
        """Align cases and read their labels.

        Args:
            cases: At least two.
            protocol: What their labels shall say.
            place: As `align_cases` takes them.
            seed: Decides all that is random.
            needs_labels: Whether at least one case must have labels.
            flips: Whether images may be mirrored.

        Raises:
            CohortError: Naming everything that is wrong with the cases.
        """
        if len(cases) < 2:
            raise CohortError(
                f"There are {len(cases)} training cases; registration needs two or more.",
                fix="add scans, with or without labels, to the split train.",
            )
        heads = {protocol.name: protocol}
        examples = make_examples(align_cases(cases, *place), heads, flips=flips)
        merge = told_apart(examples, protocol, needed=needs_labels)
        return cls(examples, protocol, Classes(protocol.name, merge), seed)

    def register_turn(
        self, loss: RegistrationLoss, labeled_share: float, teacher: str | None, times: int
    ) -> Turn:
        """Steps of the network "register"; `teacher` stands in for labels that lack."""
        pairs = Pairs(self.examples, self.protocol, labeled_share, self.seed)
        return Turn(("register",), pairs, RegisterTurn(loss, self.classes, teacher), times)

    def segment_turn(self, look: Look, carrier: Carrier | None, times: int) -> Turn:
        """Steps of the network "segment", so many in a turn."""
        labeled = [one for one in self.examples if one.contracts] or self.examples
        heads = {self.protocol.name: self.protocol}
        draw = Patches(labeled, heads, look.patches, look.augment, self.seed)
        loss = SegmentTurn(self.classes, look, carrier)
        if carrier is None:
            return Turn(("segment",), draw, loss, times)
        pairs = Pairs(self.examples, self.protocol, 1.0, self.seed, unlabeled=True)
        both = PairsAndPatches(pairs, draw, look.patches.size, self.seed)
        return Turn(("segment",), both, loss, times)


def with_labels_of(cases: Sequence[Case], labeled: Sequence[str] | None) -> tuple[Case, ...]:
    """The same cases, with the labels of some hidden.

    Args:
        cases: To register with each other.
        labeled: Those that keep their labels; None: all.

    Raises:
        CohortError: If one of `labeled` is not among them or has no labels.
    """
    unknown = set(labeled or ()) - {case.id for case in cases if case.labels}
    if unknown:
        raise CohortError(
            f"No training case with labels is called {', '.join(sorted(unknown))}.",
            fix="name cases of the split train that have labels in `labeled`.",
        )
    if labeled is None:
        return tuple(cases)
    return tuple(case if case.id in labeled else replace(case, labels=None) for case in cases)


def told_apart(
    examples: Sequence[Example], protocol: LabelProtocol, *, needed: bool
) -> tuple[int, ...]:
    """The class that stands for each class of the protocol in the labels of all cases.

    That is the class itself, or the first of those that the labels do not tell it from.

    Args:
        examples: Some with labels, some without.
        protocol: The classes.
        needed: Whether there must be one with labels.

    Raises:
        CohortError: Naming the cases whose labels say something else than those of the first:
            they cannot be carried to each other's scans.
    """
    merges = [
        (example.scan.case, tuple(int(n) for n in example.contracts[protocol.name][0].merge))
        for example in examples
        if example.contracts
    ]
    whole = tuple(range(protocol.n_classes))
    first = merges[0][1] if merges else whole
    problems = [
        f"{case.id}: its labels ({case.protocol}) tell other structures of {protocol.name} apart"
        " than those of the first labeled case."
        for case, merge in merges
        if merge != first
    ]
    if min(first) < 0:
        problems.append(f"its labels leave structures of {protocol.name} open.")
    if needed and not merges:
        problems.append("no training case has labels.")
    refuse(
        "The cohort",
        problems,
        fix="set `protocol` to what all cases are labeled in; without labels there is"
        " `ablation: unsupervised`.",
    )
    return first
