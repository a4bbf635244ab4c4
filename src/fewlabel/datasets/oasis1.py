"""OASIS-1 as the neurite project prepared it: 414 scans, brain extracted, with four tissues.

`neurite-oasis.v1.0.tar` unpacks to `OASIS_OAS1_0001_MR1` and so on, each with `norm.nii.gz` and
`seg4.nii.gz`. Labels are FreeSurfer's, not drawn by hand.

Source: Marcus et al. 2007, doi 10.1162/jocn.2007.19.9.1498; Hoopes et al. 2021, HyperMorph;
github.com/adalca/medical-datasets.
"""

import re
from pathlib import Path

from fewlabel.cohort import Case, Cohort, refuse

COUNT = 414
_NAME = re.compile(r"OASIS_(OAS1_\d{4})_MR(\d)")
_SCAN, _LABELS = "norm.nii.gz", "seg4.nii.gz"


def oasis1(download: Path) -> Cohort:
    """All scans; not split. Two scans of one person bear the same `person`.

    Args:
        download: Folder in which the archive was unpacked.

    Raises:
        CohortError: If there are not 414 scans, and naming every file that is missing.
    """
    found = [(match, path) for path in sorted(download.rglob("OASIS_OAS1_*"))
             if path.is_dir() and (match := _NAME.fullmatch(path.name))]  # fmt: skip
    problems = []
    if len(found) != COUNT:
        problems.append(f"there are {len(found)} folders OASIS_OAS1_*, needed are {COUNT}.")
    cases = []
    for match, folder in found:
        gone = [name for name in (_SCAN, _LABELS) if not (folder / name).is_file()]
        if gone:
            problems.append(f"{folder} has no {', no '.join(gone)}.")
        scans = {"T1w": folder / _SCAN}
        name, person = f"{match[1]}_MR{match[2]}", match[1]
        cases.append(
            Case(name, person, person, scans, folder / _LABELS, "oasis4", session=f"MR{match[2]}")
        )
    refuse(
        f"The download of OASIS-1 in {download}",
        problems,
        fix="unpack neurite-oasis.v1.0.tar again; raw scans of OASIS-1 have no label maps.",
    )
    return Cohort(tuple(cases))
