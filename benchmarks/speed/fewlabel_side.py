"""fewlabel's half of train_vs_nnunet.py.

    python fewlabel_side.py SETTINGS.json 32|bf16

The supervised recipe in the loop that `fewlabel train` runs, conformed scans in the cache. A line
on standard input says how many steps to take, and a line of JSON on standard output says how long
they took.
"""

import copy
import json
import resource
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fewlabel.batches import PatchConfig
from fewlabel.cohort import read_cohort
from fewlabel.datasets.choice import DataConfig
from fewlabel.recipes import supervised
from fewlabel.train.cpu import keep_memory
from fewlabel.train.loop import train
from fewlabel.train.run import Progress, Run
from fewlabel.train.stage import Workplace

STEPS = 399  # more than are ever asked for, and few enough that the loop reports each


@dataclass
class Blocks:
    """Measures blocks of steps from within the loop, which asks after each step whether to stop."""

    left: int = 0
    begin: float = 0.0
    waited: float = 0.0
    waited_before: float = 0.0
    values: dict[str, float] = field(default_factory=dict)

    def next_block(self) -> bool:
        """Wait to be asked for steps; whether there will be more."""
        line = sys.stdin.readline()
        self.left = int(line or 0)
        self.begin, self.waited_before = time.perf_counter(), self.waited
        return bool(line)

    def watch(self, progress: Progress) -> None:
        """Note what the loop says of its waiting since it began."""
        passed = progress.step / progress.values["steps per second"]
        self.waited = progress.values["share waiting for data"] * passed
        self.values = progress.values

    def stop(self) -> bool:
        """Called after each step: at the end of a block, answer and wait for the next."""
        self.left -= 1
        if self.left:
            return False
        said = {
            "took": time.perf_counter() - self.begin,
            "waited": self.waited - self.waited_before,
            "loss": self.values["total"],
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        print(json.dumps(said), flush=True)
        return not self.next_block()


def size_of(network: nn.Module, patch: int) -> dict[str, float]:
    """Weights, and billions of multiplications and additions of a patch's way forward."""
    with FlopCounterMode(display=False) as counted, torch.device("meta"):
        copy.deepcopy(network).to("meta").deep(torch.zeros(1, 1, patch, patch, patch))
    weights = sum(weight.numel() for weight in network.parameters())
    return {"weights": weights, "gflop": counted.get_total_flops() / 1e9}


def config_of(settings: dict[str, Any]) -> supervised.Config:
    """The recipe as it is, but for what both sides have in common."""
    manifest = Path(settings["manifest"])
    return supervised.Config(
        data=DataConfig(cohort=manifest),
        protocols=(read_cohort(manifest).cases[0].protocol,),
        patches=PatchConfig(size=(settings["patch"],) * 3, batch=settings["batch"]),
        channels=tuple(settings["channels"]),
        depths=len(settings["channels"]) - 1,
        steps=STEPS,
        allow_empty_classes=True,
    )


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text())
    keep_memory()
    torch.set_num_threads(settings["threads"])
    place = Path(settings["place"])
    with tempfile.TemporaryDirectory(dir=place) as folder:
        work = Workplace(Path(folder), place / "cache")
        (stage,) = supervised.stages(config_of(settings), 0, work)
        print(json.dumps(size_of(stage.networks["net"], settings["patch"])), flush=True)
        blocks = Blocks()
        blocks.next_block()
        precision = "bf16" if sys.argv[2] == "bf16" else "32"
        run = Run(work.run, precision=precision, watch=blocks.watch, stop=blocks.stop)
        with suppress(KeyboardInterrupt):  # how a run ends that is asked to stop
            train([stage], run)


if __name__ == "__main__":
    main()
