"""How well two label maps agree: overlap, distances between surfaces, volumes.

One rule for structures that are not there, the same for every number below:

- **absent on both sides**: there is nothing to agree on, the score is NaN, averages leave it out;
- **present on one side only**: Dice is 0, distances are infinite (there is no surface to reach),
  the volume difference is what it is;
- **voxels that nobody annotated** (-1, on either side) are not counted, and no surface runs along
  them: a structure that is cut off where the annotation ends has no border there.

Predictions are mapped to the reference's protocol first. What the reference's protocol does not
draw must be left out of it before (`fewlabel.labels.shared_protocol`).
"""

import math
from collections.abc import Callable, Collection
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float64, Int16, Int64

from fewlabel.errors import ConfigError
from fewlabel.volume import LabelMap, require_same_grid

Scores = dict[str, float]
Points = Float64[np.ndarray, "_ 3"]
Distances = tuple[Float64[np.ndarray, "_"], Float64[np.ndarray, "_"]]


def dice(predicted: LabelMap, reference: LabelMap) -> Scores:
    """Dice overlap of every structure in the reference protocol.

    Args:
        predicted: Labels to score, on the reference's grid.
        reference: Labels taken as the truth.

    Returns:
        Structure name to overlap in [0, 1] (no unit), or NaN where both sides lack it.

    Raises:
        GridMismatch: If the two maps do not share voxels.

    Source:
        xu2017, section 4, DC.
    """
    counts = joint_counts(predicted, reference)
    both, sizes = np.diag(counts), counts.sum(0) + counts.sum(1)
    shares = (2 * int(b) / int(s) if s else math.nan for b, s in zip(both, sizes, strict=True))
    return _by_name(reference, list(shares))


def hausdorff95_mm(predicted: LabelMap, reference: LabelMap) -> Scores:
    """Robust Hausdorff distance: how far the surfaces are apart at worst, but for 5 %.

    From every surface voxel the distance to the other side's nearest surface voxel; of each of
    the two lists the 95th percentile (linear between neighbors); the larger of the two.

    Args:
        predicted: Labels to score, on the reference's grid.
        reference: Labels taken as the truth.

    Returns:
        Structure name to mm; NaN where both sides lack it, infinite where one does.

    Raises:
        GridMismatch: If the two maps do not share voxels.

    Source:
        xu2017, section 4, HD. Departs from it: the paper's "modified" distance is not defined
        there; this is the 95th percentile that MRBrainS13 ranks by.
    """
    found = surface_distances_mm(predicted, reference)
    return {name: _hausdorff95(distances) for name, distances in found.items()}


def mean_surface_distance_mm(predicted: LabelMap, reference: LabelMap) -> Scores:
    """Mean distance between the surfaces, over the surface voxels of both sides together.

    Args:
        predicted: Labels to score, on the reference's grid.
        reference: Labels taken as the truth.

    Returns:
        Structure name to mm; NaN where both sides lack it, infinite where one does.

    Raises:
        GridMismatch: If the two maps do not share voxels.

    Source:
        xu2017, section 4, MSD.
    """
    found = surface_distances_mm(predicted, reference)
    return {name: _mean_distance(distances) for name, distances in found.items()}


def volumes_mm3(labels: LabelMap) -> Scores:
    """Volume of every structure of the protocol in mm3; 0 for those that are absent."""
    n = labels.protocol.n_classes + 1
    counts = np.zeros(n, dtype=np.int64)
    for plane in labels.data:  # at once, counting takes eight bytes for each voxel
        counts += np.bincount(plane.ravel() + 1, minlength=n)
    return _by_name(labels, [int(count) * labels.grid.voxel_mm3 for count in counts[1:]])


def predicted_volume_mm3(predicted: LabelMap, reference: LabelMap) -> Scores:
    """Predicted volumes in mm3, where both sides were annotated; NaN if absent in both."""
    counts = joint_counts(predicted, reference)
    return _volumes(counts, counts.sum(0), reference)


