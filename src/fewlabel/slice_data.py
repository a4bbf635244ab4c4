"""Labeled scans as three-slice images to learn from."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int16

from fewlabel.cohort import Case
from fewlabel.conform import turned
from fewlabel.errors import CohortError
from fewlabel.grid import Grid
from fewlabel.io import read_labels, read_scan
from fewlabel.labels import LabelProtocol
from fewlabel.slices import SliceRule, Volumes, prepare, three_slices
from fewlabel.volume import LabelMap, require_same_grid


@dataclass(frozen=True, eq=False)
class LabeledSlices:
    """A case, ready to be shown slice by slice.

    Attributes:
        volumes: Shades by name.
        classes: Labels, on the same voxels.
        axes: Voxel axes along which slices are counted.
    """

    volumes: Volumes
    classes: Int16[np.ndarray, "i j k"]
    axes: tuple[int, ...]

    def slices(self) -> list[tuple[int, int]]:
        """Axis and number of every slice."""
        return [(axis, n) for axis in self.axes for n in range(self.classes.shape[axis])]

    def image(self, rule: SliceRule, axis: int, n: int) -> tuple[np.ndarray, np.ndarray]:
        """A three-slice image, shape (3, h, w), and its labels, shape (h, w)."""
        return three_slices(self.volumes, rule.colors, axis, n), self.classes.take(n, axis)


def load_case(case: Case, rule: SliceRule, protocol: LabelProtocol) -> LabeledSlices:
    """Read a case and bring it to where a network of slices looks.

    Raises:
        CohortError: If it lacks a modality or labels, or its labels say less than `protocol`.
        FewlabelError: If a file cannot be used, or scan and labels are on different voxels.
    """
    lacking = [modality for modality in rule.modalities if modality not in case.scans]
    if lacking or case.labels is None:
        raise CohortError(
            f"Case {case.id} has no {' and no '.join(lacking) or 'labels'}.",
            fix="complete its line in the manifest, or take it out of the split.",
        )
    drawn = case.drawn_in() if case.protocol else protocol
    unseen = set(protocol.names) - set(drawn.covers(protocol))
    if unseen or case.looked_for is not None:
        raise CohortError(
            f"The labels of case {case.id} ({drawn.name}) do not tell all of {protocol.name}"
            f" apart{': ' + ', '.join(sorted(unseen)) if unseen else ''}.",
            fix="set `protocol` to what all cases are labeled in.",
        )
    scans = {modality: read_scan(case.scans[modality]) for modality in rule.modalities}
    labels = read_labels(case.labels, drawn)
    require_same_grid(scans[rule.modalities[0]], labels, doing=f"training on case {case.id}")
    volumes, grid = prepare(scans, rule)
    classes = nearest_labels(labels.to(protocol), grid)
    return LabeledSlices(volumes, classes, rule.axis_numbers(grid))


def nearest_labels(labels: LabelMap, grid: Grid) -> Int16[np.ndarray, "i j k"]:
    """The label of the nearest voxel; background beyond the map.

    Args:
        labels: Any orientation.
        grid: One whose axes run along those of the map, turned; see `slices.slice_grid`.
    """
    source, data = turned(labels)
    move: Float64[np.ndarray, "4 4"] = np.linalg.inv(source.affine) @ grid.affine
    found = data
    for axis in range(3):
        at = np.rint(np.round(move[axis, axis] * np.arange(grid.shape[axis]) + move[axis, 3], 5))
        inside = (at >= 0) & (at < source.shape[axis])
        found = found.take(np.clip(at, 0, source.shape[axis] - 1).astype(int), axis)
        found.swapaxes(0, axis)[~inside] = 0
    return np.ascontiguousarray(found)
