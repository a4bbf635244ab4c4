"""One scan from file to file: fewlabel, nnU-Net and MONAI with the same U-Net and weights.

    python -m benchmarks.speed.peers --nnunet-python nnunet/bin/python [--classes 33 139]
        [--scans head brain]

nnU-Net needs an environment of its own: see train_vs_nnunet.py. The scan has 256 x 256 x 256 voxels
of 1 mm, and shows a head (a brain with a skull drawn around it) or the brain alone, to which
nnU-Net crops it; the network works at 1 mm too. Each run is a cold process on the same cores: it
reads the scan, prepares it as its makers do, predicts (nnU-Net: its predictor, no mirroring, half a
patch of overlap; MONAI: its sliding window, a quarter of overlap, Gaussian weights), goes back to
the scan's grid and writes the labels. Wall time and peak memory are those of the whole process.

Every answer is compared with that of torch in float32, which gets what fewlabel's network gets.
The floor is the network's operations, counted, over the speed of a large matrix product, measured
in the same run. fewlabel runs as it is and with `--precision exact`, which computes in 32 bits.
Weights: a model folder (`--model`), or a network that is trained here for
some minutes on ../shared/data/malc and kept in --place. Rows go to
benchmarks/results/peers_speed.csv.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import Future
from pathlib import Path
from statistics import median
from typing import Any

import nibabel
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import RESULTS, add_rows, agreement, provenance
from benchmarks.speed.peers_model import head_scan, trained
from benchmarks.speed.slice_fcn import peak
from fewlabel.conform import GridRule
from fewlabel.engine import Compute
from fewlabel.engine_torch import torch_engine
from fewlabel.io import read_scan
from fewlabel.model import ModelFolder, read_model
from fewlabel.model_weights import network_of
from fewlabel.segmenter import Segmenter

HERE = Path(__file__).parent
Run = dict[str, float]


def results_of(side: str, known: dict[str, Any]) -> Path:
    """Where a way of running fewlabel puts its results."""
    return Path(known["fewlabel"]) / side.replace(" ", "-")


def command_of(side: str, settings: Path, asked: argparse.Namespace) -> list[str]:
    """What a side is started with."""
    known = json.loads(settings.read_text())
    if side == "nnunet":
        return [asked.nnunet_python, str(HERE / "peers_nnunet.py"), str(settings)]
    if side == "monai":
        return [sys.executable, str(HERE / "peers_monai.py"), str(settings)]
    words = [
        "segment",
        known["scan"],
        "--model",
        known["model"],
        "--out",
        str(results_of(side, known)),
    ]
    words += ["--threads", str(asked.threads), "--overwrite", "--json"]
    how = side.split()[1:]
    words += ["--precision", "exact"] if "exact" in how else []
    words += ["--max-memory", how[-1]] if how and how[-1] != "exact" else []
    return [str(Path(sys.executable).with_name("fewlabel")), *words]


LAUNCH = """
import json, os, subprocess, sys, time
begin = time.perf_counter()
process = subprocess.Popen(sys.argv[2:])
_, status, usage = os.wait4(process.pid, 0)
said = {"wall_s": time.perf_counter() - begin, "peak_mb": usage.ru_maxrss / 1024, "code": status}
open(sys.argv[1], "w").write(json.dumps(said))
"""
"""A small process of its own, as a child's peak counts from that of its parent when it forked."""


def run_once(command: list[str], threads: int) -> Run:
    """Wall seconds and peak MB of a process."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    limits = {name: str(threads) for name in names}
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "told.json"
        launch = [sys.executable, "-S", "-c", LAUNCH, str(told), *command]
        done = subprocess.run(
            launch, stdout=subprocess.PIPE, env=os.environ | limits, text=True, check=True
        )
        told_of = json.loads(told.read_text())
    if told_of["code"]:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}")
    lines = done.stdout.strip().splitlines()
    network = _network_s(done.stdout, lines[-1] if lines else "")
    return {"wall_s": told_of["wall_s"], "peak_mb": told_of["peak_mb"], "network_s": network}


def _network_s(output: str, last: str) -> float:
    if output.startswith("["):
        return float(json.loads(output)[0]["record"]["seconds"]["network"])
    return float(json.loads(last)["network_s"])


def reference(model: ModelFolder, scan: Path) -> np.ndarray:
    """What torch in float32 says, with fewlabel's ways to the network and back."""
    exact = Compute(precision="exact")
    segmenter = Segmenter(model, Compute(threads=1))
    engine: Future[Any] = Future()
    network, offsets = network_of(model), model.card.class_offsets
    engine.set_result(torch_engine(network, model.card.head, 1, exact, offsets))
    segmenter._engine = engine
    return segmenter(read_scan(scan)).labels.data


def classes_in(file: Path, model: ModelFolder, *, values: bool) -> np.ndarray:
    """Classes of a written label map: peers write classes, fewlabel the protocol's values."""
    stored = np.asarray(nibabel.load(file).dataobj).astype(np.int64)
    if not values:
        return stored
    table = np.zeros(int(stored.max()) + 1, dtype=np.int64)
    for value, number in model.card.protocol.class_by_value.items():
        if value < len(table):
            table[value] = number
    return table[stored]


def operations(model: ModelFolder) -> float:
    """Operations of the network on its field."""
    grid = model.card.grid
    assert isinstance(grid, GridRule)
    network = network_of(model).to("meta")
    with FlopCounterMode(display=False) as counted, torch.device("meta"):
        network(torch.zeros(1, 1, *grid.field))
    return float(counted.get_total_flops())


