"""What the labels of the week before would score: a floor, and a hint of how much labels wander.

    python -m benchmarks.models.neonate_neighbors [--data ../shared/data]

The label map of each week of neonatal-templates is scaled along each axis onto the extent of the
next week's, voxel to nearest voxel, and scored against it. Rows go to
benchmarks/results/neonate-drawem9_neighbors.csv: mean Dice over the 16 pairs, and the least and
most volume that any week has, in mm3.
"""

import argparse
import statistics
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy.ndimage import affine_transform

from benchmarks.common import RESULTS, add_rows, provenance
from benchmarks.papers.richter2022_data import weeks
from fewlabel.io import read_labels
from fewlabel.labels import load_protocol
from fewlabel.metrics import dice, volumes_mm3
from fewlabel.volume import LabelMap

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


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--data", type=Path, default=Path("../shared/data"))
    asked = ask.parse_args()
    named = load_protocol("serag9")
    maps = [read_labels(case.labels, named) for case in weeks(asked.data) if case.labels]
    pairs = [dice(scaled_onto(a, b), b) for a, b in pairwise(maps)]
    volumes = [volumes_mm3(one) for one in maps]
    rows = [
        provenance("")
        | {"structure": name, "pairs": len(pairs),
           "dice": f"{statistics.fmean(pair[name] for pair in pairs):.4f}",
           "least_mm3": f"{min(one[name] for one in volumes):.0f}",
           "most_mm3": f"{max(one[name] for one in volumes):.0f}"}
        for name in maps[0].protocol.names
    ]  # fmt: skip
    TABLE.unlink(missing_ok=True)
    add_rows(TABLE, rows)
    print("| structure | Dice of the week before | least to most mm3 |\n|---|---|---|")
    for row in rows:
        print(f"| {row['structure']} | {row['dice']} | {row['least_mm3']} to {row['most_mm3']} |")
    print(f"mean {statistics.fmean(float(row['dice']) for row in rows):.3f}")


if __name__ == "__main__":
    main()
