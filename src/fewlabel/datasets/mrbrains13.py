"""MRBrainS13: adults with eight structures, as a licensed user downloads them.

The archives unpack to `TrainingData/1` to `TrainingData/5` and `TestData/1` to `TestData/15`, each
with `T1.nii`, `T1_IR.nii`, `T2_FLAIR.nii` on one grid (and `T1_1mm.nii` on another); training
folders have `LabelsForTraining.nii` (eight structures) and `LabelsForTesting.nii` (three).

Source: Mendrik et al. 2015, doi 10.1155/2015/813696; doi 10.34894/645ZIN.
"""

import math
from pathlib import Path

from fewlabel.cohort import Case, Cohort, refuse
from fewlabel.labels import load_protocol
from fewlabel.metrics import measure, predicted_volume_mm3, reference_volume_mm3
from fewlabel.volume import LabelMap

MODALITIES = {"T1w": "T1.nii", "T1IR": "T1_IR.nii", "FLAIR": "T2_FLAIR.nii"}
_LABELS = "LabelsForTraining.nii"
_FOLDERS = {"TrainingData": (5, "train"), "TestData": (15, "test")}


def mrbrains13(download: Path) -> Cohort:
    """The five labeled scans to train on, and the fifteen to test on if they are there.

    Args:
        download: Folder in which the archives were unpacked.

    Raises:
        CohortError: Naming every file that is missing.
    """
    problems: list[str] = []
    cases: list[Case] = []
    for name, (count, split) in _FOLDERS.items():
        if name == "TestData" and not (download / name).is_dir():
            continue
        for number in range(1, count + 1):
            folder = download / name / str(number)
            scans = {key: _there(folder / file) for key, file in MODALITIES.items()}
            labels = _there(folder / _LABELS) if split == "train" else None
            needed = scans | ({"labels": labels} if split == "train" else {})
            gone = [MODALITIES.get(key, _LABELS) for key, path in needed.items() if path is None]
            if gone:
                problems.append(f"{folder} has no {', no '.join(gone)}.")
            case = f"{split}-{number:02d}"
            there = {key: path for key, path in scans.items() if path is not None}
            protocol = "mrbrains8" if labels else ""
            cases.append(Case(case, case, case, there, labels, protocol, split=split))
    refuse(
        f"The download of MRBrainS13 in {download}",
        problems,
        fix="unpack the archives again, so that this folder holds TrainingData with the folders"
        " 1 to 5, and if you have it TestData with 1 to 15.",
    )
    return Cohort(tuple(cases))


def _there(path: Path) -> Path | None:
    """A file, or its gzipped form, or None."""
    return next((p for p in (path, path.with_name(f"{path.name}.gz")) if p.is_file()), None)


def challenge_scores(predicted: LabelMap, reference: LabelMap) -> dict[str, dict[str, float]]:
    """The challenge's numbers, for gray matter, white matter and cerebrospinal fluid.

    Args:
        predicted: In `mrbrains8` or `mrbrains3`, on the reference's grid.
        reference: The same. Cerebellum and brain stem are not scored: where the reference draws
            them, nothing counts.

    Returns:
        "DC" (no unit), "HD95" and "MSD" (mm), "AVD" (absolute difference in percent of the
        reference's volume; NaN if that has none), each by tissue.

    Source:
        Mendrik et al. 2015, section 2.4.
    """
    tissues = load_protocol("mrbrains3")
    found, truth = predicted.to(tissues), reference.to(tissues)
    measured = measure(found, truth, ("dice", "hausdorff95", "mean_surface_distance"))
    volumes = predicted_volume_mm3(found, truth)
    return {
        "DC": measured["dice"],
        "HD95": measured["hausdorff95"],
        "MSD": measured["mean_surface_distance"],
        "AVD": {
            name: 100 * abs(volumes[name] - mm3) / mm3 if mm3 else math.nan
            for name, mm3 in reference_volume_mm3(found, truth).items()
        },
    }