def reference_volume_mm3(predicted: LabelMap, reference: LabelMap) -> Scores:
    """Reference volumes in mm3, where both sides were annotated; NaN if absent in both."""
    counts = joint_counts(predicted, reference)
    return _volumes(counts, counts.sum(1), reference)


def volume_difference_mm3(predicted: LabelMap, reference: LabelMap) -> Scores:
    """Predicted less reference volume in mm3, where both were annotated; NaN if absent in both."""
    counts = joint_counts(predicted, reference)
    return _volumes(counts, counts.sum(0) - counts.sum(1), reference)


def intraclass_correlation(values: Float64[np.ndarray, "cases raters"]) -> float:
    """ICC(2,1): two-way random effects, absolute agreement, one measurement.

    Unlike a plain correlation it drops when one side is too large throughout.

    Args:
        values: One row per case, one column per rater (predicted and reference volumes).

    Returns:
        At most 1 (no unit); NaN with fewer than two cases or raters, or if nothing varies.

    Source:
        Shrout and Fleiss 1979, Psychological Bulletin 86, case 2.
    """
    n, k = values.shape
    if n < 2 or k < 2:
        return math.nan
    grand, rows, columns = values.mean(), values.mean(1), values.mean(0)
    between_rows = k * float(((rows - grand) ** 2).sum()) / (n - 1)
    between_columns = n * float(((columns - grand) ** 2).sum()) / (k - 1)
    left_over = values - rows[:, None] - columns[None] + grand
    error = float((left_over**2).sum()) / ((n - 1) * (k - 1))
    spread = between_rows + (k - 1) * error + k * (between_columns - error) / n
    return (between_rows - error) / spread if spread > 0 else math.nan


MEASURES: dict[str, tuple[Callable[[LabelMap, LabelMap], Scores], str]] = {
    "dice": (dice, ""),
    "hausdorff95": (hausdorff95_mm, "mm"),
    "mean_surface_distance": (mean_surface_distance_mm, "mm"),
    "volume_difference": (volume_difference_mm3, "mm3"),
    "volume": (predicted_volume_mm3, "mm3"),
    "reference_volume": (reference_volume_mm3, "mm3"),
}
"""What can be asked for by name: the function, and its unit."""


def require_metrics(names: Collection[str]) -> None:
    """Refuse names of metrics that there are not.

    Raises:
        ConfigError: Naming the first.
    """
    for name in names:
        if name not in MEASURES:
            raise ConfigError(
                f"There is no metric {name!r}.", fix=f"use any of {', '.join(MEASURES)}."
            )


def measure(predicted: LabelMap, reference: LabelMap, names: Collection[str]) -> dict[str, Scores]:
    """Several metrics of one pair; surfaces are measured once for both distances.

    Args:
        predicted: Labels to score, on the reference's grid.
        reference: Labels taken as the truth.
        names: Keys of `MEASURES`.

    Returns:
        Metric to structure to value.

    Raises:
        ConfigError: If there is no metric of that name.
        GridMismatch: If the two maps do not share voxels.
    """
    require_metrics(names)
    on_surfaces = {"hausdorff95": _hausdorff95, "mean_surface_distance": _mean_distance}
    wanted = [name for name in names if name in on_surfaces]
    surfaces = surface_distances_mm(predicted, reference) if wanted else {}
    return {
        name: {s: on_surfaces[name](d) for s, d in surfaces.items()}
        if name in on_surfaces
        else MEASURES[name][0](predicted, reference)
        for name in names
    }


def joint_counts(
    predicted: LabelMap, reference: LabelMap
) -> Int64[np.ndarray, "classes predicted_classes"]:
    """Voxels per pair of classes (reference down, predicted across), where both are annotated.

    Raises:
        GridMismatch: If the two maps do not share voxels.
    """
    require_same_grid(predicted, reference, doing="comparing labels")
    mapped, n = predicted.to(reference.protocol).data, reference.protocol.n_classes + 1
    counts = np.zeros(n * n, dtype=np.int64)
    for ours, theirs in zip(mapped, reference.data, strict=True):  # by slice: little memory
        pairs = (theirs.astype(np.intp) + 1) * n + (ours + 1)
        counts += np.bincount(pairs.ravel(), minlength=n * n)
    return counts.reshape(n, n)[1:, 1:]


