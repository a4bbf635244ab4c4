"""What a few labeled scans and half an hour of two cores are worth to an embedded model.

    python -m benchmarks.models.finetuning [--people 1 5] [--steps 150]
        [--ways plain adapted fine-tuned ...] [--data ../shared/data/malc]
        [--protocol neuromorphometrics138]
        [--work runs/finetuning] [--threads 2]

So many people of the training split, drawn at random, teach; ten others are scored on their own
voxels, by every way of learning from the former:

- **plain**: nothing is learned; the network without the offsets and slopes that it ships with, as
  those come from scans of the same annotators.
- **adapted**: offsets and slopes are chosen (`fewlabel adapt`).
- **fine-tuned**: all weights move, from the embedded ones (recipe `finetune`); the network sees
  whole fields, as it is used to.
- **logarithm**: the same with minus the logarithm of Dice (`objective.dice: log`).
- **both**: the fine-tuned network is adapted, to the same scans.
- **in patches**: the same as fine-tuned, but that it sees patches only.
- **scratch**: the same network with the same steps and patches, from random weights.
- **propagated**: nothing is learned; their labels are registered to each scan, and vote.

With `--protocol`, all its structures are learned, most of which the model does not know: there is
nothing to adapt then. Stop it at any time; the same command goes on. Rows go to
benchmarks/results/finetuning_MODEL.csv, or finetuning_MODEL_PROTOCOL.csv.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.common import RESULTS, add_rows, provenance, read_rows
from fewlabel.adapt import adapt, write_adapted
from fewlabel.cohort import Case, Cohort, write_cohort
from fewlabel.datasets import index_folder
from fewlabel.engine import Compute
from fewlabel.export import export_run
from fewlabel.io import read_scan
from fewlabel.labels import LabelProtocol, load_protocol
from fewlabel.metrics import dice
from fewlabel.modalities import truth_of
from fewlabel.model import ModelFolder, copy_model, find_model, read_model
from fewlabel.propagate import Atlas, propagate
from fewlabel.segmenter import Segmenter
from fewlabel.tune import seconds_of
from fewlabel.volume import LabelMap, Scan

Labeler = Callable[[Scan], LabelMap]
SCORED = 10
KNOWN = ("plain", "adapted", "both")
"""Ways that need a model which knows the structures."""
WAYS = (*KNOWN, "fine-tuned", "logarithm", "in patches", "scratch", "propagated")
PATCH = 96
"""Voxels of 1 mm that are judged in each step, of a field of 160 x 192 x 160."""


def shuffled(cases: Sequence[Case]) -> list[Case]:
    """Always in the same order: the first teach, the last are scored."""
    return [cases[n] for n in np.random.default_rng(0).permutation(len(cases))]


def settings(way: str, model: Path, cohort: Path, asked: Any) -> dict[str, Any]:
    """A learning rate a tenth of what a new network gets; otherwise alike."""
    scratch = way == "scratch"
    return {
        "recipe": "finetune", "seed": 0, "source": str(model),
        "strategy": "scratch" if scratch else "full",
        "protocols": [asked.protocol] if asked.protocol else [],
        "windows": True if way in ("in patches", "scratch") else None,
        "data": {"cohort": str(cohort)}, "allow_empty_classes": True,
        "objective": {"dice": "log" if way == "logarithm" else "linear"},
        "patches": {"size": [PATCH] * 3, "batch": 1}, "steps": asked.steps,
        "optimizer": {
            "kind": "adamw", "learning_rate": 1e-2 if scratch else 1e-3, "weight_decay": 1e-4,
            "decay": "poly", "warmup_steps": 20, "ema": 0.99, "clip": 1.0,
        },
    }  # fmt: skip


def without_style(model: ModelFolder, out: Path) -> ModelFolder:
    """A copy of a model without offsets and slopes."""
    card = model.card.model_copy(update={"offsets": {}, "slopes": {}, "measured": ()})
    return copy_model(model, out, card)


def taught(way: str, model: ModelFolder, few: Sequence[Case], run: Path, asked: Any) -> ModelFolder:
    """The model that a way makes of a few labeled scans."""
    work, out = run.parent, run.with_name(f"{run.name}-model")
    if way == "plain":
        return model
    if way in ("adapted", "both"):
        before = model if way == "adapted" else read_model(work / "fine-tuned-model")
        return write_adapted(before, adapt(before, few, Compute(threads=asked.threads)), out)
    manifest, config = work / "few.tsv", run.with_suffix(".yaml")
    write_cohort(Cohort(tuple(few)), manifest)
    config.write_text(yaml.safe_dump(settings(way, model.folder, manifest, asked)))
    program = str(Path(sys.executable).with_name("fewlabel"))
    words = [program, "train", str(config), "--out", str(run), "--device", "cpu"]
    words += ["--devices", str(asked.threads), "--cache", str(work / "cache")]
    words += ["--resume"] if run.exists() else []
    subprocess.run(words, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return export_run(run, out).model


def labeler(model: ModelFolder, threads: int) -> Labeler:
    """How a model labels a scan."""
    segmenter = Segmenter(model, Compute(threads=threads))
    return lambda scan: segmenter(scan).labels


def propagator(few: Sequence[Case], protocol: LabelProtocol) -> Labeler:
    """How labeled people vote on a scan."""
    atlases = [Atlas(read_scan(case.scans["T1w"]), truth_of(case, protocol)) for case in few]
    return lambda scan: propagate(atlases, scan).labels


def scored(label: Labeler, cases: Sequence[Case], protocol: LabelProtocol) -> dict[str, float]:
    """Mean Dice over structures of each case, on its own voxels."""
    found = {}
    for case in cases:
        truth = truth_of(case, protocol)
        said = label(read_scan(case.scans["T1w"])).to(truth.protocol)
        found[case.id] = float(np.nanmean(list(dice(said, truth).values())))
    return found


def wanted() -> argparse.Namespace:
    """What the command says."""
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--model", default="adult-aseg32")
    ask.add_argument("--people", type=int, nargs="+", default=[1, 5])
    ask.add_argument("--steps", type=int, default=150)
    ask.add_argument("--ways", nargs="+", choices=WAYS)
    ask.add_argument("--protocol", help="structures to learn; else those of the model")
    ask.add_argument("--data", type=Path, default=Path("../shared/data/malc"))
    ask.add_argument("--work", type=Path, default=Path("runs") / "finetuning")
    ask.add_argument("--threads", type=int, default=2)
    ask.add_argument("--note", default="")
    asked = ask.parse_args()
    possible = WAYS[len(KNOWN) :] if asked.protocol else WAYS
    asked.ways = asked.ways or possible
    if not set(asked.ways) <= set(possible):
        raise SystemExit(f"{', '.join(KNOWN)} need the structures of {asked.model}.")
    return asked


def main() -> None:
    asked = wanted()
    name = "_".join(filter(None, ("finetuning", asked.model, asked.protocol)))
    table = RESULTS / f"{name}.csv"
    cases = index_folder(asked.data.resolve()).cohort.part("train")
    if max(asked.people) + SCORED > len(cases):
        raise SystemExit(f"{len(cases)} people are too few: {SCORED} are scored.")
    order = shuffled(cases)
    for n in asked.people:
        work = asked.work.resolve() / f"{asked.data.name}-{n}" / (asked.protocol or "")
        work.mkdir(parents=True, exist_ok=True)
        model = without_style(find_model(asked.model), work / "plain-model")
        protocol = load_protocol(asked.protocol) if asked.protocol else model.card.protocol
        for way in asked.ways:
            known = {"data": asked.data.name, "people": str(n), "way": way}
            if any(known.items() <= row.items() for row in read_rows(table)):
                continue
            begin = time.perf_counter()
            run = work / way.replace(" ", "-")
            if way == "propagated":
                label = propagator(order[:n], protocol)
            else:
                label = labeler(taught(way, model, order[:n], run, asked), asked.threads)
            seconds = seconds_of(run) if run.exists() else time.perf_counter() - begin
            minutes = f"{seconds / 60:.1f}"
            about = provenance(asked.note) | known | {"minutes": minutes}
            values = scored(label, order[-SCORED:], protocol)
            add_rows(table, [about | {"case": c, "dice": f"{v:.4f}"} for c, v in values.items()])
            spread = f"{min(values.values()):.3f} to {max(values.values()):.3f}"
            mean = statistics.fmean(values.values())
            print(f"{n} people, {way}: {mean:.4f} ({spread}), {minutes} minutes", flush=True)


if __name__ == "__main__":
    main()
