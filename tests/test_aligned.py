import numpy as np

from fewlabel.aligned import align_cases
from fewlabel.cache import Cache
from fewlabel.cohort import Case
from fewlabel.conformed import WorkingRule
from fewlabel.io import write_labels
from fewlabel.labels import load_protocol
from fewlabel.volume import LabelMap
from fewlabel.warp_io import write_scan
from tests.heads import box, head
from tests.test_affine import pose


def case(folder, name, matrix=None):
    """A head with two structures, seen through a moved eye."""
    scan = head(box(5.0), matrix)
    classes = ((scan.data > 0.25).astype(np.int16) + (scan.data > 0.7)).astype(np.int16)
    write_scan(scan, folder / f"{name}.nii.gz")
    labels = LabelMap(classes, scan.grid, load_protocol("hippocampus2"))
    write_labels(labels, folder / f"{name}_dseg.nii.gz")
    path = folder / f"{name}_dseg.nii.gz"
    return Case(name, name, name, {"T1w": folder / f"{name}.nii.gz"}, path, "hippocampus2")


def test_scans_and_labels_of_all_come_to_lie_where_the_first_is(tmp_path):
    """20 mm and 10 degrees apart before; four 5 mm voxels."""
    cases = [case(tmp_path, "a"), case(tmp_path, "b", pose((0, 0, 10), (20, 0, 0)))]
    rule, cache = WorkingRule(spacing_mm=5.0), Cache(tmp_path / "cache")

    first, second = align_cases(cases, rule, 4, cache)

    assert first.grid.matches(second.grid)
    assert all(n % 4 == 0 for n in first.grid.shape)
    assert first.classes.min() == second.classes.min() == 0  # beyond a map is background
    both = ((first.classes == 2) & (second.classes == 2)).sum()
    assert 2 * both / ((first.classes == 2).sum() + (second.classes == 2).sum()) > 0.8
    again = align_cases(cases, rule, 4, cache)[1]
    assert np.array_equal(again.image, second.image)
    assert len(list(cache.folder.iterdir())) == 2
