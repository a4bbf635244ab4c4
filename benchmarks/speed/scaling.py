"""Cost against size: voxels of the field and number of classes.

    python -m benchmarks.speed.scaling [--mvoxels 1 8 64] [--classes 10 33 139 300]

A scan of so many voxels of 1 mm (a head of that size), and a U-Net with 16 channels at full
resolution that works at 1 mm, too. Its weights are random but for the last layer, which lets each
class win in a band of one feature, so that all classes occur and most voxels have few of them, as
with trained networks. Each run is a cold process in which `fewlabel.segment` runs with the limit
of memory; rows go to benchmarks/results/scaling_speed.csv: seconds of each stage, peak MB, voxels
per second.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch

from benchmarks.common import RESULTS, add_rows, provenance
from fewlabel.card import ModelCard
from fewlabel.conform import GridRule
from fewlabel.labels import Label, LabelProtocol
from fewlabel.model import write_model
from fewlabel.nets.unet import UNet
from fewlabel.onnx_file import pack, to_onnx

SHAPES = {1: (96, 112, 96), 8: (192, 224, 192), 64: (384, 448, 384)}
ONE_RUN = """
import json, re, sys
import fewlabel
found = fewlabel.segment(sys.argv[1], model=sys.argv[2], threads=int(sys.argv[3]),
    max_memory_gb=float(sys.argv[4]) or None)
seconds = dict(found.record["seconds"])
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
present = sum(mm3 > 0 for mm3 in found.volumes_mm3.values()) - 1
print(json.dumps({"seconds": seconds, "peak_mb": peak, "present": present}))
"""


def model_of(n_classes: int, shape: tuple[int, int, int], folder: Path) -> None:
    """The network."""
    torch.manual_seed(0)
    labels = tuple(Label(n, f"structure-{n}") for n in range(1, n_classes))
    protocol = LabelProtocol(f"bands{n_classes}", labels)
    network = UNet({"bands": n_classes}).eval()
    last = network.decoders["bands"].outs[0].conv.conv
    centers = torch.linspace(-2, 2, n_classes)
    with torch.no_grad():
        last.weight.zero_()
        last.weight[:, 0, 0, 0, 0] = 2 * 400 * centers
        last.bias.copy_(-400 * centers**2)
    rule = GridRule(spacing_mm=1.0, field_mm=tuple(map(float, shape)))
    card = ModelCard(
        name=folder.name, version="0", description="Bands of a feature.", input="any",
        license="none", heads={"bands": protocol}, grid=rule, intensity="robust_scale",
    )  # fmt: skip
    write_model(folder, card, onnx=pack(to_onnx(network, ("bands",), 16)))


def scan_of(shape: tuple[int, int, int], file: Path) -> None:
    """A ball of noise that fills most of the scan."""
    middle = (np.array(shape) - 1) / 2
    axes = np.ogrid[tuple(slice(0, n) for n in shape)]
    far = sum(((a - m) / (0.45 * n)) ** 2 for a, m, n in zip(axes, middle, shape, strict=True))
    rng = np.random.default_rng(0)
    coarse = rng.random(tuple(n // 8 for n in shape), dtype=np.float32)
    texture = coarse.repeat(8, 0).repeat(8, 1).repeat(8, 2)
    image = np.where(far < 1, 300 + 700 * texture, 0).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(image, np.diag([1.0, 1.0, 1.0, 1.0])), file)


def measure(mvoxels: int, n_classes: int, asked: argparse.Namespace, place: Path) -> dict[str, Any]:
    shape, model = SHAPES[mvoxels], place / f"bands{n_classes}-{mvoxels}"
    scan = place / f"scan{mvoxels}.nii.gz"
    if not scan.exists():
        scan_of(shape, scan)
    model_of(n_classes, shape, model)
    limits = {name: str(asked.threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    limits["XDG_CACHE_HOME"] = str(place / "cache")
    command = [sys.executable, "-c", ONE_RUN, str(scan), str(model), str(asked.threads)]
    begin = time.perf_counter()
    done = subprocess.run(
        [*command, str(asked.max_memory)],
        check=True,
        stdout=subprocess.PIPE,
        env=os.environ | limits,
    )
    wall = time.perf_counter() - begin
    said = json.loads(done.stdout)
    voxels = int(np.prod(shape))
    return provenance(asked.note) | {
        "voxels": voxels,
        "classes": n_classes,
        "present": said["present"],
        "max_memory_gb": asked.max_memory,
        "wall_s": f"{wall:.2f}",
        "voxels_per_s": f"{voxels / wall:.0f}",
        "peak_mb": f"{said['peak_mb']:.0f}",
        **{f"{stage}_s": said["seconds"].get(stage, 0.0) for stage in STAGES},
    }


STAGES = ("read", "start", "conform", "network", "restore", "quality")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mvoxels", type=int, nargs="+", default=[1, 8, 64], choices=list(SHAPES))
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 33, 139, 300])
    parser.add_argument("--max-memory", type=float, default=4.0, help="GB; 0 for none")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--note", default="", help="what else the machine was doing")
    asked = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: asked.threads])
    with tempfile.TemporaryDirectory() as place:
        for mvoxels in asked.mvoxels:
            for n_classes in asked.classes:
                row = measure(mvoxels, n_classes, asked, Path(place))
                add_rows(RESULTS / "scaling_speed.csv", [row])
                print({key: row[key] for key in list(row)[5:]}, flush=True)


if __name__ == "__main__":
    main()
