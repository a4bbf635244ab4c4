"""From the bytes of a file to its numbers: gzip or not, scaled or not, never more than asked."""

import math
from pathlib import Path
from typing import cast

import numpy as np
from isal import igzip, isal_zlib
from jaxtyping import Float32, Shaped

from fewlabel.checks import cut_short
from fewlabel.errors import ScanError
from fewlabel.header import HEADER_BYTES, FileHeader, parse_header

GZIP = 31
"""zlib's `wbits` for a gzip container."""

_CHUNK = 1 << 20
_FIRST_BYTES = 1 << 17
"""Enough of a gzip stream for the header, even after the longest comment of its own."""
_GZIP_MAGIC = b"\x1f\x8b"
_BROKEN_STREAM = (igzip.BadGzipFile, cast(type[Exception], isal_zlib.error))


def read_header(path: Path) -> FileHeader:
    """The header of an image file, told by its content and not by its name.

    Raises:
        ScanError: If the file is missing, empty, unreadable, or not an image.
    """
    block = read_block(path)
    with path.open("rb") as file:
        compressed = file.read(2) == _GZIP_MAGIC
    return parse_header(block, path, compressed=compressed, file_bytes=path.stat().st_size)


def read_block(path: Path) -> bytes:
    """The first `HEADER_BYTES` bytes of a file, uncompressed.

    Raises:
        ScanError: If the file is missing, empty or unreadable.
    """
    _check_is_file(path)
    try:
        with path.open("rb") as file:
            block = file.read(_FIRST_BYTES)
    except OSError as problem:
        raise _unreadable(path, problem) from None
    if not block:
        raise ScanError(f"{path} is empty (0 bytes).", fix="copy or download the file again.")
    if not block.startswith(_GZIP_MAGIC):
        return block[:HEADER_BYTES]
    try:
        block = isal_zlib.decompressobj(wbits=GZIP).decompress(block, HEADER_BYTES)
    except _BROKEN_STREAM as problem:
        raise _damaged(path, problem) from None
    if not block:
        raise ScanError(
            f"{path} is cut short: its gzip stream ends within the header.",
            fix="copy or download the file again.",
        )
    return block


def read_stored(header: FileHeader) -> Shaped[np.ndarray, "i j k"]:
    """The numbers as the file stores them, unscaled.

    Args:
        header: A header that `checks.check_header` has accepted.

    Raises:
        ScanError: If the file ends too early or its gzip stream is damaged.
    """
    assert header.dtype is not None
    shape = header.shape[:3]
    try:
        if header.compressed:
            flat = _inflate(header).view(header.dtype)
        else:
            flat = np.fromfile(
                header.path, header.dtype, math.prod(shape), offset=int(header.offset)
            )
    except EOFError:
        raise cut_short(header, "its gzip stream ends before that") from None
    except MemoryError:
        raise ScanError(
            f"{header.path} has {math.prod(shape)} voxels, too many for this machine's memory.",
            fix="use a machine with more memory, or crop or resample the scan.",
        ) from None
    except _BROKEN_STREAM as problem:
        raise _damaged(header.path, problem) from None
    except OSError as problem:
        raise _unreadable(header.path, problem) from None
    if flat.size != math.prod(shape):
        raise cut_short(header, f"only {flat.nbytes} bytes of voxels are there")
    return flat.reshape(shape, order="F")


def is_scaled(header: FileHeader) -> bool:
    """Whether the intensities differ from the stored numbers; a slope of 0 means they do not."""
    return header.slope not in (0.0, 1.0) or (header.slope != 0 and header.inter != 0)


def scaled(stored: Shaped[np.ndarray, "i j k"], header: FileHeader) -> Float32[np.ndarray, "i j k"]:
    """Intensities from the stored numbers, by the header's slope; float32 all the way."""
    with np.errstate(all="ignore"):
        data: np.ndarray = stored.astype(np.float32, copy=False)
        if is_scaled(header):
            data *= np.float32(header.slope)
            data += np.float32(header.inter)
    return data


def _inflate(header: FileHeader) -> Shaped[np.ndarray, "bytes"]:
    """Uncompress exactly the voxels, then one byte more: that checks the sum at the end."""
    assert header.dtype is not None
    size = math.prod(header.shape[:3]) * header.dtype.itemsize
    with igzip.IGzipFile(header.path) as stream:
        skip = int(header.offset)
        while skip > 0:
            piece = stream.read(min(skip, _CHUNK))
            if not piece:
                raise EOFError
            skip -= len(piece)
        data = np.empty(size, dtype=np.uint8)
        whole, done = data.data, 0
        while done < size:
            count = stream.readinto(whole[done : done + _CHUNK])
            if not count:
                raise EOFError
            done += count
        stream.read(1)
    return data


def _check_is_file(path: Path) -> None:
    try:
        found = path.exists()
    except (OSError, ValueError) as problem:  # no permission on a folder above; a null byte
        raise ScanError(f"Cannot look at {path!r}: {problem}.", fix="check the path.") from None
    if not found:
        raise ScanError(
            f"There is no file {path}.", fix="check the path, and that its disk is mounted."
        )
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "no regular file"
        raise ScanError(f"{path} is {kind}; needed is an image file.", fix="give a file.")


def _damaged(path: Path, problem: Exception) -> ScanError:
    return ScanError(
        f"{path} is damaged: its gzip stream cannot be uncompressed ({problem}).",
        fix="copy or download the file again.",
    )


def _unreadable(path: Path, problem: OSError) -> ScanError:
    return ScanError(
        f"{path} cannot be read: {problem.strerror or problem}.",
        fix="check that you may read it and that its disk is in order.",
    )
