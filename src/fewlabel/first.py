"""FSL FIRST, run on one scan at a time; a failure is found, not passed on.

FIRST (Patenaude 2011, doi 10.1016/j.neuroimage.2011.02.046) is not part of fewlabel and has a
license of its own. Its script goes on when its registration has failed, and writes files beside
the scan; so it gets a copy of the scan in a folder that is thrown away, and what it returns is
looked at before it is believed.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from jaxtyping import Float64

from fewlabel.conform import turned
from fewlabel.errors import ConfigError, ProtocolError, ScanError
from fewlabel.io import read_labels, read_scan
from fewlabel.labels import LabelProtocol, load_protocol
from fewlabel.sides import other_side
from fewlabel.volume import LabelMap, require_same_grid

COMMAND = "run_first_all"
PROTOCOL = "fsl15"
_PLAUSIBLE_MM3 = (25_000.0, 200_000.0)
"""All 15 structures together; about 75,000 in an adult, with the fourth ventricle."""
_LONGEST_S = 3600.0


@dataclass(frozen=True)
class First:
    """FSL FIRST, where it is installed.

    Attributes:
        command: Its script.
        brain_extracted: Whether scans show the brain only.
        longest_s: Seconds after which it is stopped.
    """

    command: Path
    brain_extracted: bool = False
    longest_s: float = _LONGEST_S

    def __call__(self, scan: Path) -> LabelMap:
        """The 15 structures of one scan, on its grid, in `fsl15`; FIRST's own numbers are its.

        The brain stem is FIRST's, which holds the fourth ventricle.

        Raises:
            ScanError: If FIRST failed, and how.
        """
        if not scan.name.lower().endswith((".nii", ".nii.gz")):
            raise _failed(scan, "it reads NIfTI files only")
        with TemporaryDirectory(prefix="fewlabel-first-") as place:
            folder = Path(place)
            try:
                shutil.copyfile(scan, folder / f"scan{_ending(scan)}")
            except OSError as refusal:
                why = refusal.strerror or refusal
                raise _failed(scan, f"it cannot be copied ({why})") from None
            said = self._run(folder, scan)
            result = folder / "out_all_fast_firstseg.nii.gz"
            problem = _errors(folder) or ("" if result.is_file() else said or "it wrote no result")
            if problem:
                raise _failed(scan, problem)
            try:
                labels = read_labels(result, load_protocol(PROTOCOL))
            except (ProtocolError, ScanError) as refusal:
                raise _failed(scan, refusal.what.rstrip(".")) from None
        require_same_grid(read_scan(scan), labels, doing=f"FIRST's result of {scan.name}")
        implausible = what_is_odd(labels)
        if implausible:
            raise _failed(scan, implausible)
        return labels

    def _run(self, folder: Path, scan: Path) -> str:
        """Run the script; what it complained about if it ended with an error."""
        words = [str(self.command), "-i", f"scan{_ending(scan)}", "-o", "out"]
        words += ["-b"] * self.brain_extracted
        # FIRST would else hand its steps to a queue, where there is one, and return at once.
        environment = os.environ | {"FSLSUBALREADYRUN": "true", "FSLOUTPUTTYPE": "NIFTI_GZ"}
        try:
            done = subprocess.run(
                words, cwd=folder, env=environment, capture_output=True, text=True,
                errors="replace", timeout=self.longest_s, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise _failed(scan, f"it took more than {self.longest_s:g} s") from None
        except OSError as problem:
            raise ConfigError(
                f"Cannot run {self.command}: {problem.strerror}.", fix="check FSL's installation."
            ) from None
        if done.returncode == 0:
            return ""
        return _last_line(done.stderr or done.stdout) or f"it ended with code {done.returncode}"


def find_first(*, brain_extracted: bool = False) -> First:
    """FSL FIRST, from FSLDIR or the path.

    Raises:
        ConfigError: If it is not installed.
    """
    places = [Path(os.environ[name]) / "bin" for name in ("FSLDIR",) if os.environ.get(name)]
    path = os.pathsep.join([*map(str, places), os.environ.get("PATH", "")])
    found = shutil.which(COMMAND, path=path)
    if found is None:
        raise ConfigError(
            f"FSL FIRST is not installed: there is no {COMMAND} in FSLDIR/bin or the path.",
            fix="install FSL and set FSLDIR, or use `--with model` or `--with registration`.",
        )
    return First(Path(found), brain_extracted)


def what_is_odd(labels: LabelMap) -> str:
    """Why a result in `fsl15` cannot be right, as when its registration failed; else nothing.

    It needs all structures, left ones to the left of right ones, the brain stem below the thalami
    and a volume that a brain can have.
    """
    grid, classes = turned(labels)
    counts = np.bincount(classes[classes > 0], minlength=labels.protocol.n_classes)
    missing = [name for name, n in zip(labels.protocol.names, counts[1:], strict=True) if n == 0]
    if missing:
        return f"it found no {', '.join(missing)}"
    mm3 = float(counts[1:].sum()) * grid.voxel_mm3
    low, high = _PLAUSIBLE_MM3
    if not low < mm3 < high:
        return f"its structures have {mm3 / 1000:.0f} cm3 together, which no brain has"
    centers = _centers_mm(classes, labels.protocol) @ grid.affine[:3, :3].T
    at = dict(zip(labels.protocol.names, centers, strict=True))
    for name, center in at.items():
        partner = other_side(name)
        if name.startswith("Left") and partner and center[0] >= at[partner][0]:
            return f"{name} is not to the left of {partner}"
    if at["Brain-Stem"][2] >= min(at["Left-Thalamus"][2], at["Right-Thalamus"][2]):
        return "the brain stem is not below the thalami"
    return ""


def _centers_mm(
    classes: np.ndarray, protocol: LabelProtocol
) -> Float64[np.ndarray, "structures 3"]:
    """Mean voxel of each structure."""
    index = np.nonzero(classes > 0)
    here, n = classes[index], protocol.n_classes
    sums = [np.bincount(here, axis, minlength=n)[1:] for axis in index]
    return np.stack(sums, axis=1) / np.bincount(here, minlength=n)[1:, None]


def _errors(folder: Path) -> str:
    """What the steps of FIRST complained about: their `.e` files should be empty."""
    for file in sorted(folder.glob("*.logs/*.e*")):
        text = _last_line(file.read_text(encoding="utf-8", errors="replace"))
        if text:
            return text
    return ""


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""


def _ending(scan: Path) -> str:
    return ".nii.gz" if scan.name.lower().endswith(".gz") else ".nii"


def _failed(scan: Path, why: str) -> ScanError:
    return ScanError(
        f"FIRST failed on {scan.name}: {why}.",
        fix="look at the scan: FIRST needs a T1w scan of a whole head, or -b for one of a brain.",
    )
