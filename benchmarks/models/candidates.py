r"""What pays when a network learns from label maps: one change at a time, under one budget.

    OMP_NUM_THREADS=1 python -m benchmarks.models.candidates [NAME ...] [--steps 1500]
        [--shared ../shared/data] [--work runs/candidates]

Each candidate is the plain network but for one change, and is trained from random weights with as
many steps, of an image each: at 4 mm, the level that `adult-aseg32` began with, and with half its
feature maps, so that one takes ten minutes of one core. All are scored alike, without offsets and
slopes: on the `val` scans of `malc` and `oasis-trt`, on their own voxels, and on images painted
from the label maps (see `contrast.py`). `plain, other chance` differs in nothing but the seed: what
differs less from `plain` than that may be chance. What pays here need not pay at 1 mm.

Several names may be trained side by side by several processes; one that was stopped goes on. Rows
go to benchmarks/results/candidates.csv.
"""

import argparse
import contextlib
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import yaml
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common import RESULTS, add_rows, provenance, read_rows
from benchmarks.models.contrast import KINDS, PALETTE, painted, score
from benchmarks.models.finetuning import scored
from fewlabel.conform import GridRule
from fewlabel.datasets import index_folder
from fewlabel.engine import Compute
from fewlabel.export import export_run
from fewlabel.heads import read_heads
from fewlabel.labels import UNLABELED
from fewlabel.model import ModelFolder
from fewlabel.palette import load_palette
from fewlabel.recipes import synthetic
from fewlabel.sampling import gaussian_blur
from fewlabel.segmenter import Segmenter
from fewlabel.train.stage import Losses
from fewlabel.train_run import Means, train_run
from fewlabel.tune import seconds_of

PAINTED = ("like T1w", "like T2w", "random")
IMAGES = 4
TABLE = RESULTS / "candidates.csv"


@dataclass(frozen=True)
class Candidate:
    """A change to the plain network: settings, those of its images, or functions of the recipe."""

    settings: dict[str, Any] = field(default_factory=dict)
    synthesis: dict[str, Any] = field(default_factory=dict)
    functions: dict[str, Any] = field(default_factory=dict)


def softly(logits: Tensor, classes: Tensor, weights: Tensor, spread: float) -> Losses:
    """The recipe's loss with targets that are blurred across borders, by so many voxels."""
    n = logits.shape[1]
    known = (classes != UNLABELED)[:, None]
    sharp = F.one_hot(classes.clamp(min=0), n).movedim(-1, 1).float() * known
    soft = torch.stack([torch.stack([gaussian_blur(c, spread) for c in one]) for one in sharp])
    target = known * soft / soft.sum(1, keepdim=True).clamp(min=1e-6)
    likely = torch.log_softmax(logits.float(), dim=1)
    weighted = target * weights.reshape(1, n, 1, 1, 1)
    entropy = -(weighted * likely).sum() / weighted.sum().clamp(min=1)
    there = sharp.flatten(2).any(-1)[:, 1:]
    p, t = (x.flatten(2)[:, 1:] for x in (likely.exp() * known, target))
    overlap = 2 * (p * t).sum(-1) / (p.square() + t.square()).sum(-1).clamp(min=1e-6)
    dice = 1 - overlap[there].mean() if there.any() else entropy * 0
    return {"total": entropy + dice, "cross-entropy": entropy, "dice": dice}


def judged_at_half_resolution_too(config: synthetic.Config) -> dict[str, Any]:
    """Arguments of a network with logits at two resolutions."""
    return {"channels": list(config.channels), "depths": 2}


CANDIDATES = {
    "plain": Candidate(),
    "plain, other chance": Candidate({"seed": 1}),
    "twice as wide": Candidate({"channels": [16, 32, 64, 128, 160]}),
    "a level less": Candidate({"channels": [8, 16, 32, 64]}),
    "deep supervision": Candidate(functions={"_shape": judged_at_half_resolution_too}),
    "soft targets": Candidate(functions={"_judged": partial(softly, spread=0.5)}),
    "random contrasts only": Candidate(synthesis={"contrasts": {"random": 1.0}, "kinship": 0.0}),
    "like T1w only": Candidate(synthesis={"contrasts": {"t1": 1.0}}),
    "each tissue by itself": Candidate(synthesis={"kinship": 0.0}),
    "no mean of weights": Candidate({"ema": None}),
}


