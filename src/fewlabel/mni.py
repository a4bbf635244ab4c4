"""Rigid registration to MNI space: a scan's grid is turned and shifted, its voxels stay.

Source: dai2019, section 3.2. Departs from it: nothing is resampled to MNI first, so that a scan is
interpolated once, when it is conformed; and the result lies on the scan's own voxels.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache as once
from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np

from fewlabel import intensity
from fewlabel.affine import Matrix, affine_between, moved
from fewlabel.cache import Cache
from fewlabel.cohort import Case, of_each
from fewlabel.conform import conform, upright
from fewlabel.conformed import (
    Conformed,
    WorkingRule,
    cache_key,
    conform_cases,
    labels_of,
    labels_on,
    open_conformed,
)
from fewlabel.errors import CohortError
from fewlabel.io import read_scan
from fewlabel.patches import find_places
from fewlabel.volume import Scan

Space = Literal["native", "mni-rigid"]

TEMPLATE = Path(__file__).parent / "example" / "sub-icbm152_T1w.nii.gz"
"""The MNI ICBM152 2009a average of 152 adults, T1w."""
_VERSION = 1  # to be raised when the same files would be placed differently


def onto_mni(scan: Scan) -> Scan:
    """The same voxels, placed as in MNI space by a turn and a shift.

    Args:
        scan: Of a head or a brain, any orientation and contrast.

    Raises:
        ScanError: If it shows nothing.
    """
    return moved(scan, _matrix(scan))


def conform_in(
    space: Space, cases: Sequence[Case], rule: WorkingRule, cache: Cache
) -> list[Conformed]:
    """`conform_cases`, of scans as they are or placed as in MNI space.

    Raises:
        CohortError: Naming everything that is wrong with any of them.
        OutputError: If the cache cannot be written to.
    """
    if space == "native":
        return conform_cases(cases, rule, cache)
    lacking = [case.id for case in cases if not set(rule.modalities) <= set(case.scans)]
    if lacking:
        raise CohortError(
            f"There is no {' or no '.join(rule.modalities)} of {', '.join(lacking)}.",
            fix="leave these cases out, or train on modalities that all cases have.",
        )

    def place(case: Case) -> Conformed:
        protocol = case.drawn_in() if case.labels else None
        about = {"mni": _VERSION, "key": cache_key(case, rule, protocol)}
        key = sha256(json.dumps(about).encode()).hexdigest()[:32]
        return open_conformed(
            cache.entry(key, lambda folder: _make(folder, case, rule)), case, protocol
        )

    return of_each(place, cases)


def _make(folder: Path, case: Case, rule: WorkingRule) -> None:
    scans = [read_scan(case.scans[name]) for name in rule.modalities]
    matrix = _matrix(scans[0])  # of one session: the others lie where the first does
    target = upright(moved(scans[0], matrix).grid, rule.spacing_mm)
    scale = getattr(intensity, rule.intensity)
    image = np.stack([scale(conform(moved(scan, matrix), target).data) for scan in scans])
    np.save(folder / "image.npy", image)
    np.save(folder / "affine.npy", target.affine)
    if case.labels:
        protocol = case.drawn_in()
        labels = moved(labels_of(case.labels, protocol, scans[0]), matrix)
        empty = replace(labels, data=np.zeros_like(labels.data))
        classes = labels_on(labels, target).data
        classes[labels_on(empty, target).data < 0] = 0  # corners that the turned scan leaves free
        places = find_places(classes, protocol.n_classes)
        np.save(folder / "classes.npy", classes)
        np.save(folder / "places.npy", places.voxels)
        np.save(folder / "sizes.npy", places.sizes)


def _matrix(scan: Scan) -> Matrix:
    return affine_between(scan, _template(), rigid=True)


@once
def _template() -> Scan:
    return read_scan(TEMPLATE)
