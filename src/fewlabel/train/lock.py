"""One process at a time for a run folder."""

import errno
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fewlabel.errors import OutputError
from fewlabel.train.checkpoint import cannot_write
from fewlabel.whole import make_folder

LOCK = ".lock"
_HELD = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES)
_MOST_BYTES = 200


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a run folder until the context ends; another process that tries is refused.

    The system lets go of it when the process ends, however that happens, so a run that was
    killed can be taken up at once. The file itself stays: removing it would let two processes
    hold two files of the same name. Where a file system has no locks, and on Windows, nothing
    is held.

    Args:
        folder: Made if it is not there.

    Raises:
        OutputError: If another process holds it, naming that process, or if the folder cannot
            be written to.
    """
    make_folder(folder)
    try:
        file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as problem:
        raise cannot_write(folder / LOCK, problem) from problem
    try:
        _take(file, folder)
        yield
    finally:
        os.close(file)


def _take(file: int, folder: Path) -> None:
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        if problem.errno not in _HELD:
            return  # this file system has no locks
        holder = os.pread(file, _MOST_BYTES, 0).decode(errors="replace") or "another process"
        raise OutputError(
            f"The run in {folder} is under way: {holder} has it.",
            fix="wait until it ends, or end that process; a killed run can be taken up at once.",
        ) from None
    with suppress(OSError):  # a full disk: the name of the holder is a courtesy
        os.ftruncate(file, 0)
        os.pwrite(file, f"process {os.getpid()} on {platform.node()}".encode(), 0)
