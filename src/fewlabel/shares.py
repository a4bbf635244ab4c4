"""Probabilities of many classes on a field, kept only where they are not zero.

Of 139 classes almost all are zero almost everywhere, so a field of 8 million voxels takes some
50 MB instead of 1.1 GB. Should it be otherwise, what goes beyond a limit is kept on disk.
"""

import math
import os
import tempfile
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, islice, takewhile
from threading import Lock
from typing import IO

import numpy as np
from jaxtyping import Bool, Int16, UInt8

Index = tuple[int, int, int]
_Cut = tuple[slice, ...]
_PLANES = 8
"""So many are changed at once."""


@dataclass(frozen=True, eq=False)
class _Part:
    """Where a piece of one class lies, and its values: in memory, or at a place in the file."""

    start: Index
    shape: Index
    values: UInt8[np.ndarray, "i j k"] | int

    @property
    def end(self) -> Index:
        i, j, k = (a + n for a, n in zip(self.start, self.shape, strict=True))
        return i, j, k


@dataclass(frozen=True, eq=False)
class Piece:
    """A part of one class.

    Attributes:
        number: Of the class.
        start: Its first voxel.
        values: From 0 to 255; they may be changed in place.
    """

    number: int
    start: Index
    values: UInt8[np.ndarray, "i j k"]

    @property
    def end(self) -> Index:
        """One past its last voxel."""
        i, j, k = (a + n for a, n in zip(self.start, self.values.shape, strict=True))
        return i, j, k

    def within(self, low: np.ndarray, high: np.ndarray) -> tuple[_Cut, _Cut]:
        """What lies from voxel `low` to before `high`: in the values, and in an array of those."""
        first = np.maximum(self.start, low)
        last = np.maximum(np.minimum(self.end, high), first)
        own, common = (
            _between(list(index(first)), list(index(last)), index(origin))
            for origin in (np.array(self.start), low)
        )
        return own, common


