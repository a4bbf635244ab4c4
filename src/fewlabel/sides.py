"""Left and right in the names of structures, as the field writes them."""

import re
from functools import cache
from typing import NamedTuple

_WORDS = (("Left", "Right"), ("left", "right"), ("LEFT", "RIGHT"), ("lh", "rh"), ("LH", "RH"))
_WORD, _ENDING = r"(?<![A-Za-z]){}(?![a-z])", r"(?<=[a-z]){}(?![A-Za-z])"
_LETTER, _PREFIX = r"(?<![A-Za-z0-9]){}(?![A-Za-z0-9])", r"(?<![A-Za-z0-9]){}(?=[A-Z][a-z])"
_MARKS = (
    *((left, right, _WORD) for left, right in _WORDS),
    ("Left", "Right", _ENDING),
    ("L", "R", _LETTER),
    ("l", "r", _LETTER),
    ("l", "r", _PREFIX),
)


class _Side(NamedTuple):
    """What a name says: its partner, whether it is on the left, and whether a word says so."""

    partner: str
    is_left: bool
    is_sure: bool


def other_side(name: str) -> str | None:
    """The same structure in the other half of the brain, or None if it is unpaired.

    >>> other_side("Left-Hippocampus"), other_side("ctx-rh-cuneus"), other_side("Brain-Stem")
    ('Right-Hippocampus', 'ctx-lh-cuneus', None)
    >>> other_side("Hippocampus_L"), other_side("rPutamen"), other_side("ThalamusLeft")
    ('Hippocampus_R', 'lPutamen', 'ThalamusRight')
    """
    side = _side(name)
    return None if side is None else side.partner


def is_left(name: str) -> bool:
    """Whether a structure's name says that it is on the left.

    >>> is_left("Left-Caudate"), is_left("ctx-lh-cuneus"), is_left("Right-Caudate")
    (True, True, False)
    """
    side = _side(name)
    return side is not None and side.is_left


def surely_sided(name: str) -> bool:
    """Whether a word says the side: a lone letter may mean something else.

    >>> surely_sided("Left-LGN"), surely_sided("Layer L")
    (True, False)
    """
    side = _side(name)
    return side is not None and side.is_sure


@cache
def _side(name: str) -> _Side | None:
    for left, right, where in _MARKS:
        for one, other in ((left, right), (right, left)):
            swapped, times = re.subn(where.format(one), other, name)
            if times:
                return _Side(swapped, one == left, len(one) > 1)
    return None
