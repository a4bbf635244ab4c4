"""Files that are written whole or not at all."""

import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from fewlabel.errors import OutputError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; what is written there becomes `path` at the end.

    Nobody ever sees half a file: a crash, a full disk or an exception leaves `path` as it was.
    Missing folders above `path` are made.

    Args:
        path: Where the result shall lie. An existing file is replaced.

    Yields:
        An empty file in the same folder with the same ending, to be overwritten.

    Raises:
        OutputError: If the folder cannot be written to or its disk is full.
    """
    draft = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        make_folder(path.parent)
        draft.touch(exist_ok=False)
        yield draft
        _to_disk(draft)
        draft.replace(path)
        with suppress(OSError):  # some file systems refuse it for folders; the file is there
            _to_disk(path.parent)
    except OSError as problem:
        if problem.filename is not None and os.fspath(problem.filename) != os.fspath(draft):
            raise  # about another file, which the caller was reading
        raise _cannot_write(path, problem) from None
    finally:
        _remove(draft)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all.

    Raises:
        OutputError: If the folder cannot be written to or its disk is full.
    """
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes, whole or not at all.

    Raises:
        OutputError: If the folder cannot be written to or its disk is full.
    """
    with write_whole(path) as draft:
        draft.write_bytes(content)


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder of files, whole or not at all; one that is there is replaced altogether.

    Raises:
        OSError: If it cannot be written.
    """
    folder = folder.resolve()  # of a link, what it leads to is replaced
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    former = draft.with_name(f"{draft.name}.former")
    try:
        for name, content in files.items():
            (draft / name).write_bytes(content)
            _to_disk(draft / name)
        draft.chmod(0o755)
        if folder.exists():
            folder.rename(former)
        draft.rename(folder)
        shutil.rmtree(former, ignore_errors=True)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, if they are not there.

    Raises:
        OutputError: If that is not allowed, or a file is in the way.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise _cannot_write(folder, problem) from None


def _to_disk(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open folders
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(draft: Path) -> None:
    try:
        draft.unlink(missing_ok=True)
    except OSError:
        return  # its folder is out of reach; the error that brought us here says so


def _cannot_write(path: Path, problem: OSError) -> OutputError:
    if problem.errno in _FULL:
        return OutputError(
            f"Cannot write {path}: the disk is full. Nothing was left behind.",
            fix="make room, or choose another output folder with --out.",
        )
    if problem.errno in _REFUSED:
        return OutputError(
            f"Cannot write {path}: the folder cannot be written to ({problem.strerror}).",
            fix="choose another output folder with --out, or change its permissions.",
        )
    if problem.errno in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY):
        return OutputError(
            f"Cannot write {path}: a file is where a folder is needed, or a folder where the"
            f" file should be ({problem.strerror}).",
            fix="choose another output path.",
        )
    return OutputError(
        f"Cannot write {path}: {problem.strerror or problem}.", fix="choose another output path."
    )