def surface_distances_mm(predicted: LabelMap, reference: LabelMap) -> dict[str, Distances]:
    """From each surface voxel of either side to the nearest one of the other, in mm.

    A surface voxel belongs to the structure and shares a face with an annotated voxel that does
    not, or with the end of the volume. Distances run between voxel centers.

    Args:
        predicted: Labels to score, on the reference's grid.
        reference: Labels taken as the truth.

    Returns:
        Structure name to (from predicted, from reference); infinite where the other side has
        no surface, two empty lists where neither has.

    Raises:
        GridMismatch: If the two maps do not share voxels.
    """
    require_same_grid(predicted, reference, doing="comparing labels")
    mapped, truth = predicted.to(reference.protocol).data, reference.data
    known = (mapped >= 0) & (truth >= 0)
    to_mm, n = reference.grid.affine[:3, :3], reference.protocol.n_classes
    sides = [_surface_points(np.where(known, data, -1), to_mm, n) for data in (mapped, truth)]
    return {
        name: (_nearest(ours, theirs), _nearest(theirs, ours))
        for name, ours, theirs in zip(reference.protocol.names, *sides, strict=True)
    }


def _surface_points(
    data: Int16[np.ndarray, "i j k"], to_mm: Float64[np.ndarray, "3 3"], n_classes: int
) -> list[Points]:
    """Surface voxels of classes 1 to n - 1, in mm, all classes in one pass over the volume."""
    index = np.argwhere(_on_surface(data))
    classes = data[tuple(index.T)]
    order = np.argsort(classes, kind="stable")
    starts = np.searchsorted(classes[order], np.arange(1, n_classes + 1))
    points = (index[order] @ to_mm.T).astype(np.float64)
    return [points[a:b] for a, b in pairwise(starts)]


def _on_surface(data: Int16[np.ndarray, "i j k"]) -> Bool[np.ndarray, "i j k"]:
    """Structure voxels with another, annotated class (or nothing at all) across a face."""
    surface = np.zeros(data.shape, dtype=bool)
    for axis in range(3):
        along, found = np.moveaxis(data, axis, 0), np.moveaxis(surface, axis, 0)
        differs = (along[1:] != along[:-1]) & (along[1:] >= 0) & (along[:-1] >= 0)
        found[1:] |= differs
        found[:-1] |= differs
        found[[0, -1]] = True
    return surface & (data > 0)


def _nearest(points: Points, others: Points) -> Float64[np.ndarray, "_"]:
    if not len(points) or not len(others):
        return np.full(len(points), np.inf)
    from scipy.spatial import cKDTree  # 0.2 s to import, and prediction does without

    distances: np.ndarray = cKDTree(others).query(points)[0]
    return distances


def _hausdorff95(distances: Distances) -> float:
    if not any(map(len, distances)):
        return math.nan
    if not all(map(len, distances)):
        return math.inf
    return max(float(np.percentile(side, 95)) for side in distances)


def _mean_distance(distances: Distances) -> float:
    return float(np.concatenate(distances).mean()) if any(map(len, distances)) else math.nan


def _volumes(
    counts: Int64[np.ndarray, "classes classes"],
    voxels: Int64[np.ndarray, "classes"],
    reference: LabelMap,
) -> Scores:
    present, mm3 = counts.sum(0) + counts.sum(1) > 0, reference.grid.voxel_mm3
    return _by_name(reference, np.where(present, voxels * mm3, math.nan).tolist())


def _by_name(labels: LabelMap, per_class: list[float]) -> Scores:
    return dict(zip(labels.protocol.names, map(float, per_class[1:]), strict=True))
