"""How long a network of slices takes on the paper's four sizes of volume: whole process, cold.

    python -m benchmarks.speed.slice_fcn [--threads 2] [--runs 5] [--only exp4]

The scans are the embedded example, shrunk to a neonate's size where the paper has neonates, with
noise around; the networks are those of the paper at the scans' own pixels, with random weights, as
the time does not depend on them. Each run is a process of its own. The machine's peak is measured
in the same run by a large matrix product in the numbers that the network is computed in. Rows go
to benchmarks/results/slice_fcn_speed.csv.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import nibabel
import numpy as np
import torch

from benchmarks.common import RESULTS, add_rows, provenance
from fewlabel.card import ModelCard
from fewlabel.conform import conform
from fewlabel.export import write_export
from fewlabel.grid import Grid
from fewlabel.io import read_scan
from fewlabel.labels import load_protocol
from fewlabel.nets.vgg_fcn import STAGES, VggFcn
from fewlabel.predict import EXAMPLE
from fewlabel.slices import SliceRule, slice_grid
from fewlabel.train.stage import Export
from fewlabel.volume import Scan

TABLE = RESULTS / "slice_fcn_speed.csv"


@dataclass(frozen=True)
class Volume:
    """A row of the paper's table 1."""

    name: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    stages: int
    size: float  # of the brain, an adult's is 1
    paper_s: float  # on a GTX 1080
    goal_s: float | None = None


VOLUMES = (
    Volume("exp1", (512, 512, 50), (0.35, 0.35, 2.0), 5, 0.65, 3.5, 16.0),
    Volume("exp2", (384, 50, 384), (0.34, 2.0, 0.34), 5, 0.5, 2.2),
    Volume("exp3", (512, 110, 512), (0.35, 1.2, 0.35), 5, 0.65, 6.5),
    Volume("exp4", (240, 240, 48), (0.96, 0.96, 3.0), 4, 1.0, 1.7, 4.0),
)


def scan_of(volume: Volume) -> Scan:
    """The example in the middle of a grid of the volume's size, with noise in the air."""
    example = read_scan(EXAMPLE)
    shrunk = Grid(example.grid.shape, np.diag([*[volume.size] * 3, 1.0]) @ example.grid.affine)
    affine = np.diag([*volume.spacing_mm, 1.0])
    middle = shrunk.corners_mm().mean(axis=0)
    affine[:3, 3] = middle - (np.array(volume.shape) - 1) / 2 * volume.spacing_mm
    found = conform(Scan(example.data, shrunk), Grid(volume.shape, affine))
    noise = np.abs(np.random.default_rng(0).normal(0, 0.01 * example.data.max(), volume.shape))
    return Scan((found.data + noise).astype(np.float32), found.grid)


def model_of(stages: int, out: Path) -> None:
    """The paper's network for neonates (5 stages) or adults (4)."""
    torch.manual_seed(0)
    protocol = load_protocol("neobrains7" if stages == 5 else "mrbrains8")
    net = VggFcn({protocol.name: protocol.n_classes}, stages=stages, mean=(60.0,) * 3)
    net.even_out(255 * torch.rand(1, 3, 64, 64))
    rule = SliceRule(axes=("acquired",))
    heads = {protocol.name: protocol}
    export = Export(net, heads, rule, "equalize", channels=3)
    card = ModelCard(
        name=out.name, version="0", description="Random weights.", input="any", license="none",
        heads=heads, grid=rule, intensity="equalize",
    )  # fmt: skip
    write_export(out, export, card)


def operations(volume: Volume, looked_at: Grid, n_classes: int, maps: int = 16) -> float:
    """Floating-point operations of all slices: two a multiplication and addition."""
    across = int(np.argmax(np.round(looked_at.spacing_mm, 3)))
    pixels = np.prod(looked_at.shape) / looked_at.shape[across]
    products, before = 0.0, 3
    for number, channels in enumerate(STAGES[: volume.stages]):
        here = pixels / 4**number
        for after in channels:
            products += 9 * before * after * here
            before = after
        products += (9 * before * maps + maps * n_classes) * here
    return float(2 * products * looked_at.shape[across])


def peak(threads: int, kind: torch.dtype, size: int = 4096) -> float:
    """Operations a second of a large matrix product, the best of five."""
    torch.set_num_threads(threads)
    a, b = torch.rand(size, size).to(kind), torch.rand(size, size).to(kind)
    best = float("inf")
    for _ in range(5):
        begin = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best


def run_once(scan: Path, model: Path, out: Path, threads: int) -> dict[str, float | str]:
    """One cold process: seconds per stage, wall seconds and peak MB."""
    program = str(Path(sys.executable).with_name("fewlabel"))
    command = [program, "segment", str(scan), "--out", str(out), "--model", str(model)]
    command += ["--threads", str(threads), "--overwrite", "--json"]
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    output = process.stdout.read() if process.stdout else b""
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - begin
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    record = json.loads(output)[0]["record"]
    rest = wall - sum(record["seconds"].values())
    return {
        "wall": wall, "peak_mb": usage.ru_maxrss / 1024, "import": rest, **record["seconds"],
        "engine": record["engine"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", choices=[volume.name for volume in VOLUMES])
    parser.add_argument("--note", default="", help="what else the machine was doing")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for stages in (4, 5):
            model_of(stages, place / f"stages{stages}")
        for volume in VOLUMES:
            if asked.only in (None, volume.name):
                add_rows(TABLE, [measured(volume, place, asked)])


def measured(volume: Volume, place: Path, asked: argparse.Namespace) -> dict[str, str | float]:
    """One row: medians over runs."""
    scan, file = scan_of(volume), place / f"{volume.name}_T2w.nii.gz"
    image = np.round(scan.data).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(image, scan.grid.affine), file)
    model = place / f"stages{volume.stages}"
    runs = [run_once(file, model, place / "out", asked.threads) for _ in range(asked.runs)]
    looked_at = slice_grid(scan, SliceRule(axes=("acquired",)))
    done = operations(volume, looked_at, 8 if volume.stages == 5 else 9)
    kind = torch.bfloat16 if "bf16" in str(runs[0]["engine"]) else torch.float32
    top = peak(asked.threads, kind)
    rate = done / median(float(run["network"]) for run in runs)
    row: dict[str, str | float] = {
        **provenance(asked.note),
        "volume": volume.name,
        "voxels": "x".join(map(str, volume.shape)),
        "looked_at": "x".join(map(str, looked_at.shape)),
        "engine": str(runs[0]["engine"]),
        "paper_gpu_s": volume.paper_s,
        "goal_s": volume.goal_s or "",
        "operations_1e12": round(done / 1e12, 3),
        "achieved_1e9_per_s": round(rate / 1e9, 1),
        "matrix_product_1e9_per_s": round(top / 1e9, 1),
    }
    for name in (key for key in runs[0] if key != "engine"):
        row[f"{name}{'' if name == 'peak_mb' else '_s'}"] = round(
            median(float(run[name]) for run in runs), 3
        )
    print(
        f"{volume.name} {row['voxels']}: {row['wall_s']} s"
        f" ({row['achieved_1e9_per_s']} of {row['matrix_product_1e9_per_s']} GFLOP/s)"
    )
    return row


if __name__ == "__main__":
    main()
