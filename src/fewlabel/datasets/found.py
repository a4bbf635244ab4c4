"""What an indexer hands back."""

from dataclasses import dataclass

from fewlabel.cohort import Cohort
from fewlabel.errors import ProtocolError
from fewlabel.labels import LabelProtocol, load_protocol, protocol_names

ENDINGS = (".nii.gz", ".nii", ".mgz", ".mgh", ".mgh.gz")


@dataclass(frozen=True)
class Found:
    """A data set, indexed.

    Attributes:
        cohort: Its cases.
        odd: What a reader should know before using it, as sentences.
    """

    cohort: Cohort
    odd: tuple[str, ...] = ()


def stem_of(name: str) -> str | None:
    """A file's name without its ending, or None if it is no volume.

    >>> stem_of("a.b.nii.gz"), stem_of("notes.txt")
    ('a.b', None)
    """
    ending = next((e for e in ENDINGS if name.lower().endswith(e)), None)
    return name[: -len(ending)] if ending else None


def shipped_like(own: LabelProtocol, hint: str = "") -> str | None:
    """The name of the shipped protocol with the same structures under the same numbers.

    Args:
        own: What came with the data.
        hint: How the name begins, should several be alike.
    """

    def meaning(protocol: LabelProtocol) -> set[tuple[int, str]]:
        return {(label.value, label.name.lower()) for label in protocol.labels}

    def is_alike(name: str) -> bool:
        shipped = load_protocol(name)
        strays = set(shipped.strays)
        return {m for m in meaning(own) if m[0] not in strays} == meaning(shipped)

    alike = [name for name in protocol_names() if is_alike(name)]
    return next((name for name in alike if name.startswith(hint)), alike[0] if alike else None)


def shipped_as(name: str) -> str | None:
    """The shipped protocol of that name, if there is one."""
    try:
        return load_protocol(name).name if name else None
    except ProtocolError:
        return None


def and_more(names: list[str], most: int = 5) -> str:
    """A few of many names.

    >>> and_more(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
