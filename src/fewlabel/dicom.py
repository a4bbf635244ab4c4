"""A folder with one DICOM series becomes a NIfTI file, by dcm2niix (extra `dicom`)."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fewlabel.errors import ScanError

_LONGEST_S = 600


@contextmanager
def converted(folder: Path) -> Iterator[Path]:
    """Convert the one series in a folder; the file is gone when the context ends.

    Args:
        folder: DICOM files of one series, in subfolders or not.

    Yields:
        An uncompressed NIfTI file in a temporary folder.

    Raises:
        ScanError: If dcm2niix is not installed or fails, or if the folder holds no series or
            more than one.
    """
    program = _dcm2niix(folder)
    with tempfile.TemporaryDirectory(prefix="fewlabel-dicom-") as place:
        command = [program, "-b", "n", "-z", "n", "-f", "%s", "-o", place, str(folder.resolve())]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=_LONGEST_S,
                check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as problem:
            raise ScanError(
                f"dcm2niix could not convert {folder}: {problem}.",
                fix="convert the series yourself and give the .nii.gz file.",
            ) from None
        yield _only_one(sorted(Path(place).glob("*.nii")), folder, done.stdout + done.stderr)


def _dcm2niix(folder: Path) -> str:
    try:
        import dcm2niix
    except ImportError:
        raise ScanError(
            f"{folder} is a folder; reading DICOM needs dcm2niix, which is not installed.",
            fix="run `pip install 'fewlabel[dicom]'`, or give a .nii.gz file.",
        ) from None
    return str(dcm2niix.bin)


def _only_one(volumes: list[Path], folder: Path, said: str) -> Path:
    if not volumes:
        last = said.strip().splitlines()[-1:] or ["nothing"]
        raise ScanError(
            f"{folder} holds no DICOM series that dcm2niix can convert; it said: {last[0]}",
            fix="give the folder that holds the .dcm files of one series, or a .nii.gz file.",
        )
    if len(volumes) > 1:
        raise ScanError(
            f"{folder} holds {len(volumes)} volumes (series {', '.join(v.stem for v in volumes)});"
            " needed is one.",
            fix="give a folder with the files of one series only.",
        )
    return volumes[0]
