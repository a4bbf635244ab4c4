"""Cases that are ready to be learned from: what the labels of each say about a network."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np

from fewlabel.cohort import Case, refuse
from fewlabel.conformed import Conformed
from fewlabel.contract import Contract, contract
from fewlabel.datasets.found import and_more
from fewlabel.errors import CohortError, ProtocolError
from fewlabel.labels import LabelProtocol, load_protocol, meet_by_name

Heads = Mapping[str, LabelProtocol]
"""Protocol of each head of a network, by its name."""


@dataclass(frozen=True, eq=False)
class Example:
    """A case that is ready to be learned from.

    Attributes:
        scan: Its arrays.
        contracts: For each head that its labels say something about: what they say, and what
            they say once the image is mirrored.
    """

    scan: Conformed
    contracts: Mapping[str, tuple[Contract, Contract]]


def load_heads(names: Iterable[str]) -> dict[str, LabelProtocol]:
    """Protocol of each head by its name.

    Args:
        names: Shipped protocols, or TSV files.

    Raises:
        ProtocolError: If there is no such protocol.
    """
    protocols = map(load_protocol, names)
    return {protocol.name: protocol for protocol in protocols}


def make_examples(
    scans: Sequence[Conformed],
    heads: Heads,
    *,
    flips: bool = True,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Example]:
    """Find out what the labels of each case say about each head.

    Args:
        scans: The cases.
        heads: Of the network.
        flips: Whether images may be mirrored, for which every structure needs its partner.
        tell: Takes which structures are drawn in vain.

    Raises:
        CohortError: Naming the cases whose labels say nothing about any head.
        ProtocolError: If a head has a structure on one side only, and there are flips.
    """
    examples, problems = [], []
    for scan in scans:
        contracts: dict[str, tuple[Contract, Contract]] = {}
        for name, head in heads.items():
            found = None if scan.protocol is None else contract_of(scan.case, head)
            if found:
                contracts[name] = (found, found.mirrored(head) if flips else found)
        if scan.protocol and not contracts:
            problems.append(
                f"{scan.case.id}: protocol {scan.protocol.name!r} has nothing in common with"
                f" {', '.join(repr(head.name) for head in heads.values())}."
            )
        examples.append(Example(scan, contracts))
    refuse("The cohort", problems, fix="name the protocol of their labels, or leave them out.")
    for sentence in drawn_in_vain([scan.protocol for scan in scans], heads):
        tell(sentence)
    return examples


def contract_of(case: Case, head: LabelProtocol) -> Contract | None:
    """What a case's labels say about a head; None if nothing."""
    try:
        return contract(head, case.drawn_in(), case.looked_for)
    except ProtocolError:
        return None


def drawn_in_vain(drawn: Iterable[LabelProtocol | None], heads: Heads) -> list[str]:
    """Structures in label maps that no head knows by their names, as sentences.

    Those that are called nearly like one of a head are most likely meant to be it.

    Args:
        drawn: Protocols of the label maps.
        heads: Of the network; those with a table from or to the protocol are left out.
    """
    said = []
    for protocol in dict.fromkeys(one for one in drawn if one is not None):
        if not all(meet_by_name(protocol, head) for head in heads.values()):
            continue
        known = [name for head in heads.values() for name in head.names]
        strange = [name for name in protocol.names if name not in known]
        if strange:
            near = {name: get_close_matches(name, known, n=1, cutoff=0.7) for name in strange}
            listed = [f"{name} ({also[0]}?)" for name, also in near.items() if also]
            listed += [name for name, also in near.items() if not also]
            said.append(
                f"The network has none of these structures of {protocol.name!r}, and learns"
                f" nothing from them: {and_more(listed)}."
            )
    return said


def require_labels(examples: Sequence[Example]) -> None:
    """Refuse training cases of which none has labels.

    Raises:
        CohortError: If there is nothing to learn from.
    """
    if not any(example.contracts for example in examples):
        raise CohortError(
            f"None of the {len(examples)} training cases has labels to learn from.",
            fix="name label maps in the column `labels` of the manifest, and what they say in the"
            " column `protocol`.",
        )


def require_every_class(examples: Sequence[Example], heads: Heads) -> None:
    """Refuse training cases in which a structure that shall be learned never occurs by itself.

    Raises:
        CohortError: Naming the structures.
    """
    problems = []
    for name, head in heads.items():
        seen = np.zeros(head.n_classes, dtype=bool)
        for example in examples:
            if name in example.contracts and example.scan.places:
                seen[_told_apart(example.contracts[name][0], example.scan.places.sizes)] = True
        empty = [
            label.name for label, there in zip(head.labels, seen[1:], strict=True) if not there
        ]
        if empty:
            problems.append(f"no training case has {', '.join(empty)} ({head.name}).")
    refuse(
        "The training set",
        problems,
        fix="add cases that have them, take them out of the protocol, or set"
        " `allow_empty_classes: true`.",
    )


def _told_apart(found: Contract, sizes: np.ndarray) -> np.ndarray:
    """Network classes that a case has voxels of, under a label that covers nothing else."""
    sets = found.labels[:-1][sizes > 0]
    covered = np.bincount(found.merge[found.merge >= 0], minlength=len(found.merge))
    alone: np.ndarray = sets[(sets >= 0) & (covered[np.maximum(sets, 0)] == 1)]
    return alone
