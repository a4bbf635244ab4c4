"""Mindboggle-101: 101 adults with manual cortical labels, or one of its groups, as OASIS-TRT-20.

Each archive `GROUP_volumes.tar.gz` unpacks to a folder for each person, `GROUP-1` and so on, with
`t1weighted_brain.nii.gz`, `t1weighted.nii.gz`, `labels.DKT31.manual.nii.gz` (cortex) and
`labels.DKT31.manual+aseg.nii.gz` (cortex and FreeSurfer's other structures).

Source: Klein and Tourville 2012, doi 10.3389/fnins.2012.00171; mindboggle.info/data.
"""

from collections import defaultdict
from pathlib import Path

from fewlabel.cohort import Case, Cohort, refuse

GROUPS = {
    "MMRR-21": 21,
    "NKI-RS-22": 22,
    "NKI-TRT-20": 20,
    "OASIS-TRT-20": 20,
    "HLN-12": 12,
    "MMRR-3T7T-2": 2,
    "Twins-2": 2,
    "Afterthought": 1,
    "Colin27": 1,
}
"""People in each group."""
HELD_OUT = "NKI-RS-22"
"""The group that xu2019 validates and tests on."""
_SCAN, _LABELS = "t1weighted_brain.nii.gz", "labels.DKT31.manual+aseg.nii.gz"


def mindboggle101(download: Path) -> Cohort:
    """The groups that are there, each whole, with labels in the protocol dktaseg.

    The people of NKI-RS-22 test and the others train; a group that is there alone is not split.

    Args:
        download: Folder in which archives were unpacked.

    Raises:
        CohortError: Naming every group that is not whole, and every file that is missing.
    """
    people: dict[str, list[Path]] = defaultdict(list)
    for folder in sorted(path for path in download.rglob("*-*") if path.is_dir()):
        group = next((name for name in GROUPS if folder.name.startswith(f"{name}-")), None)
        if group and folder.name.removeprefix(f"{group}-").isdigit():
            people[group].append(folder)
    problems = [] if people else [f"there is none of {', '.join(GROUPS)}."]
    cases = []
    for group, folders in people.items():
        if len(folders) != GROUPS[group]:
            problems.append(f"{group} has {len(folders)} people, needed are {GROUPS[group]}.")
        for folder in folders:
            gone = [name for name in (_SCAN, _LABELS) if not (folder / name).is_file()]
            if gone:
                problems.append(f"{folder} has no {', no '.join(gone)}.")
            split = "" if len(people) == 1 else "test" if group == HELD_OUT else "train"
            family = group if group.startswith("Twins") else folder.name
            cases.append(
                Case(
                    id=folder.name,
                    person=folder.name,
                    family=family,
                    scans={"T1w": folder / _SCAN},
                    labels=folder / _LABELS,
                    protocol="dktaseg",
                    site=group,
                    split=split,
                )
            )
    refuse(
        f"The download of Mindboggle-101 in {download}",
        problems,
        fix="unpack GROUP_volumes.tar.gz of each group again, so that below this folder there is"
        " one for each person, such as OASIS-TRT-20-1.",
    )
    return Cohort(tuple(cases))