def measure(
    n_classes: int, kind: str, asked: argparse.Namespace, place: Path
) -> list[dict[str, Any]]:
    """All sides on one network and one scan, in turns."""
    folder = asked.model or trained(n_classes, place, asked.train_steps, asked.data, asked.start)
    model = read_model(folder)
    scan = head_scan(place, asked.data, kind)
    settings = settings_of(model, scan, place, asked)
    ways = [way for limit in asked.max_memory for way in (limit, f"exact {limit}")]
    sides = [f"fewlabel {way}".strip() for way in ways]
    sides += ["monai", *(["nnunet"] if asked.nnunet_python else [])]
    runs: dict[str, list[Run]] = {side: [] for side in sides}
    for turn in range(asked.runs):
        for side in sides:
            if not side.startswith("fewlabel") and turn >= asked.peer_runs:
                continue
            runs[side].append(run_once(command_of(side, settings, asked), asked.threads))
            print(f"{side}, {kind}, {n_classes} classes: {runs[side][-1]}", flush=True)
    expected = reference(model, scan).astype(np.int64)
    done = operations(model)
    numbers = torch.bfloat16 if asked.floor == "bf16" else torch.float32
    floor = done / peak(asked.threads, numbers)
    return [
        provenance(asked.note)
        | {"scan": kind}
        | row_of(side, runs, (expected, model, settings), floor)
        | {"gflop": f"{done / 1e9:.0f}", "runs": len(runs[side])}
        for side in sides
    ]


def row_of(
    side: str,
    runs: dict[str, list[Run]],
    known: tuple[np.ndarray, ModelFolder, Path],
    floor: float,
) -> dict[str, Any]:
    expected, model, settings = known
    said = json.loads(settings.read_text())
    ours = side.startswith("fewlabel")
    file = next(results_of(side, said).glob("*_dseg.nii.gz")) if ours else Path(said[side])
    middle = {key: median(run[key] for run in runs[side]) for key in runs[side][0]}
    fastest = min(median(run["wall_s"] for run in r) for s, r in runs.items() if "few" in s)
    return {
        "side": side,
        "classes": model.card.protocol.n_classes,
        **{key: f"{value:.2f}" for key, value in middle.items()},
        "times_fewlabel": f"{middle['wall_s'] / fastest:.2f}",
        "dice_with_float32": f"{agreement(classes_in(file, model, values=ours), expected):.4f}",
        "floor_s": f"{floor:.2f}",
        "times_floor": f"{middle['wall_s'] / floor:.2f}",
    }


def settings_of(model: ModelFolder, scan: Path, place: Path, asked: argparse.Namespace) -> Path:
    """What the sides have in common: the network as TorchScript, the scan, the patch."""
    card = model.card
    n_classes = card.protocol.n_classes
    only = _OneHead(network_of(model).eval(), card.head)
    script = place / f"network{n_classes}.pt"
    with torch.inference_mode():
        torch.jit.trace(only, torch.zeros(1, 1, 64, 64, 64)).save(str(script))
    kind = f"{scan.name.split('_')[0]}{n_classes}"
    settings = place / f"settings-{kind}.json"
    settings.write_text(
        json.dumps(
            {
                "scan": str(scan),
                "model": str(model.folder.absolute()),
                "network": str(script),
                "classes": n_classes,
                "spacing_mm": card.grid.spacing_mm,
                "patch": asked.patch,
                "threads": asked.threads,
                "fewlabel": str(place / f"fewlabel-{kind}"),
                "monai": str(place / f"monai-{kind}.nii.gz"),
                "nnunet": str(place / f"nnunet-{kind}.nii.gz"),
            }
        )
    )
    return settings


class _OneHead(torch.nn.Module):
    def __init__(self, network: torch.nn.Module, head: str) -> None:
        super().__init__()
        self.network, self.head = network, head

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(image)[self.head]
        return logits


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nnunet-python", help="python of nnU-Net's environment; none: left out")
    parser.add_argument("--classes", type=int, nargs="+", default=[33, 139], choices=[33, 139])
    parser.add_argument("--model", type=Path, help="a model folder, instead")
    parser.add_argument("--max-memory", nargs="+", default=["", "1.5"], help="GB; '' for none")
    parser.add_argument("--data", type=Path, default=HERE.parents[2] / "shared/data/malc")
    parser.add_argument("--train-steps", type=int, default=300)
    parser.add_argument("--start", type=Path, help="a model whose U-Net has the same channels")
    parser.add_argument("--place", type=Path, help="folder for networks, to be used again")
    parser.add_argument("--patch", type=int, default=128, help="of nnU-Net and MONAI")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--peer-runs", type=int, default=3, help="of nnU-Net and MONAI")
    parser.add_argument("--scans", nargs="+", choices=["head", "brain"], default=["head", "brain"])
    parser.add_argument("--floor", choices=["bf16", "f32"], default="bf16")
    parser.add_argument("--note", default="", help="what else the machine was doing")
    asked = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: asked.threads])
    with tempfile.TemporaryDirectory() as temporary:
        place = (asked.place or Path(temporary)).resolve()
        place.mkdir(parents=True, exist_ok=True)
        for n_classes in asked.classes[: 1 if asked.model else None]:
            for kind in asked.scans:
                rows = measure(n_classes, kind, asked, place)
                add_rows(RESULTS / "peers_speed.csv", rows)
                for row in rows:
                    print({k: row[k] for k in list(row)[5:]}, flush=True)


if __name__ == "__main__":
    main()