class Shares:
    """Probabilities from 0 to 255 of each class, background first.

    Args:
        n_classes: Background included.
        shape: Voxels of the field.
        most_bytes: What may be kept in memory; more goes to a temporary file.
    """

    def __init__(self, n_classes: int, shape: Index, most_bytes: float = math.inf) -> None:
        self.shape = (n_classes, *shape)
        self._most_bytes, self._bytes = most_bytes, 0
        self._file: IO[bytes] | None = None
        self._reading = Lock()
        self._parts: list[list[_Part]] = [[] for _ in range(n_classes)]
        self._gone: Bool[np.ndarray, "i j k"] | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[UInt8[np.ndarray, "i j k"]]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> UInt8[np.ndarray, "i j k"]:
        """All of one class."""
        return self.cut(number, (0, 0, 0), self.shape[1:])

    def add(self, first: int, slab: UInt8[np.ndarray, "classes n j k"]) -> None:
        """Take in some planes, which come in order.

        Args:
            first: Number of the first of them along the field's first axis.
            slab: All classes there.
        """
        over_i = slab.max(axis=1)
        rows, columns = over_i.any(axis=2), over_i.any(axis=1)
        for number, share in enumerate(slab):
            if rows[number].any():
                (a, b), (c, d) = ends(rows[number]), ends(columns[number])
                self._keep(number, (first, a, c), share[:, a:b, c:d])

    def remove(self, where: Bool[np.ndarray, "i j k"]) -> None:
        """Make certain voxels background."""
        self._gone = where

    def box(self, number: int, least: float) -> Int16[np.ndarray, "2 3"] | None:
        """First and one past the last voxel along each axis where a class reaches `least`."""
        boxes = []
        for part in self._parts[number]:
            values = self._values(part)
            if self._gone is not None:
                gone = self._gone[_between(list(part.start), list(part.end), (0, 0, 0))]
                if gone.any():
                    values = values.copy()
                    np.copyto(values, np.uint8(0 if number else 255), where=gone)
            found = box_of(values, least)
            if found is not None:
                boxes.append(found + np.array(part.start))
        if not boxes:
            return None
        low, high = np.min(boxes, axis=0)[0], np.max(boxes, axis=0)[1]
        return np.stack([low, high]).astype(np.int16)

    def cut(self, number: int, start: Index, shape: Index) -> UInt8[np.ndarray, "i j k"]:
        """A part of one class; `start` and `shape` must lie within the field."""
        whole = np.zeros(shape, dtype=np.uint8)
        end = [a + n for a, n in zip(start, shape, strict=True)]
        for part in self._among(number, start[0], end[0]):
            low = [max(a, b) for a, b in zip(start, part.start, strict=True)]
            high = [min(a, b) for a, b in zip(end, part.end, strict=True)]
            if all(a < b for a, b in zip(low, high, strict=True)):
                from_part = self._values(part)[_between(low, high, part.start)]
                whole[_between(low, high, start)] = from_part
        if self._gone is not None:
            gone = self._gone[_between(list(start), end, (0, 0, 0))]
            np.copyto(whole, np.uint8(0 if number else 255), where=gone)
        return whole

    def thin(self, number: int, step: int) -> UInt8[np.ndarray, "a b c"]:
        """One class at every second, third, ... voxel along each axis, and no more in memory."""
        i, j, k = (math.ceil(n / step) for n in self.shape[1:])
        whole = np.zeros((i, j, k), dtype=np.uint8)
        for part in self._parts[number]:
            skip = [-a % step for a in part.start]
            seen = self._values(part)[skip[0] :: step, skip[1] :: step, skip[2] :: step]
            at = [(a + s) // step for a, s in zip(part.start, skip, strict=True)]
            whole[tuple(slice(a, a + n) for a, n in zip(at, seen.shape, strict=True))] = seen
        if self._gone is not None:
            whole[self._gone[::step, ::step, ::step]] = 0 if number else 255
        return whole

    def slabs(self) -> Iterator[list[Piece]]:
        """All classes in some planes at a time; what is changed in their values is kept."""
        every_part = [
            (part.start[0], n, part) for n, parts in enumerate(self._parts) for part in parts
        ]
        for _, some in groupby(sorted(every_part, key=lambda one: one[:2]), key=lambda one: one[0]):
            parts = [(number, part) for _, number, part in some]
            pieces = [Piece(n, part.start, self._changeable(part)) for n, part in parts]
            yield pieces
            for piece, (_, part) in zip(pieces, parts, strict=True):
                if self._file is not None and not isinstance(part.values, np.ndarray):
                    self._file.seek(part.values)
                    self._file.write(piece.values.tobytes())

    def _among(self, number: int, begin: int, end: int) -> Iterator[_Part]:
        """Parts of a class that have planes from `begin` to before `end`."""
        parts = self._parts[number]
        first = bisect_right(parts, begin, key=lambda part: part.end[0])
        return takewhile(lambda part: part.start[0] < end, islice(parts, first, None))

    def _changeable(self, part: _Part) -> UInt8[np.ndarray, "i j k"]:
        values = self._values(part)
        return values if values.flags.writeable else values.copy()

    def _keep(self, number: int, start: Index, values: UInt8[np.ndarray, "i j k"]) -> None:
        i, j, k = values.shape
        kept: np.ndarray | int
        if self._bytes + values.nbytes <= self._most_bytes:
            self._bytes += values.nbytes
            kept = values.copy()
        else:
            self._file = self._file or tempfile.TemporaryFile(prefix="fewlabel")  # noqa: SIM115
            kept = self._file.seek(0, os.SEEK_END)
            self._file.write(values.tobytes())
        self._parts[number].append(_Part(start, (i, j, k), kept))

    def _values(self, part: _Part) -> UInt8[np.ndarray, "i j k"]:
        if isinstance(part.values, np.ndarray):
            return part.values
        assert self._file is not None
        with self._reading:
            self._file.seek(part.values)
            content = self._file.read(math.prod(part.shape))
        return np.frombuffer(content, dtype=np.uint8).reshape(part.shape)

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None:
            self._file.close()  # type: ignore[union-attr]


Probabilities = UInt8[np.ndarray, "classes i j k"] | Shares
"""From 0 to 255 of each class, background first: in one array, or only where they are not zero."""


def thinned(shares: Probabilities, number: int, step: int) -> UInt8[np.ndarray, "a b c"]:
    """One class at every second, third, ... voxel along each axis."""
    if isinstance(shares, Shares):
        return shares.thin(number, step)
    share: np.ndarray = shares[number, ::step, ::step, ::step]
    return share


def every(shares: Probabilities, step: int) -> Iterator[UInt8[np.ndarray, "a b c"]]:
    """One class after the other, at every second, third, ... voxel along each axis."""
    return (thinned(shares, number, step) for number in range(len(shares)))


def largest(some: Iterator[UInt8[np.ndarray, "a b c"]]) -> UInt8[np.ndarray, "a b c"]:
    """The largest of several arrays, voxel by voxel; one at a time, as there may be many."""
    found = next(some).copy()
    for one in some:
        np.maximum(found, one, out=found)
    return found


def slabs(shares: Probabilities) -> Iterator[list[Piece]]:
    """All classes in some planes at a time; what is changed in their values is kept."""
    if isinstance(shares, Shares):
        yield from shares.slabs()
        return
    for first in range(0, shares.shape[1], _PLANES):
        some = shares[:, first : first + _PLANES]
        yield [Piece(number, (first, 0, 0), values) for number, values in enumerate(some)]


def box_in(
    shares: np.ndarray | Shares, number: int, least: float
) -> Int16[np.ndarray, "2 3"] | None:
    """First and one past the last voxel along each axis where a class reaches `least`."""
    if isinstance(shares, Shares):
        return shares.box(number, least)
    return box_of(shares[number], least)


def cut_of(shares: np.ndarray | Shares, number: int, start: Index, shape: Index) -> np.ndarray:
    """A part of one class; `start` and `shape` must lie within the field."""
    if isinstance(shares, Shares):
        return shares.cut(number, start, shape)
    part: np.ndarray = shares[number][
        tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))
    ]
    return part


def box_of(share: np.ndarray, least: float) -> Int16[np.ndarray, "2 3"] | None:
    """First and one past the last voxel along each axis where `share` reaches `least`."""
    rows = share.reshape(len(share), -1).max(axis=1) >= least
    if not rows.any():
        return None
    found = [ends(rows)]
    front = share[slice(*found[0])].max(axis=0) >= least
    found += [ends(front.any(axis=1)), ends(front.any(axis=0))]
    return np.array(found, dtype=np.int16).T


def ends(line: np.ndarray) -> tuple[int, int]:
    """First and one past the last true entry."""
    found = np.flatnonzero(line)
    return int(found[0]), int(found[-1]) + 1


def index(voxel: np.ndarray | tuple[int, ...]) -> Index:
    """Three numbers as a tuple."""
    i, j, k = (int(n) for n in voxel)
    return i, j, k


def _between(low: list[int], high: list[int], start: Index) -> _Cut:
    return tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True))
