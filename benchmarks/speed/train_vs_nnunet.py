"""Training steps per second, data loading included, beside nnU-Net's trainer.

    python -m benchmarks.speed.train_vs_nnunet --nnunet-python nnunet/bin/python

nnU-Net needs an environment of its own, made once:

    python3 -m venv nnunet
    nnunet/bin/pip install torch==2.13.0 nnunetv2==2.8.1
    nnunet/bin/pip uninstall -y torchvision      # its trainer does without

The same scans, 138 structures, network (checked: equal weights and multiplications), patch, batch,
optimizer, deep supervision and cores. Everything else is each side's own: how scans are stored,
patches drawn and augmented, the loss, the loop, the precision (nnU-Net computes in float32 on a
CPU). Each side is a process that stays alive; they take turns, A B C A B C, and whoever is not
training is stopped, its data workers too. Rows go to benchmarks/results/train_speed.csv.

nnU-Net gets one data worker, which keeps its queue full; `--nnunet-workers 1 2` runs it with one
and with two, and the faster counts.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import nibabel
import numpy as np

from benchmarks.common import RESULTS, add_rows, provenance
from fewlabel.cohort import Case, Cohort, write_cohort
from fewlabel.datasets import index_folder
from fewlabel.datasets.phantom import PhantomConfig, write_phantoms
from fewlabel.io import read_labels

HERE = Path(__file__).parent
DATA = HERE.parents[2] / "shared" / "data" / "malc"
PROTOCOL = "neuromorphometrics138"
CHANNELS = (16, 32, 64, 128, 160)


@dataclass
class Side:
    """A process that trains when it is asked to and is stopped in between.

    Attributes:
        name: In the table.
        command: What it runs.
        env: What its environment has besides ours.
        log: Where its standard error goes.
        about: What it said of its network when it was ready.
        blocks: What it said of each block of steps.
    """

    name: str
    command: list[str]
    env: dict[str, str]
    log: Path
    about: dict[str, float] = field(default_factory=dict)
    blocks: list[dict[str, float]] = field(default_factory=list)

    def start(self, steps: int) -> None:
        """Start it, and take a few steps that do not count."""
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log.open("w"),
            text=True,
            bufsize=1,
            env=os.environ | self.env,
            start_new_session=True,
        )
        self.about = self._answer()
        self._train(steps)
        self._send(signal.SIGSTOP)

    def go(self, steps: int) -> None:
        """One block of steps."""
        self._send(signal.SIGCONT)
        self.blocks.append(self._train(steps))
        self._send(signal.SIGSTOP)

    def end(self) -> None:
        """Let it clean up, then end it and its data workers."""
        if self.process.poll() is None and self.process.stdin:
            self._send(signal.SIGCONT)
            self.process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=30)
        with suppress(ProcessLookupError):
            self._send(signal.SIGKILL)
        self.process.wait()

    def _train(self, steps: int) -> dict[str, float]:
        assert self.process.stdin
        print(steps, file=self.process.stdin, flush=True)
        return {"steps": steps, **self._answer()}

    def _answer(self) -> dict[str, float]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} failed:\n{self.log.read_text()[-3000:]}")
        answer: dict[str, float] = json.loads(line)
        return answer

    def _send(self, what: signal.Signals) -> None:
        os.killpg(self.process.pid, what)


def cases_in(data: Path, count: int, place: Path) -> tuple[Case, ...]:
    """The first training cases of a data set; made-up brains if it is not there."""
    if data.is_dir():
        found = index_folder(data, PROTOCOL).cohort
    else:
        write_phantoms(place / "phantoms", PhantomConfig(cases=count, spacing_mm=1.0, test=0))
        found = index_folder(place / "phantoms").cohort
    cases = [case for case in found.cases if case.split == "train" and case.labels]
    return tuple(cases[:count])


def write_raw(place: Path, cases: Sequence[Case]) -> None:
    """Lay the cases out as nnU-Net wants them, with labels counted from 0 without gaps."""
    folder = place / "raw" / "Dataset001_benchmark"
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    protocol = cases[0].drawn_in()
    for case in cases:
        assert case.labels
        scan = nibabel.load(case.scans["T1w"])
        nibabel.save(scan, folder / "imagesTr" / f"{case.id}_0000.nii.gz")
        classes = read_labels(case.labels, protocol).data.clip(min=0).astype(np.uint8)
        labels = nibabel.Nifti1Image(classes, scan.affine)
        nibabel.save(labels, folder / "labelsTr" / f"{case.id}.nii.gz")
    named = {"background": 0} | {name: n + 1 for n, name in enumerate(protocol.names)}
    described = {
        "channel_names": {"0": "T1w"},
        "labels": named,
        "numTraining": len(cases),
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(described))


def sides(asked: argparse.Namespace, settings: Path, place: Path) -> list[Side]:
    """All who take part; nnU-Net first, once per number of data workers."""
    env = {"OMP_NUM_THREADS": str(asked.threads)}
    theirs = [asked.nnunet_python, str(HERE / "nnunet_side.py"), "train", str(settings)]
    ours = [sys.executable, str(HERE / "fewlabel_side.py"), str(settings)]
    found = {f"nnunet, {n} data workers": (theirs, str(n)) for n in asked.nnunet_workers}
    found |= {f"fewlabel, {p}": ([*ours, p], "1") for p in asked.precision}
    return [
        Side(name, command, env | {"nnUNet_n_proc_DA": workers}, place / f"{name}.log")
        for name, (command, workers) in found.items()
    ]


def prepare(asked: argparse.Namespace, place: Path) -> Path:
    """Data of both sides and what they have in common; a place prepared before is used again."""
    settings = place / "settings.json"
    common = {
        "place": str(place),
        "manifest": str(place / "cohort.tsv"),
        "patch": asked.patch,
        "batch": asked.batch,
        "channels": CHANNELS,
        "threads": asked.threads,
    }
    settings.write_text(json.dumps(common))
    if (place / "cohort.tsv").exists():
        return settings
    cases = cases_in(asked.data, asked.scans, place)
    write_raw(place, cases)
    command = [asked.nnunet_python, str(HERE / "nnunet_side.py"), "prepare", str(settings)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    write_cohort(Cohort(cases), place / "cohort.tsv")
    return settings


def measure(taking_part: list[Side], asked: argparse.Namespace) -> None:
    """Everybody's blocks, in turns."""
    started: list[Side] = []
    try:
        for side in taking_part:
            started.append(side)
            side.start(asked.warm_up)
        for key in ("weights", "gflop"):
            if len({side.about[key] for side in taking_part}) > 1:
                raise SystemExit(f"The networks differ: {[side.about for side in taking_part]}")
        for _ in range(asked.rounds):
            for side in taking_part:
                side.go(asked.steps)
    finally:
        for side in started:
            side.end()


