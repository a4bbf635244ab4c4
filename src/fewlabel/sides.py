"""Left and right in the names of structures, as the field writes them."""

import re
from collections.abc import Iterator

_WORDS = (("Left", "Right"), ("left", "right"), ("LEFT", "RIGHT"), ("lh", "rh"), ("LH", "RH"))
_WORD, _ENDING = r"(?<![A-Za-z]){}(?![a-z])", r"(?<=[a-z]){}(?![A-Za-z])"
_LETTER, _PREFIX = r"(?<![A-Za-z0-9]){}(?![A-Za-z0-9])", r"(?<![A-Za-z0-9]){}(?=[A-Z][a-z])"
_SURE = (*((left, right, _WORD) for left, right in _WORDS), ("Left", "Right", _ENDING))
_LETTERS = (("L", "R", _LETTER), ("l", "r", _LETTER), ("l", "r", _PREFIX))


def other_side(name: str) -> str | None:
    """The same structure in the other half of the brain, or None if it is unpaired.

    >>> other_side("Left-Hippocampus"), other_side("ctx-rh-cuneus"), other_side("Brain-Stem")
    ('Right-Hippocampus', 'ctx-lh-cuneus', None)
    >>> other_side("Hippocampus_L"), other_side("rPutamen"), other_side("ThalamusLeft")
    ('Hippocampus_R', 'lPutamen', 'ThalamusRight')
    """
    return next((partner for partner, _ in _swapped(name, (*_SURE, *_LETTERS))), None)


def is_left(name: str) -> bool:
    """Whether a structure's name says that it is on the left.

    >>> is_left("Left-Caudate"), is_left("ctx-lh-cuneus"), is_left("Right-Caudate")
    (True, True, False)
    """
    return next((left for _, left in _swapped(name, (*_SURE, *_LETTERS))), False)


def surely_sided(name: str) -> bool:
    """Whether a word says the side: a lone letter may mean something else.

    >>> surely_sided("Left-LGN"), surely_sided("Layer L")
    (True, False)
    """
    return any(True for _ in _swapped(name, _SURE))


def _swapped(name: str, marks: tuple[tuple[str, str, str], ...]) -> Iterator[tuple[str, bool]]:
    """The name with one mark exchanged, and whether that was of the left."""
    for left, right, where in marks:
        for one, other in ((left, right), (right, left)):
            swapped, times = re.subn(where.format(one), other, name)
            if times:
                yield swapped, one == left
