"""How long `fewlabel segment` takes: whole process, cold, 256x256x256 voxels of 1 mm.

    python -m benchmarks.speed.segment [--model NAME|FOLDER] [--threads 2] [--runs 5] [--mm 1.0]

The scan is the embedded example in a made-up skull, 16-bit and gzipped, or the same on smaller or
larger voxels (`--mm`). Each run is a process of its own on as many cores as threads. A first one
reads all files from disk, to warm up; the next finds no compiled network in the cache and leaves it
there ("first"); the others are as users see them from then on. Rows go to
benchmarks/results/segment_speed.csv: wall time of the first, medians of wall time and peak resident
memory of the others, then of each stage. "import" is what the stages leave of the wall time:
starting Python, importing, finding the model, leaving.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import nibabel
import numpy as np
from scipy.ndimage import distance_transform_edt, zoom

from benchmarks.common import RESULTS, add_rows, provenance
from fewlabel.predict import EXAMPLE

TABLE = RESULTS / "segment_speed.csv"
STAGES = ("import", "read", "start", "conform", "network", "restore", "picture", "write")


def whole_head(mm: float = 1.0) -> nibabel.Nifti1Image:
    """The example in 256 mm along each axis: fluid, bone, fat and skin round the brain."""
    image = nibabel.load(EXAMPLE)
    brain = np.asarray(image.dataobj)
    shape, start = np.array(brain.shape), np.array([30, 12, 50])
    cut = np.minimum(shape, 256 - start)
    head = np.zeros((256, 256, 256), dtype=np.float32)
    inside = tuple(slice(a, a + n) for a, n in zip(start, cut, strict=True))
    head[inside] = brain[tuple(slice(0, n) for n in cut)] * 4.0
    near = distance_transform_edt(head[::2, ::2, ::2] == 0) * 2
    far = near.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    layers = np.select([far == 0, far < 4, far < 9, far < 13, far < 15], [0, 180, 60, 900, 500])
    head = np.where(head > 0, head, layers) + np.random.default_rng(0).normal(0, 12, head.shape)
    affine = image.affine.copy()
    affine[:3, 3] -= start
    if mm != 1:
        head = zoom(head, 1 / mm, order=1, grid_mode=True, mode="nearest")
        step = np.array([256 / n for n in head.shape])
        affine[:3, 3] += affine[:3, :3] @ (step - 1) / 2  # its first voxel, not its corner
        affine[:3, :3] *= step
    return nibabel.Nifti1Image(np.abs(head).astype(np.int16), affine)


def run_once(scan: Path, cache: Path, asked: argparse.Namespace) -> dict[str, float]:
    """One cold process: seconds per stage, wall seconds and peak MB."""
    program = str(Path(sys.executable).with_name("fewlabel"))
    command = [program, "segment", str(scan), "--out", str(scan.parent / "out")]
    command += ["--threads", str(asked.threads), "--overwrite", "--json"]
    command += ["--model", asked.model] if asked.model else []
    environment = limited(asked.threads) | {"XDG_CACHE_HOME": str(cache)}
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
    output = process.stdout.read() if process.stdout else b""
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - begin
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    seconds = json.loads(output)[0]["record"]["seconds"]
    rest = wall - sum(seconds.values())
    return {"wall": wall, "peak_mb": usage.ru_maxrss / 1024, "import": rest, **seconds}


def limited(threads: int) -> dict[str, str]:
    """The environment of a process that shall use so many threads."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    bytecode = {"PYTHONDONTWRITEBYTECODE": ""}  # is kept, as where it was installed by pip
    return os.environ | {name: str(threads) for name in names} | bytecode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--mm", type=float, default=1.0, help="edge of a voxel")
    parser.add_argument("--note", default="", help="what else the machine was doing")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        scan = Path(place) / "head_T1w.nii.gz"
        nibabel.save(whole_head(asked.mm), scan)
        run_once(scan, Path(place) / "warm", asked)
        first, *runs = (run_once(scan, Path(place) / "cache", asked) for _ in range(1 + asked.runs))
    told, rows = provenance(asked.note), []
    for name in ("first", "wall", "peak_mb", *STAGES):
        values = [first["wall"]] if name == "first" else [run[name] for run in runs]
        found = [f"{x:.3f}" for x in (median(values), min(values), max(values))]
        unit = "MB" if name == "peak_mb" else "s"
        numbers = dict(zip(("median", "lowest", "highest"), found, strict=True))
        rows.append({**told, "stage": name, "unit": unit, **numbers})
        print(f"{name:10s}{found[0]:>10s} {unit:3s} ({found[1]} to {found[2]})")
    add_rows(TABLE, rows)


if __name__ == "__main__":
    main()
