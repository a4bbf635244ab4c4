"""A folder of things that were costly to make: shared by runs, bounded in size.

An entry is a folder named after a hash of everything it was made from, so it can never be out of
date. It is made elsewhere and moved into place, so nobody ever sees half of one, and several runs
may use the cache at once.
"""

import os
import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fewlabel.errors import OutputError
from fewlabel.whole import make_folder

_DRAFT = ".draft-"
_DAY_S = 86_400


@dataclass(frozen=True)
class Cache:
    """Entries by key.

    Attributes:
        folder: Where they lie.
        most_gb: Size above which the entries that were not used for longest are removed.
    """

    folder: Path
    most_gb: float = 20.0

    def entry(self, key: str, make: Callable[[Path], None]) -> Path:
        """The folder of an entry; it is made if it is not there.

        Args:
            key: Says all that the entry depends on; fit for a file name.
            make: Fills an empty folder.

        Raises:
            OutputError: If the cache cannot be written to.
        """
        place = self.folder / key
        try:
            os.utime(place)  # used just now
        except OSError:
            self._make(place, make)
            self._make_room(place)
        return place

    def _make(self, place: Path, make: Callable[[Path], None]) -> None:
        draft = self.folder / f"{_DRAFT}{secrets.token_hex(6)}"
        make_folder(draft)
        try:
            make(draft)
            _move(draft, place)
        except OSError as problem:
            if problem.filename is not None and draft not in Path(problem.filename).parents:
                raise  # about another file, which was being read
            raise OutputError(
                f"Cannot write to the cache {self.folder}: {problem.strerror or problem}.",
                fix="make room, or point XDG_CACHE_HOME to a disk with room.",
            ) from None
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _make_room(self, newest: Path) -> None:
        """Remove what was unused for longest, and drafts that a crash left behind.

        An entry that another run has opened stays readable to it until it ends.
        """
        entries = []
        for place in self.folder.iterdir():
            try:
                used, size = place.stat().st_mtime, _size(place)
            except OSError:
                continue  # another run has just removed it
            if place.name.startswith(_DRAFT):
                if time.time() - used > _DAY_S:
                    shutil.rmtree(place, ignore_errors=True)
            else:
                entries.append((used, size, place))
        total = sum(size for _, size, _ in entries)
        for _, size, place in sorted(entries, key=lambda entry: entry[0]):
            if total <= self.most_gb * 1e9:
                break
            if place != newest:
                shutil.rmtree(place, ignore_errors=True)
                total -= size


def default_cache() -> Path:
    """`fewlabel` in the user's cache folder.

    Raises:
        OutputError: If it is not said where that is, and there is no home.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fewlabel"
    except RuntimeError:
        raise OutputError(
            "There is no place for a cache: this user has no home folder.",
            fix="point XDG_CACHE_HOME to a folder that can be written to.",
        ) from None


def _move(draft: Path, place: Path) -> None:
    try:
        draft.rename(place)
    except OSError:
        if not place.is_dir():  # otherwise another run was faster, and its entry is the same
            raise


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())
