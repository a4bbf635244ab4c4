"""What the labels of neighboring weeks would score: how much the labels wander.

    python -m benchmarks.models.neonate_neighbors [--data ../shared/data]

The label map of each week of neonatal-templates is brought onto the next week's and scored against
it, in three ways:

- **scaled** along each axis onto the extent of the other map, voxel to nearest voxel;
- **registered**: bent as the T2w image has to be to fit that of the next week (`fewlabel register`,
  60 steps on voxels of 0.86 mm);
- **fused** with the map of the week after, registered in the same way: each voxel gets the class
  that it is deepest in, on average of both.

Rows go to benchmarks/results/neonate-drawem9_neighbors.csv: mean Dice over the 16 pairs, or the 15
weeks between two others, and the least and most volume that any week has, in mm3.
"""

import argparse
from pathlib import Path
from statistics import fmean as mean

import numpy as np
from scipy.ndimage import affine_transform, distance_transform_edt

from benchmarks.common import RESULTS, add_rows, provenance
from benchmarks.papers.richter2022_data import weeks
from fewlabel.cohort import Case
from fewlabel.io import read_labels, read_scan
from fewlabel.labels import LabelProtocol, load_protocol
from fewlabel.metrics import dice, volumes_mm3
from fewlabel.register import How, register
from fewlabel.volume import LabelMap

SPACING = 0.86
FAR = 5.0
"""Voxels from a border beyond which it does not matter any more."""
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


def fused(one: LabelMap, other: LabelMap) -> LabelMap:
    """Where two maps of a brain differ, half way between their borders."""
    inside = []
    for number in range(len(one.protocol.labels) + 1):
        masks = [labels.data == number for labels in (one, other)]
        deep = [distance_transform_edt(mask) - distance_transform_edt(~mask) for mask in masks]
        inside.append(np.clip(deep, -FAR, FAR).sum(axis=0))
    found = np.argmax(inside, axis=0).astype(one.data.dtype)
    return LabelMap(found, one.grid, one.protocol)


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--data", type=Path, default=Path("../shared/data"))
    asked = ask.parse_args()
    named = load_protocol("serag9")
    cases = weeks(asked.data)
    maps = [read_labels(case.labels, named) for case in cases if case.labels]
    volumes = [volumes_mm3(one) for one in maps]
    found: dict[str, list[dict[str, float]]] = {"scaled": [], "registered": [], "fused": []}
    for n, truth in enumerate(maps[1:], start=1):
        before = registered_onto(cases[n - 1], cases[n], named)
        found["scaled"].append(dice(scaled_onto(maps[n - 1], truth), truth))
        found["registered"].append(dice(before, truth))
        if n + 1 < len(cases):
            after = registered_onto(cases[n + 1], cases[n], named)
            found["fused"].append(dice(fused(before, after), truth))
        means = [f"{way} {mean(some[-1].values()):.3f}" for way, some in found.items() if some]
        print(cases[n].id, *means, flush=True)
    rows = [
        provenance("")
        | {"way": way, "structure": name, "pairs": len(some),
           "dice": f"{mean(one[name] for one in some):.4f}",
           "least_mm3": f"{min(one[name] for one in volumes):.0f}",
           "most_mm3": f"{max(one[name] for one in volumes):.0f}"}
        for way, some in found.items()
        for name in maps[0].protocol.names
    ]  # fmt: skip
    TABLE.unlink(missing_ok=True)
    add_rows(TABLE, rows)
    print("| structure | scaled | registered | fused | least to most mm3 |\n|---|---|---|---|---|")
    for name in maps[0].protocol.names:
        of_one = [row for row in rows if row["structure"] == name]
        sizes = "{least_mm3} to {most_mm3}".format(**of_one[0])
        print(f"| {name} | {' | '.join(row['dice'] for row in of_one)} | {sizes} |")
    for way in found:
        print(f"{way}: mean {mean(float(row['dice']) for row in rows if row['way'] == way):.3f}")


if __name__ == "__main__":
    main()
