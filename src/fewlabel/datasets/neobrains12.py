"""NeoBrainS12: neonates with seven tissues, as a licensed user downloads them.

The training archive unpacks to `trainingDataNeoBrainS12/<set>/<example>/` with `T1_*.nii.gz`,
`T2_*.nii.gz` and `manualSegm.nii.gz`; test images have no labels. The sets are 40wAxial,
30wCoronal and 40wCoronal, by postmenstrual age. Whether infants are in two sets is not said, so
each image is taken for a person.

Source: Isgum et al. 2015, doi 10.1016/j.media.2014.11.001; neobrains12.isi.uu.nl.
"""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from fewlabel.cohort import Case, Cohort, refuse

Experiment = Literal["exp1", "exp2", "exp3"]

SETS = ("40wAxial", "30wCoronal", "40wCoronal")
TRAINED_ON: dict[Experiment, tuple[str, ...]] = {
    "exp1": ("40wAxial",),
    "exp2": ("30wCoronal",),
    "exp3": ("40wAxial", "30wCoronal"),
}
"""Sets whose training images each experiment of xu2017, table 1, learns from."""
TESTED_ON: dict[Experiment, str] = {
    "exp1": "40wAxial",
    "exp2": "30wCoronal",
    "exp3": "40wCoronal",
}
_TRAINING, _TEST = 2, 5
_LABELS = "manualSegm.nii.gz"


def neobrains12(download: Path, experiment: Experiment, protocol: str = "neobrains7") -> Cohort:
    """The cases of an experiment: labeled ones to train on, unlabeled ones to test on.

    Args:
        download: Folder in which the archives were unpacked.
        experiment: Which images train and which test.
        protocol: What the numbers in the label maps stand for. Those of "neobrains7" are ours;
            give a TSV file with the numbers of your download and the same names.

    Raises:
        CohortError: Naming every image and label map that is missing or too many.
    """
    problems: list[str] = []
    cases: list[Case] = []
    for name in TRAINED_ON[experiment]:
        found = [case for case in _cases(download, name, protocol, problems) if case.labels]
        if len(found) != _TRAINING:
            problems.append(
                f"{name} has {len(found)} examples with T2_*.nii.gz and {_LABELS}, needed are"
                f" {_TRAINING}."
            )
        cases += [replace(case, split="train") for case in found]
    tested = TESTED_ON[experiment]
    tests = [case for case in _cases(download, tested, protocol, problems) if not case.labels]
    if tests and len(tests) != _TEST:
        problems.append(f"{tested} has {len(tests)} test images, there should be {_TEST}.")
    cases += [replace(case, split="test") for case in tests]
    refuse(
        f"The download of NeoBrainS12 in {download}",
        problems,
        fix="unpack the archives again, so that below this folder there are"
        f" {', '.join(SETS)} with a folder for each example.",
    )
    return Cohort(tuple(cases))


def _cases(download: Path, name: str, protocol: str, problems: list[str]) -> list[Case]:
    cases = []
    for folder in sorted(path for path in download.rglob(f"{name}/*") if path.is_dir()):
        scans: dict[str, Path] = {}
        for number in (1, 2):
            files = sorted(folder.glob(f"T{number}_*.nii*"))
            if len(files) > 1:
                problems.append(f"{folder} has {len(files)} T{number} images, needed is one.")
            scans |= {f"T{number}w": path for path in files[:1]}
        if "T2w" not in scans:
            problems.append(f"{folder} has no T2_*.nii.gz.")
            continue
        labels = folder / _LABELS
        case = f"{name}-{folder.parent.parent.name[:4]}-{folder.name}"
        labeled = labels if labels.is_file() else None
        drawn_in, age_weeks = protocol if labeled else "", float(name[:2])  # the set's name
        cases.append(Case(case, case, case, scans, labeled, drawn_in, age_weeks=age_weeks))
    return cases
