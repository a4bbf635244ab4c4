import numpy as np
import pytest

from fewlabel.errors import ConfigError, GridMismatch
from fewlabel.grid import Grid
from fewlabel.labels import Label, LabelProtocol
from fewlabel.register import How, register
from fewlabel.volume import LabelMap
from fewlabel.warp import on_grid, warp_scan
from tests.heads import box, head
from tests.test_affine import pose

pytest.importorskip("torch")

PARTS = LabelProtocol("parts", (Label(7, "head"), Label(9, "bright")))


def labels_of(scan):
    classes = (scan.data > 0.25).astype(np.int16) + (scan.data > 0.7)
    return LabelMap(classes.astype(np.int16), scan.grid, PARTS)


def overlap(a, b, number):
    a, b = a.data == number, b.data == number
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def bent(grid):
    """The head with its upper part pushed up to 5 mm to the right."""
    affine = pose((6, 0, 4), (5, -3, 2))
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"))
    z = grid.affine[2, 2] * index[2] + grid.affine[2, 3]
    slices = []
    for k in range(grid.shape[2]):
        push = pose((0, 0, 0), (5 / (1 + np.exp(-z[0, 0, k] / 8)), 0, 0))
        one = Grid((*grid.shape[:2], 1), grid.affine @ pose((0, 0, 0), (0, 0, k)))
        slices.append(head(one, push @ affine).data)
    return type(head(box(6)))(np.concatenate(slices, axis=2), grid)


def test_deformation_carries_labels_better_than_the_affine_start():
    moving, fixed = head(box(4.0)), bent(box(4.0))
    truth = labels_of(fixed)
    rough = register(moving, fixed, labels=labels_of(moving), how=How(deform=False))
    fine = register(moving, fixed, labels=labels_of(moving), how=How(refine=10, spacing_mm=4.0))
    assert fine.labels.grid.matches(fixed.grid)
    assert fine.similarity[1] > fine.similarity[0] + 0.01
    assert overlap(fine.labels, truth, 2) > max(0.9, overlap(rough.labels, truth, 2))
    assert fine.folds.share < 0.005
    again = warp_scan(moving, on_grid(fine.displacement, fixed.grid))
    assert np.allclose(again.data, fine.warped.data, atol=0.02)


def test_results_do_not_depend_on_how_the_fixed_scan_is_stored():
    moving, fixed = head(box(4.0)), bent(box(4.0))
    affine = fixed.grid.affine @ np.array(
        [[-1, 0, 0, fixed.grid.shape[0] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]
    )
    stored = type(fixed)(np.ascontiguousarray(fixed.data[::-1]), Grid(fixed.grid.shape, affine))
    how = How(refine=2, spacing_mm=4.0)
    one, other = register(moving, fixed, how=how), register(moving, stored, how=how)
    assert np.allclose(one.warped.data, other.warped.data[::-1], atol=0.02)


def test_settings_out_of_range_and_foreign_labels_are_refused():
    with pytest.raises(ConfigError, match="refine is -1"):
        How(refine=-1)
    with pytest.raises(ConfigError, match="spacing_mm is 20"):
        How(spacing_mm=20.0)
    with pytest.raises(GridMismatch, match="the moving scan and its labels"):
        register(head(box(6)), head(box(6)), labels=labels_of(head(box())))
