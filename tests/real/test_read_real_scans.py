"""Every real scan at hand is read without refusal, and no label map passes for a scan."""

import math
from pathlib import Path

import nibabel
import numpy as np
import pytest

from fewlabel.errors import ScanError
from fewlabel.io import read_scan

DATA = Path(__file__).parents[3] / "shared" / "data"
SCANS = sorted(p for p in DATA.glob("*/sub-*/anat/*.nii.gz") if not p.stem.endswith("dseg.nii"))
LABELS = sorted(DATA.glob("**/*_dseg.nii.gz"))
SETS = sorted({p.relative_to(DATA).parts[0] for p in SCANS})
LABELED = sorted({p.relative_to(DATA).parts[0] for p in LABELS})

pytestmark = pytest.mark.skipif(not SCANS, reason="the real scans of ../shared/data are not here")


def of(name, paths):
    return [path for path in paths if path.relative_to(DATA).parts[0] == name]


@pytest.mark.parametrize("name", SETS)
def test_real_scans_are_read(name):
    for path in of(name, SCANS):
        scan = read_scan(path)
        assert scan.notes == (), path
        assert scan.data.dtype == np.float32
        assert all(math.isfinite(mm) for mm in scan.grid.spacing_mm)


@pytest.mark.parametrize("name", SETS)
def test_real_scans_are_read_as_nibabel_reads_them(name):
    path = of(name, SCANS)[0]
    scan, image = read_scan(path), nibabel.load(path)
    np.testing.assert_array_equal(scan.data, image.get_fdata(dtype=np.float32))
    np.testing.assert_array_equal(scan.grid.affine, image.affine)


@pytest.mark.parametrize("name", LABELED)
def test_real_label_maps_do_not_pass_for_scans(name):
    for path in of(name, LABELS)[:8]:
        with pytest.raises(ScanError, match="looks like a label map"):
            read_scan(path)
