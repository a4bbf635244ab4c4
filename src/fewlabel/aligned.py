"""Scans of many people in one place: each is moved onto a reference by an affine map, once."""

import json
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np

from fewlabel import intensity
from fewlabel.affine import affine_between, moved
from fewlabel.cache import Cache
from fewlabel.cohort import Case, of_each
from fewlabel.conform import conform
from fewlabel.conformed import (
    Conformed,
    WorkingRule,
    cache_key,
    labels_of,
    labels_on,
    open_conformed,
)
from fewlabel.errors import CohortError
from fewlabel.field import around_body
from fewlabel.io import read_scan
from fewlabel.patches import find_places

_VERSION = 1  # to be raised when the same files would be aligned differently


def align_cases(
    cases: Sequence[Case], rule: WorkingRule, multiple: int, cache: Cache
) -> list[Conformed]:
    """Move the cases onto the first one, or find them in the cache.

    Only the first modality of the rule is taken. Labels beyond a label map are background, as
    intensities beyond a scan are dark.

    Args:
        cases: At least one.
        rule: Voxel size and intensities.
        multiple: All have the same grid, with a whole multiple of so many voxels along each
            axis.
        cache: Where they are kept.

    Raises:
        CohortError: Naming everything that is wrong with any of them.
        OutputError: If the cache cannot be written to.
    """
    modality = rule.modalities[0]
    lacking = [case.id for case in cases if modality not in case.scans]
    if lacking:
        raise CohortError(
            f"There is no {modality} of {', '.join(lacking)}.",
            fix="leave these cases out, or train on a modality that all cases have.",
        )
    first = replace(cases[0], labels=None)

    def align(case: Case) -> Conformed:
        protocol = case.drawn_in() if case.labels else None
        keys = [cache_key(first, rule, None), cache_key(case, rule, protocol)]
        about = json.dumps({"version": _VERSION, "multiple": multiple, "keys": keys})
        key = sha256(about.encode()).hexdigest()[:32]
        place = cache.entry(key, lambda folder: _make(folder, case, first, rule, multiple))
        return open_conformed(place, case, protocol)

    return of_each(align, cases)


def _make(folder: Path, case: Case, first: Case, rule: WorkingRule, multiple: int) -> None:
    modality = rule.modalities[0]
    fixed, scan = read_scan(first.scans[modality]), read_scan(case.scans[modality])
    grid = around_body(fixed, rule.spacing_mm, multiple)
    matrix = np.eye(4) if case.id == first.id else affine_between(scan, fixed)
    scale = getattr(intensity, rule.intensity)
    np.save(folder / "image.npy", scale(conform(moved(scan, matrix), grid).data)[None])
    np.save(folder / "affine.npy", grid.affine)
    if case.labels:
        protocol = case.drawn_in()
        labels = moved(labels_of(case.labels, protocol, scan), matrix)
        empty = replace(labels, data=np.zeros_like(labels.data))
        classes = labels_on(labels, grid).data
        classes[labels_on(empty, grid).data < 0] = 0
        places = find_places(classes, protocol.n_classes)
        np.save(folder / "classes.npy", classes)
        np.save(folder / "places.npy", places.voxels)
        np.save(folder / "sizes.npy", places.sizes)
