"""Knees of the Osteoarthritis Initiative with bones and cartilage: the set OAIZIB-CM.

It comes as nnU-Net lays data out: `imagesTr/oaizib_001_0000.nii.gz` with
`labelsTr/oaizib_001.nii.gz`, 404 to train, and `imagesTs`, `labelsTs`, 103 to test.

Source: Ambellan et al. 2019, doi 10.1016/j.media.2018.11.009; Yao et al. 2024, doi
10.1016/j.media.2023.103035 (CartiMorph).
"""

from pathlib import Path

from fewlabel.cohort import Case, Cohort, refuse

COUNTS = {"Tr": (404, "train"), "Ts": (103, "test")}
_ENDING = "_0000.nii.gz"


def oai_knees(download: Path) -> Cohort:
    """All knees, split as published, with labels in the protocol knee5.

    Args:
        download: Folder that holds imagesTr, labelsTr, imagesTs and labelsTs.

    Raises:
        CohortError: Naming every folder that has another number of scans than published, and
            every scan without labels.
    """
    problems: list[str] = []
    cases: list[Case] = []
    for part, (count, split) in COUNTS.items():
        images = sorted((download / f"images{part}").glob(f"*{_ENDING}"))
        if len(images) != count:
            problems.append(f"images{part} has {len(images)} scans, needed are {count}.")
        for image in images:
            name = image.name.removesuffix(_ENDING)
            labels = download / f"labels{part}" / f"{name}.nii.gz"
            if not labels.is_file():
                problems.append(f"{image.name} has no {labels}.")
            cases.append(Case(name, name, name, {"DESS": image}, labels, "knee5", split=split))
    refuse(
        f"The download of OAI knees in {download}",
        problems,
        fix="download OAIZIB-CM again, whole; give the folder that holds imagesTr.",
    )
    return Cohort(tuple(cases))