def settings(candidate: Candidate, maps: Path, steps: int) -> dict[str, Any]:
    """What a run of it reads."""
    synthesis = {
        "translation_mm": 8.0, "noise": [0.0, 0.04], "kinship": 0.7,
        "contrasts": {"t1": 0.74, "t2": 0.08, "random": 0.18},
    } | candidate.synthesis  # fmt: skip
    level = {
        "spacing_mm": 4.0, "steps": steps, "learning_rate": 3e-3, "field_mm": [160, 192, 160],
        "synthesis": synthesis,
    }  # fmt: skip
    optimizer = {
        "kind": "adamw", "weight_decay": 1e-4, "warmup_steps": 20, "decay": "poly", "clip": 1.0,
        "ema": candidate.settings.get("ema", 0.98),
    }  # fmt: skip
    return {
        "recipe": "synthetic", "seed": candidate.settings.get("seed", 0),
        "label_maps": str(maps), "palette": PALETTE, "protocol": "aseg32", "unweight": 1.0,
        "channels": candidate.settings.get("channels", [8, 16, 32, 64, 80]),
        "optimizer": optimizer, "levels": [level],
    }  # fmt: skip


@contextlib.contextmanager
def in_place(functions: dict[str, Any]) -> Iterator[None]:
    """Functions of the recipe exchanged; what does not pay shall leave no trace in it."""
    with contextlib.ExitStack() as stack:
        for name, other in functions.items():
            stack.enter_context(patch.object(synthetic, name, other))
        yield


def trained(name: str, work: Path, maps: Path, steps: int) -> tuple[ModelFolder, float]:
    """A candidate's model folder, and the minutes that it learned."""
    candidate, run = CANDIDATES[name], work / name.replace(" ", "-").replace(",", "")
    run.parent.mkdir(parents=True, exist_ok=True)
    config = run.with_suffix(".yaml")
    config.write_text(yaml.safe_dump(settings(candidate, maps, steps)))
    with in_place(candidate.functions):
        train_run(config, run, resume=run.exists(), means=Means(device="cpu", workers=1))
        out = run.with_name(f"{run.name}-model")
        return export_run(run, out).model, seconds_of(run) / 60


def on_painted(model: ModelFolder, maps: Path, kind: str) -> float:
    """Mean Dice over images of a kind."""
    card, segmenter = model.card, Segmenter(model, Compute(threads=1))
    assert isinstance(card.grid, GridRule)
    heads = read_heads(maps, load_palette(PALETTE, card.protocol), card.grid.field_mm)
    pairs = [painted(heads, card, kind, number) for number in range(IMAGES)]
    return statistics.fmean(score(segmenter(scan).labels, truth) for scan, truth in pairs)


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("names", nargs="*", help=f"of {', '.join(CANDIDATES)}; all by default")
    ask.add_argument("--steps", type=int, default=1500)
    ask.add_argument("--shared", type=Path, default=Path("../shared/data"))
    ask.add_argument("--work", type=Path, default=Path("runs") / "candidates")
    ask.add_argument("--note", default="")
    asked = ask.parse_args()
    shared = asked.shared.resolve()
    assert set(PAINTED) <= set(KINDS)
    for name in asked.names or CANDIDATES:
        if any(row["candidate"] == name for row in read_rows(TABLE)):
            continue
        begin = time.perf_counter()
        model, minutes = trained(name, asked.work.resolve(), shared / "label-maps", asked.steps)
        row: dict[str, str | float] = {**provenance(asked.note), "candidate": name}
        for data, desc in (("malc", ""), ("oasis-trt", "dktaseg")):
            cases = index_folder(shared / data, desc=desc).cohort.part("val")
            values = scored(model, cases, threads=1)
            row |= {f"{data}_n": len(values), data: f"{np.mean(list(values.values())):.4f}"}
        row |= {kind: f"{on_painted(model, shared / 'label-maps', kind):.4f}" for kind in PAINTED}
        row |= {"minutes": f"{minutes:.1f}", "megabytes": f"{model.onnx.stat().st_size / 1e6:.2f}"}
        add_rows(TABLE, [row])
        print(row, f"{(time.perf_counter() - begin) / 60:.1f} minutes in all", flush=True)


if __name__ == "__main__":
    main()