def rows_of(taking_part: list[Side], asked: argparse.Namespace) -> list[dict[str, str | float]]:
    """The table: a row a side."""
    pace = {side.name: [b["steps"] / b["took"] for b in side.blocks] for side in taking_part}
    theirs = max(median(pace[side.name]) for side in taking_part if "nnunet" in side.name)
    rows: list[dict[str, str | float]] = []
    for side in taking_part:
        paces = pace[side.name]
        took = sum(block["took"] for block in side.blocks)
        rows.append(
            provenance(asked.note)
            | {
                "side": side.name,
                "patch": asked.patch,
                "batch": asked.batch,
                "steps": asked.steps * asked.rounds,
                "steps_per_s": f"{median(paces):.4f}",
                "lowest": f"{min(paces):.4f}",
                "highest": f"{max(paces):.4f}",
                "times_nnunet": f"{median(paces) / theirs:.2f}",
                "share_waiting": f"{sum(block['waited'] for block in side.blocks) / took:.4f}",
                "peak_mb": f"{max(block['peak_mb'] for block in side.blocks):.0f}",
                "weights": int(side.about["weights"]),
                "gflop_forward": f"{side.about['gflop']:.1f}",
            }
        )
    return rows


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nnunet-python", required=True, help="python of nnU-Net's environment")
    parser.add_argument("--nnunet-workers", type=int, nargs="+", default=[1])
    parser.add_argument("--precision", nargs="+", default=["32", "bf16"], choices=["32", "bf16"])
    parser.add_argument("--data", type=Path, default=DATA, help="BIDS data set with labels")
    parser.add_argument("--scans", type=int, default=3)
    parser.add_argument("--place", type=Path, help="folder for prepared data, to be used again")
    parser.add_argument("--patch", type=int, default=96)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="of each side in each round")
    parser.add_argument("--warm-up", type=int, default=1, help="steps that do not count")
    parser.add_argument("--note", default="", help="what else the machine was doing")
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: asked.threads])
    with tempfile.TemporaryDirectory() as temporary:
        place = (asked.place or Path(temporary)).resolve()
        place.mkdir(parents=True, exist_ok=True)
        taking_part = sides(asked, prepare(asked, place), place)
        measure(taking_part, asked)
    rows = rows_of(taking_part, asked)
    add_rows(RESULTS / "train_speed.csv", rows)
    for row in rows:
        print(
            f"{row['side']:24s}{row['steps_per_s']} steps/s ({row['lowest']} to {row['highest']}),"
            f" {row['times_nnunet']} times nnU-Net, {float(row['share_waiting']):.1%} waiting for"
            f" data, {row['peak_mb']} MB"
        )


if __name__ == "__main__":
    main()
