r"""How much a model loses when a scan looks otherwise, and what it takes for brain outside of one.

    python -m benchmarks.models.robustness [--model adult-aseg32] [--scans 17]
        [--data ../shared/data/malc] [--protocol neuromorphometrics138]

Each scan of a BIDS data set with labels is altered in ways that leave its labels true, segmented
and scored: mean Dice over the structures of which at least half is in the altered scan; `lost` is
that much less than for the scan as it is, on the same structures and the same part of it.

Then a synthetic skull (cerebrospinal fluid, bone, fat and skin, eyes, a neck) is drawn around
brain-extracted scans and around the example scan that ships with fewlabel; `outside` is the share
of the voxels found as brain that lie off the true brain. Rows go to
benchmarks/results/robustness_MODEL.csv.
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.ndimage import binary_closing, binary_fill_holes, distance_transform_edt

from benchmarks.common import RESULTS, add_rows, provenance
from fewlabel.conform import conform, part_of
from fewlabel.conformed import labels_on
from fewlabel.damage import bright, facing_up, shaded, with_data
from fewlabel.datasets import index_folder
from fewlabel.engine import Compute
from fewlabel.grid import Grid
from fewlabel.io import read_labels, read_scan
from fewlabel.labels import load_protocol, shared_protocol
from fewlabel.metrics import dice
from fewlabel.model import find_model
from fewlabel.norms import AROUND_BRAIN
from fewlabel.predict import EXAMPLE
from fewlabel.segmenter import Segmenter
from fewlabel.volume import LabelMap, Scan

Pair = tuple[Scan, LabelMap]
Change = Callable[[Scan, LabelMap], Pair]


def of_image(change: Callable[[Scan], Scan]) -> Change:
    """Intensities change, voxels stay where they are."""
    return lambda scan, truth: (change(scan), truth)


def inverted(scan: Scan) -> Scan:
    """What is bright in the head becomes dark, air stays black."""
    inside = scan.data > 0
    return with_data(scan, np.where(inside, 1.1 * bright(scan) - scan.data, 0).clip(0))


def curved(scan: Scan, gamma: float) -> Scan:
    top = float(scan.data.max())
    return with_data(scan, (np.clip(scan.data, 0, None) / top) ** gamma * top)


def thick(scan: Scan, truth: LabelMap) -> Pair:
    """Slices of 3 mm from bottom to top."""
    i, j, k = scan.grid.shape
    times = 3.0 / scan.grid.spacing_mm[2]
    affine = scan.grid.affine @ np.diag([1, 1, times, 1.0])
    grid = Grid((i, j, int(k / times)), affine)
    return conform(scan, grid), labels_on(truth, grid)


def turned_by(axis: int, degrees: float) -> Change:
    """The head lies askew, as the header says: labels stay exact, no voxel is interpolated."""

    def change(scan: Scan, truth: LabelMap) -> Pair:
        a, b = (n for n in range(3) if n != axis)
        cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        turn = np.eye(4)
        turn[[a, a, b, b], [a, b, a, b]] = cos, -sin, sin, cos
        grid = Grid(scan.grid.shape, turn @ scan.grid.affine)
        return Scan(scan.data, grid), LabelMap(truth.data, grid, truth.protocol)

    return change


def half(axis: int, *, upper: bool) -> Change:
    """The field of view ends in the middle of the brain."""

    def change(scan: Scan, truth: LabelMap) -> Pair:
        middle = round(float(np.argwhere(scan.data > 0)[:, axis].mean()))
        n = scan.data.shape[axis]
        low, high = (middle, n) if upper else (0, middle)
        cut = tuple(slice(low, high) if a == axis else slice(None) for a in range(3))
        data = np.ascontiguousarray(scan.data[cut])
        i, j, k = data.shape
        first = [low if a == axis else 0 for a in range(3)]
        grid = part_of(scan.grid, (first[0], first[1], first[2]), (i, j, k))
        kept = np.ascontiguousarray(truth.data[cut])
        return Scan(data, grid), LabelMap(kept, grid, truth.protocol)

    return change


CHANGES: dict[str, Change] = {
    "as it is": lambda scan, truth: (scan, truth),
    "inverted contrast": of_image(inverted),
    "gamma 0.5": of_image(lambda scan: curved(scan, 0.5)),
    "gamma 2": of_image(lambda scan: curved(scan, 2.0)),
    "3 mm slices": thick,
    "turned 20 degrees, nodding": turned_by(0, 20),
    "turned 20 degrees, tilting": turned_by(1, 20),
    "turned 20 degrees, shaking": turned_by(2, 20),
    "strong bias field": of_image(lambda scan: shaded(scan, np.random.default_rng(0), 0.4)),
    "left half": half(0, upper=False),
    "front half": half(1, upper=True),
    "upper half": half(2, upper=True),
}


def with_skull(scan: Scan) -> tuple[Scan, np.ndarray]:
    """A head around a brain without one, with a margin of air; and where the brain is."""
    mm = np.array(scan.grid.spacing_mm)
    margin = np.ceil(30 / mm).astype(int)
    i, j, k = (int(n) for n in np.array(scan.grid.shape) + 2 * margin)
    start = (int(-margin[0]), int(-margin[1]), int(-margin[2]))
    moved = conform(scan, part_of(scan.grid, start, (i, j, k)))
    top, least = bright(moved), float(moved.data.min())
    brain = moved.data > least + 0.05 * (top - least)
    brain = binary_fill_holes(binary_closing(brain, iterations=3)) | brain
    away = distance_transform_edt(~brain, sampling=mm)
    rng = np.random.default_rng(0)
    tissue = {3.0: 0.15, 4.0: 0.3, 9.0: 0.06, 10.0: 0.5, 14.0: 1.15, 16.0: 0.6}
    image = np.zeros(brain.shape, dtype=np.float32)
    for outer, shade in sorted(tissue.items(), reverse=True):
        image[away <= outer] = shade * top
    low, high = (np.argwhere(brain).min(axis=0), np.argwhere(brain).max(axis=0))
    middle, size = (low + high) / 2, (high - low) * mm
    place = np.meshgrid(*(np.arange(n) for n in brain.shape), indexing="ij", sparse=True)
    x, y, z = (((g - m) * s) for g, m, s in zip(place, middle, mm, strict=True))
    for side in (-1, 1):  # eyes: in front, a third up
        far = np.sqrt((x - side * 32) ** 2 + (y - size[1] / 2 + 2) ** 2 + (z + size[2] / 4) ** 2)
        image[(far < 12) & (away > 2)] = 0.25 * top
        image[(far >= 12) & (far < 14) & (away > 2)] = 0.8 * top
    neck = (np.hypot(x, y + size[1] / 8) < 50) & (z < -size[2] / 4) & (away > 9)
    image[neck] = (0.55 + 0.3 * np.sin(x / 6) * np.cos(y / 7) + 0 * z)[neck] * top
    image *= 1 + 0.05 * rng.standard_normal(brain.shape, dtype=np.float32)
    image[brain] = moved.data[brain]
    return with_data(moved, image), brain


def outside(segmenter: Segmenter, scan: Scan) -> float:
    """Share of what is found as brain that is none, once a skull is drawn around it."""
    head, brain = with_skull(scan)
    labels = segmenter(head).labels
    around = [n for n, one in enumerate(labels.protocol.labels, 1)
              if one.name.lower() in AROUND_BRAIN]  # fmt: skip
    found = (labels.data > 0) & ~np.isin(labels.data, around)
    return float((found & ~brain).sum() / max(found.sum(), 1))


def mean_dice(found: LabelMap, true: LabelMap, structures: list[str]) -> float:
    scores = dice(found, true)
    return statistics.fmean(scores[name] for name in structures)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="adult-aseg32")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/malc"))
    parser.add_argument("--protocol", default="neuromorphometrics138")
    parser.add_argument("--scans", type=int, default=17, help="the first so many")
    parser.add_argument("--note", default="")
    asked = parser.parse_args()
    segmenter = Segmenter(find_model(asked.model), Compute())
    common = shared_protocol(segmenter.model.card.protocol, load_protocol(asked.protocol))
    table, about = [], provenance(asked.note)
    for case in index_folder(asked.data.resolve()).cohort.cases[: asked.scans]:
        assert case.labels is not None
        scan = facing_up(read_scan(case.scans["T1w"]))
        stored = read_labels(case.labels, load_protocol(asked.protocol)).to(common)
        truth = labels_on(stored, scan.grid)
        truth.data[truth.data < 0] = 0  # beyond the label map
        found = segmenter(scan).labels.to(common)
        sizes = np.bincount(truth.data.ravel(), minlength=common.n_classes)
        for name, change in CHANGES.items():
            altered, true = change(scan, truth)
            left = np.bincount(true.data.ravel(), minlength=common.n_classes) * true.grid.voxel_mm3
            there = [
                label.name
                for n, label in enumerate(common.labels, 1)
                if left[n] > sizes[n] * truth.grid.voxel_mm3 / 2
            ]
            _, same = change(scan, found)
            value, usual = (
                mean_dice(one, true, there) for one in (segmenter(altered).labels.to(common), same)
            )
            row = {"case": case.id, "change": name, "dice": f"{value:.4f}",
                   "lost": f"{usual - value:.4f}", "outside": ""}  # fmt: skip
            table.append(about | row)
        share = f"{outside(segmenter, scan):.4f}"
        row = {"case": case.id, "change": "skull", "dice": "", "lost": "", "outside": share}
        table.append(about | row)
        print(case.id, *(f"{r['change']} {r['lost'] or r['outside']}" for r in table[-13:]),
              sep=", ", flush=True)  # fmt: skip
    share = f"{outside(segmenter, facing_up(read_scan(EXAMPLE))):.4f}"
    row = {"case": "example", "change": "skull", "dice": "", "lost": "", "outside": share}
    table.append(about | row)
    add_rows(RESULTS / f"robustness_{segmenter.model.card.name}.csv", table)
    print("| change | Dice | lost | lost at most |\n|---|---|---|---|")
    for name in CHANGES:
        rows = [row for row in table if row["change"] == name]
        mean = statistics.fmean(float(row["dice"]) for row in rows)
        lost = [float(row["lost"]) for row in rows]
        print(f"| {name} | {mean:.3f} | {statistics.fmean(lost):.3f} | {max(lost):.3f} |")
    shares = [float(row["outside"]) for row in table if row["outside"]]
    print(f"outside the brain: {statistics.fmean(shares):.2%} on average, {max(shares):.2%} at most"
          f" ({len(shares)} scans; the example {shares[-1]:.2%})")  # fmt: skip


if __name__ == "__main__":
    main()
