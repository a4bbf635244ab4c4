"""The data of dai2019, as a licensed user downloads them: MALC, HAA and UK Biobank.

None of the three may be passed on, and none came with us: folders and names are as their authors
and users describe them.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from fewlabel.cohort import Case, Cohort, refuse
from fewlabel.datasets.found import Found, and_more, stem_of
from fewlabel.errors import CohortError

_MALC = {"training": (15, "train"), "testing": (20, "test")}
_MALC_NAME = re.compile(r"\d{4}_\d+")
_HAA, _HAA_SPLIT = 20, {"train": 5, "val": 2, "test": 13}
_UKB_FOLDER = re.compile(r"(\d+)_20252_(\d+)_\d+")
_UKB_LABELS = "T1/T1_first/T1_first_all_fast_firstseg.nii.gz"


def malc(download: Path) -> Cohort:
    """MICCAI 2012 multi-atlas labeling challenge: 15 scans to train on, 20 to test on.

    The release unpacks to `training-images/1000_3.nii.gz`, `training-labels/1000_3_glm.nii.gz`
    and the same for `testing`. Five of the test scans are second visits, which dai2019 leaves
    out; the release's names do not say of whom, so each scan counts as a person of its own here.
    Fill in the column `person` of the manifest from Neuromorphometrics's list before you split
    anew.

    Args:
        download: The folder that holds these four, at any depth.

    Raises:
        CohortError: Naming every file that is missing.

    Source:
        Landman and Warfield 2012, MICCAI workshop on multi-atlas labeling.
    """
    problems: list[str] = []
    cases: list[Case] = []
    for part, (count, split) in _MALC.items():
        images = _volumes(_folder(download, f"{part}-images"), _MALC_NAME)
        labels = _volumes(_folder(download, f"{part}-labels"), re.compile(r"\d{4}_\d+_glm"))
        if len(images) != count:
            problems.append(f"{part}-images has {len(images)} scans, needed are {count}.")
        lacking = [name for name in images if f"{name}_glm" not in labels]
        problems += [f"{part}-labels has no {name}_glm.nii.gz." for name in lacking]
        cases += [
            _case(f"malc-{name}", scan, labels.get(f"{name}_glm"), "neuromorphometrics138", split)
            for name, scan in images.items()
        ]
    refuse(
        f"The download of MALC in {download}",
        problems,
        fix="unpack the release again; it has the folders training-images, training-labels,"
        " testing-images and testing-labels.",
    )
    return Cohort(tuple(cases))


def haa(download: Path) -> Cohort:
    """Hammers adult atlases: 20 people with 67 regions, 5 to train on, 2 to validate, 13 to test.

    Images are `a01.nii` to `a20.nii`, label maps `a01-seg.nii` to `a20-seg.nii`, gzipped or not,
    at any depth. The paper does not say who was in which part; they are taken in order.

    Args:
        download: Folder in which the archives were unpacked.

    Raises:
        CohortError: Naming every file that is missing.

    Source:
        Hammers et al. 2003, doi 10.1002/hbm.10123.
    """
    images = _volumes(download, re.compile(r"a\d\d"))
    labels = _volumes(download, re.compile(r"a\d\d-seg"))
    names = [f"a{number:02d}" for number in range(1, _HAA + 1)]
    problems = [f"there is no {name}.nii." for name in names if name not in images]
    problems += [f"there is no {name}-seg.nii." for name in names if f"{name}-seg" not in labels]
    refuse(
        f"The download of the Hammers atlases in {download}",
        problems,
        fix="unpack the archive of 20 people and 67 regions again.",
    )
    splits = [split for split, count in _HAA_SPLIT.items() for _ in range(count)]
    return Cohort(
        tuple(
            _case(f"haa-{name}", images[name], labels[f"{name}-seg"], "hammers67", split)
            for name, split in zip(names, splits, strict=True)
        )
    )


def ukb_first(download: Path) -> Found:
    """UK Biobank scans with the structures that its own pipeline drew with FSL FIRST.

    The archives of bulk field 20252 unpack to `EID_20252_2_0/T1/T1.nii.gz` and
    `T1/T1_first/T1_first_all_fast_firstseg.nii.gz`. Scans without either are left
    out and counted: the pipeline calls some unusable.

    Args:
        download: Folder in which the archives were unpacked, one folder for each.

    Raises:
        CohortError: If no scan has both.

    Source:
        Alfaro-Almagro et al. 2018, doi 10.1016/j.neuroimage.2017.10.034.
    """
    cases, odd = [], []
    for folder in sorted(download.iterdir()):
        name = _UKB_FOLDER.fullmatch(folder.name)
        if name is None or not folder.is_dir():
            continue
        scan, labels = folder / "T1" / "T1.nii.gz", folder / _UKB_LABELS
        if not (scan.is_file() and labels.is_file()):
            odd.append(folder.name)
            continue
        person, visit = name.groups()
        case = _case(folder.name, scan, labels, "fsl15", "train")
        cases.append(replace(case, person=person, family=person, session=visit))
    if not cases:
        raise CohortError(
            f"{download} has no EID_20252_2_0/{_UKB_LABELS} beside T1/T1.nii.gz.",
            fix="unpack each archive of bulk field 20252 into a folder of its name.",
        )
    said = f"{len(odd)} scans lack T1.nii.gz or FIRST's result: {and_more(odd)}."
    return Found(Cohort(tuple(cases)), (said,) if odd else ())


def _case(name: str, scan: Path, labels: Path | None, protocol: str, split: str) -> Case:
    return Case(name, name, name, {"T1w": scan}, labels, protocol, split=split)


def _folder(download: Path, name: str) -> Path:
    """The folder of that name, at any depth; one that is not there if there is none."""
    return next((p for p in sorted(download.rglob(name)) if p.is_dir()), download / name)


def _volumes(folder: Path, pattern: re.Pattern[str]) -> dict[str, Path]:
    """Volumes by their name without ending, those whose name fits."""

    def found() -> Iterator[tuple[str, Path]]:
        for path in sorted(folder.rglob("*")):
            stem = stem_of(path.name)
            if stem and pattern.fullmatch(stem):
                yield stem, path

    return dict(found())
