"""Label protocols: what the numbers in a label map mean, and how protocols relate."""

import csv
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path

import numpy as np
from jaxtyping import Int16

from fewlabel.errors import ProtocolError
from fewlabel.sides import other_side, surely_sided

UNLABELED = -1
"""The annotator has not looked here; not the same as background (0)."""

_UNKNOWN = "unannotated"
"""In tables: what could be one of several structures, or is none that the table has."""
_SCORED = ("yes", "no", "stray", "", None)


@dataclass(frozen=True)
class Label:
    """One structure.

    Attributes:
        value: The number stored in files.
        name: As the protocol's authors write it.
        color: Red, green, blue, each 0 to 255.
        scored: Whether the protocol's authors count it when methods are compared.
    """

    value: int
    name: str
    color: tuple[int, int, int] = (128, 128, 128)
    scored: bool = True


@dataclass(frozen=True)
class LabelProtocol:
    """An ordered set of labels. Class 0 of a network is always background.

    Attributes:
        name: Such as "aseg32".
        labels: The structures, in class order.
        strays: Values that files of this protocol may hold by a slip of the pen or in a single
            person (a vitamin tablet), and that are no class: they are read as unannotated.
        family: The shipped protocol that this one is a part of; its tables apply.

    >>> tissue = LabelProtocol("tissue", (Label(10, "CSF"), Label(20, "GM")))
    >>> tissue.class_of("GM"), tissue.n_classes
    (2, 3)
    """

    name: str
    labels: tuple[Label, ...]
    strays: tuple[int, ...] = ()
    family: str = ""

    def __post_init__(self) -> None:
        if not self.family:
            object.__setattr__(self, "family", self.name)

    @property
    def n_classes(self) -> int:
        """Classes a network must tell apart, background included."""
        return len(self.labels) + 1

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Structure names in class order, without background."""
        return tuple(label.name for label in self.labels)

    @cached_property
    def values(self) -> Int16[np.ndarray, "classes"]:
        """The number that files hold for each class; background is 0."""
        return np.array([0, *(label.value for label in self.labels)], dtype=np.int16)

    @cached_property
    def class_by_value(self) -> dict[int, int]:
        """Class of every number that files may hold: background 0, strays -1.

        >>> LabelProtocol("one", (Label(17, "Left-Hippocampus"),), strays=(74,)).class_by_value
        {0: 0, 17: 1, 74: -1}
        """
        known = {int(value): number for number, value in enumerate(self.values)}
        return known | dict.fromkeys(self.strays, UNLABELED)

    def class_of(self, name: str) -> int:
        """Network class of a structure.

        Raises:
            ProtocolError: If the protocol has no structure of that name.
        """
        if name not in self.names:
            near = get_close_matches(name, self.names, n=1)
            hint = f"write {near[0]!r}" if near else f"use one of {', '.join(self.names)}"
            raise ProtocolError(
                f"Protocol {self.name!r} has no structure {name!r}.",
                fix=f"{hint}, or map the protocols first with `restrict`.",
            )
        return self.names.index(name) + 1

    def mirrored(self) -> Int16[np.ndarray, "entries"]:
        """Look-up table that exchanges left and right structures, for mirrored images.

        Apply it as `table[classes]`; the last entry keeps -1 at -1.

        Raises:
            ProtocolError: If a structure is on one side and its partner is missing.
        """
        table = np.arange(self.n_classes + 1, dtype=np.int16)
        table[UNLABELED] = UNLABELED
        for name in self.names:
            partner = other_side(name)
            if partner in self.names:
                table[self.class_of(name)] = self.class_of(partner)
            elif surely_sided(name):
                raise ProtocolError(
                    f"Protocol {self.name!r} has {name!r}, but no structure {partner!r} to change"
                    " places with it in mirrored images.",
                    fix="add that structure, or train with `augment.flip: 0`.",
                )
        return table

    def restrict(self, keep: Collection[str], *, name: str = "") -> "LabelProtocol":
        """The protocol with only the structures in `keep`; the rest become background.

        Args:
            keep: Names of structures of this protocol.
            name: Of the new protocol; by default this one's, as its tables still apply.
        """
        for wanted in keep:
            self.class_of(wanted)
        labels = tuple(label for label in self.labels if label.name in keep)
        return replace(self, name=name or self.name, labels=labels)

    def table_to(self, target: "LabelProtocol") -> Int16[np.ndarray, "entries"]:
        """Look-up table from this protocol's classes to those of `target`.

        Apply it as `table[classes]`. What `target` lacks becomes background; what could be one
        of several structures there becomes -1, which never counts. The last entry is -1, so
        voxels marked -1 stay so. Without a table in `protocols/tables/` equal names meet.

        Raises:
            ProtocolError: If the protocols have no structure in common.
        """
        goals, _ = _relation(self, target)
        classes = {_UNKNOWN: UNLABELED} | {n: i for i, n in enumerate(target.names, start=1)}
        table = [0, *(classes.get(goals.get(name, _UNKNOWN), 0) for name in self.names), UNLABELED]
        if max(table) < 1:
            raise ProtocolError(
                f"Protocols {self.name!r} and {target.name!r} have no structure in common.",
                fix="choose two of which one has a table to the other (docs/protocols.md), or"
                " name the structures alike in both.",
            )
        return np.array(table, dtype=np.int16)

    def covers(self, target: "LabelProtocol") -> tuple[str, ...]:
        """Structures of `target` that labels in this protocol can be scored on.

        A structure that this protocol does not draw, or draws in part only (the table then
        says `comparable` no), is nobody's miss: `shared_protocol` leaves it out.
        """
        goals, partial = _relation(self, target)
        missing = {goal for name, goal in goals.items() if name not in self.names}
        reached = {goals.get(name, "") for name in self.names} - partial - missing
        return tuple(name for name in target.names if name in reached)


def shared_protocol(first: LabelProtocol, second: LabelProtocol) -> LabelProtocol:
    """The protocol in which labels of both can be compared or trained together.

    It is the one of the two that the other has a table to, without the structures that the
    other cannot speak about; without a table, the names that both have. Both map to it by
    `table_to`, which also says which classes of a network to add up for a case that is
    labeled in the smaller protocol.

    Raises:
        ProtocolError: If they have nothing in common.
    """
    finer, coarser = first, second
    if _table_rows(first.family, second.family) is None:
        finer, coarser = second, first
    shared = coarser.restrict(finer.covers(coarser))
    finer.table_to(shared)  # refuses if there is nothing
    return shared


def meet_by_name(first: LabelProtocol, second: LabelProtocol) -> bool:
    """Whether nothing but equal names relates two protocols: there is no table."""
    families = first.family, second.family
    return _table_rows(*families) is None and _table_rows(*reversed(families)) is None


def load_protocol(name_or_path: str | Path) -> LabelProtocol:
    """A protocol that ships with fewlabel, or one from a TSV file.

    Args:
        name_or_path: Such as "aseg32", or a BIDS `dseg.tsv` with the columns `index` and
            `name`, and if wanted `color` (#rrggbb) and `scored` (yes or no).

    Raises:
        ProtocolError: If there is no such protocol, or the table does not make sense.
    """
    path = Path(name_or_path)
    if path.suffix == ".tsv":
        name = path.name.removesuffix(".tsv").replace(".", "-")  # names parts of a network, too
        return _read_protocol(name, _text_of(path))
    shipped = files("fewlabel") / "protocols" / f"{name_or_path}.tsv"
    if not shipped.is_file():
        near = get_close_matches(str(name_or_path), protocol_names(), n=1)
        hint = f"write {near[0]!r}" if near else f"use one of {', '.join(protocol_names())}"
        raise ProtocolError(
            f"There is no protocol {str(name_or_path)!r}.",
            fix=f"{hint}, or give a TSV file with the columns index and name.",
        )
    return _read_protocol(str(name_or_path), shipped.read_text(encoding="utf-8"))


@cache
def protocol_names() -> tuple[str, ...]:
    """Names of the protocols that ship with fewlabel."""
    folder = files("fewlabel") / "protocols"
    return tuple(sorted(f.name[:-4] for f in folder.iterdir() if f.name.endswith(".tsv")))


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # as spreadsheets write it
    except (OSError, UnicodeDecodeError) as problem:
        raise ProtocolError(
            f"Cannot read the protocol table {path}: {problem}.", fix="check the path."
        ) from None


def _read_protocol(name: str, text: str) -> LabelProtocol:
    labels, strays = [], []
    for number, row in enumerate(csv.DictReader(text.splitlines(), delimiter="\t"), start=2):
        try:
            label = _read_label(row)
        except (KeyError, ValueError, TypeError):
            raise ProtocolError(
                f"Line {number} of protocol {name!r} is {dict(row)}; it needs a whole-number"
                " index from 0 to 32767 and a name, and if any a color like #1f77b4 and a"
                " scored of yes, no or stray.",
                fix="correct that line; columns are separated by tabs.",
            ) from None
        if row.get("scored") == "stray":
            strays.append(label.value)
        elif label.value != 0:
            labels.append(label)
    _refuse_doubles(name, labels)
    return LabelProtocol(name, tuple(labels), strays=tuple(strays))


def _read_label(row: dict[str, str]) -> Label:
    value, name, color = int(row["index"]), row["name"], row.get("color") or "#808080"
    if not (0 <= value <= 32767 and name and re.fullmatch("#[0-9a-fA-F]{6}", color)):
        raise ValueError(row)
    if row.get("scored") not in _SCORED:
        raise ValueError(row)
    red, green, blue = bytes.fromhex(color[1:])
    return Label(value, name, (red, green, blue), row.get("scored") != "no")


def _refuse_doubles(name: str, labels: list[Label]) -> None:
    for what, seen in (
        ("index", [str(label.value) for label in labels]),
        ("name", [label.name for label in labels]),
    ):
        doubles = sorted({entry for entry in seen if seen.count(entry) > 1})
        if doubles:
            raise ProtocolError(
                f"Protocol {name!r} has the {what} {', '.join(doubles)} more than once.",
                fix="give every structure an index and a name of its own.",
            )
    if not labels:
        raise ProtocolError(f"Protocol {name!r} has no structures.", fix="add one line for each.")


def _relation(source: LabelProtocol, target: LabelProtocol) -> tuple[dict[str, str], set[str]]:
    """What each source structure is in the target; which targets are drawn in part only."""
    rows = _table_rows(source.family, target.family)
    if rows is None:
        return {name: name for name in source.names}, set()
    goals = {row["source"]: row["target"] for row in rows}
    return goals, {row["target"] for row in rows if row["comparable"] == "no"}


@cache
def _table_rows(source: str, target: str) -> tuple[dict[str, str], ...] | None:
    file = files("fewlabel") / "protocols" / "tables" / f"{source}_to_{target}.tsv"
    if not file.is_file():
        return None
    return tuple(csv.DictReader(file.read_text(encoding="utf-8").splitlines(), delimiter="\t"))
