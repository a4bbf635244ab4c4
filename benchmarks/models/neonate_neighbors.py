"""What the labels of the week before would score: a floor, and how much the labels wander.

    python -m benchmarks.models.neonate_neighbors [--data ../shared/data]

The label map of each week of neonatal-templates is brought onto the next week's and scored against
it, in two ways:

- **scaled** along each axis onto the extent of the other map, voxel to nearest voxel;
- **registered**: bent as the T2w image has to be to fit that of the next week (`fewlabel register`,
  60 steps on voxels of 0.86 mm).

Rows go to benchmarks/results/neonate-drawem9_neighbors.csv: mean Dice over the 16 pairs, and the
least and most volume that any week has, in mm3.
"""

import argparse
import statistics
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy.ndimage import affine_transform

from benchmarks.common import RESULTS, add_rows, provenance
from benchmarks.papers.richter2022_data import weeks
from fewlabel.cohort import Case
from fewlabel.io import read_labels, read_scan
from fewlabel.labels import LabelProtocol, load_protocol
from fewlabel.metrics import dice, volumes_mm3
from fewlabel.register import How, register
from fewlabel.volume import LabelMap

SPACING = 0.86
TABLE = RESULTS / "neonate-drawem9_neighbors.csv"


def scaled_onto(labels: LabelMap, other: LabelMap) -> LabelMap:
    """The labels of one brain, stretched onto the extent of another."""
    (low, high), (start, end) = (
        (at.min(axis=0), at.max(axis=0))
        for at in (np.argwhere(one.data > 0) for one in (labels, other))
    )
    size = (high - low) / (end - start)
    moved = affine_transform(
        labels.data, np.diag(size), offset=low - size * start, order=0,
        output_shape=other.data.shape,
    )  # fmt: skip
    return LabelMap(moved, other.grid, labels.protocol)


def registered_onto(one: Case, other: Case, named: LabelProtocol) -> LabelMap:
    """The labels of one brain, bent as its T2w image is to fit the other's."""
    assert one.labels is not None
    moving, fixed = (read_scan(case.scans["T2w"]) for case in (one, other))
    labels = read_labels(one.labels, named)
    found = register(moving, fixed, labels=labels, how=How(refine=60, spacing_mm=SPACING)).labels
    assert found is not None
    return found


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--data", type=Path, default=Path("../shared/data"))
    asked = ask.parse_args()
    named = load_protocol("serag9")
    cases = weeks(asked.data)
    maps = [read_labels(case.labels, named) for case in cases if case.labels]
    volumes = [volumes_mm3(one) for one in maps]
    pairs: dict[str, list[dict[str, float]]] = {"scaled": [], "registered": []}
    for (one, other), (a, b) in zip(pairwise(cases), pairwise(maps), strict=True):
        pairs["scaled"].append(dice(scaled_onto(a, b), b))
        pairs["registered"].append(dice(registered_onto(one, other, named), b))
        means = [f"{way} {statistics.fmean(pairs[way][-1].values()):.3f}" for way in pairs]
        print(other.id, *means, flush=True)
    rows = [
        provenance("")
        | {"way": way, "structure": name, "pairs": len(found),
           "dice": f"{statistics.fmean(pair[name] for pair in found):.4f}",
           "least_mm3": f"{min(one[name] for one in volumes):.0f}",
           "most_mm3": f"{max(one[name] for one in volumes):.0f}"}
        for way, found in pairs.items()
        for name in maps[0].protocol.names
    ]  # fmt: skip
    TABLE.unlink(missing_ok=True)
    add_rows(TABLE, rows)
    print("| structure | scaled | registered | least to most mm3 |\n|---|---|---|---|")
    for one, other in zip(rows[: len(volumes[0])], rows[len(volumes[0]) :], strict=True):
        sizes = f"{one['least_mm3']} to {one['most_mm3']}"
        print(f"| {one['structure']} | {one['dice']} | {other['dice']} | {sizes} |")
    for way in pairs:
        values = [float(row["dice"]) for row in rows if row["way"] == way]
        print(f"{way}: mean {statistics.fmean(values):.3f}")


if __name__ == "__main__":
    main()
