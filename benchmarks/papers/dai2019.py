"""The method of dai2019 on malc: U-Net (FS), U-Net (FT) and MO-Net with 1, 5 and 15 labeled scans.

    python -m benchmarks.papers.dai2019 --size cpu [--data ../shared/data] [--work runs/dai2019]
        [--steps N] [--pretrain-steps N] [--only joint-n1 ...] [--partial fsl15]
        [--label-maps ../shared/data/label-maps --synthetic 0.2]

The paper's scenario: many scans with a few structures drawn by a program, few with all drawn by
hand. The program is the embedded model adult-aseg32, which has seen no real scan; it draws the
15 structures of FSL FIRST in the 15 training scans of malc and in ibsr18. One pre-training on
these serves all FT and MO-Net runs; stage 2 has equal steps for all. No manual label is used in
stage 1, and the two scored scans are in neither stage. The last weights are scored, on the
scans' own grids.

Stop it at any time: what is trained and scored is kept, and the same command goes on. Rows go to
benchmarks/results/dai2019_SIZE.csv, models to benchmarks/papers/models, figures to docs/papers.
"""

import argparse
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from benchmarks.papers.dai2019_figures import draw_boxes, draw_slices
from benchmarks.papers.dai2019_scores import keep, read_table, score, summary
from fewlabel.auto import annotate, by_model, write_table
from fewlabel.cohort import Case, Cohort, write_cohort
from fewlabel.datasets import index_folder
from fewlabel.export import Choice, export_run
from fewlabel.labels import load_protocol
from fewlabel.model import find_model, read_model
from fewlabel.predict import giving
from fewlabel.train.progress import shown
from fewlabel.train_run import Means, train_run

ROOT = Path(__file__).parents[2]
MODELS = Path(__file__).parent / "models"
NAMES = {"scratch": "fs", "finetune": "ft", "joint": "mo-net"}
TITLES = {"scratch": "U-Net (FS)", "finetune": "U-Net (FT)", "joint": "MO-Net"}
COUNTS = (1, 5, 15)
LARGEST_MB = 8.0
LICENSE = "research use: trained on malc (CC BY-NC 3.0; labels by Neuromorphometrics, Inc.)"
SIZES: dict[str, dict[str, Any]] = {
    "cpu": {
        "precision": "bf16",
        "working": {"spacing_mm": 2.0, "intensity": "robust_scale"},
        "patches": {"size": [64, 64, 64], "batch": 1, "foreground": 0.67},
        "augment": {
            "flip": 0.5, "move": 0.8, "rotation_deg": 15, "scaling": 0.15, "elastic_voxels": 1.5,
            "chance": 0.2,
        },
        "channels": [16, 32, 64, 96, 96],
        "dice_weight": 1.0,
        "optimizer": {
            "kind": "adam", "learning_rate": 1e-3, "warmup_steps": 30, "decay": "poly",
            "ema": 0.98,
        },
    },
    "full": {
        "precision": "bf16",
        "working": {"spacing_mm": 1.0, "intensity": "z_score"},
        "patches": {"size": [128, 128, 128], "batch": 1, "foreground": 0},
        "channels": [16, 32, 64, 96, 96],
        "dice_weight": 1.0,
        "optimizer": {"kind": "adam", "learning_rate": 1e-3, "decay": "poly", "ema": 0.995},
    },
}  # fmt: skip
STEPS = {"cpu": (300, 2500), "full": (3000, 12000)}
"""Of stage 2 and of stage 1."""
RATE = {"cpu": 1e-2, "full": 1e-3}
"""Of stage 2. In as few steps as on a CPU, the paper's 1e-3 does not learn 138 structures."""


# Data


def everybody(asked: argparse.Namespace) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """Scans of malc to train on, and those to score."""
    cohort = index_folder(asked.data / "malc").cohort
    return cohort.part("train"), cohort.part("val")


def annotated(asked: argparse.Namespace) -> Path:
    """The manifest of stage 1: scans in which the embedded model has drawn."""
    manifest = asked.work / f"partial-{asked.partial}.tsv"
    if manifest.exists():
        return manifest
    protocol, out = load_protocol(asked.partial), asked.work / "auto"
    cases = (*everybody(asked)[0], *index_folder(asked.data / "ibsr18").cohort.cases)
    scans = {case.scans["T1w"]: case for case in cases}
    found = []
    for one in annotate(list(scans), by_model(find_model(None), protocol), protocol, out):
        print(f"  {one.scan.name}: {one.problem or 'annotated'}", flush=True)
        found.append(one)
    write_table(found, protocol, "adult-aseg32", out)
    done = [
        replace(
            scans[one.scan], labels=one.labels, protocol=protocol.name, looked_for=None,
            split="train", id=f"{scans[one.scan].person.partition('/')[0]}-{scans[one.scan].id}",
        )
        for one in found
        if one.labels
    ]  # fmt: skip
    write_cohort(Cohort(tuple(done)), manifest)
    return manifest


def labeled(n: int, asked: argparse.Namespace) -> Path:
    """The manifest of stage 2: the first n training scans, and those to score."""
    manifest = asked.work / f"malc-n{n}.tsv"
    train, test = everybody(asked)
    cases = (*train[:n], *(replace(case, split="test") for case in test))
    write_cohort(Cohort(cases), manifest)
    return manifest


# Training


def run(name: str, settings: Mapping[str, Any], asked: argparse.Namespace) -> tuple[Path, float]:
    """Train, or take up, or do nothing if all is done; the run folder, and seconds spent."""
    out = asked.work / name
    path = out.with_suffix(".yaml")
    whole = {"recipe": "mo-net", "seed": asked.seed, "partial": asked.partial}
    path.write_text(yaml.safe_dump(whole | SIZES[asked.size] | dict(settings)))
    begin = time.perf_counter()
    with shown() as watch:
        means = Means(device=asked.device, cache=asked.work / "cache", watch=watch)
        train_run(path, out, resume=True, means=means)
    return out, time.perf_counter() - begin


def pretrain(asked: argparse.Namespace) -> Path:
    source: dict[str, Any] = {
        "data": {"cohort": str(annotated(asked))},
        "steps": asked.pretrain_steps,
    }
    if asked.label_maps:
        source |= {"label_maps": str(asked.label_maps), "synthetic": asked.synthetic}
    name = f"pretrain-{asked.partial}-{asked.pretrain_steps}"
    return run(name, {"start": "pretrain", "pretraining": source}, asked)[0]


def train(start: str, n: int, asked: argparse.Namespace) -> tuple[Path, float]:
    settings = {
        "start": start,
        "data": {"cohort": str(labeled(n, asked))},
        "steps": asked.steps,
        "optimizer": SIZES[asked.size]["optimizer"] | {"learning_rate": RATE[asked.size]},
    }
    if start != "scratch":
        settings["pretrained"] = str(pretrain(asked))
    return run(f"{NAMES[start]}-n{n}-{asked.steps}", settings, asked)


# One row, and all of them


def about(method: str, n: int, seconds: float, asked: argparse.Namespace) -> dict[str, Any]:
    return {
        "method": method, "n": n, "seed": asked.seed, "steps": asked.steps,
        "pretrain_steps": asked.pretrain_steps, "partial": asked.partial,
        "train_s": round(seconds),
    }  # fmt: skip


def one(start: str, n: int, asked: argparse.Namespace) -> None:
    """Train, export and score one row of the table."""
    out, seconds = train(start, n, asked)
    folder = MODELS if asked.real else asked.work / "models"
    place = folder / f"dai2019-{NAMES[start]}-n{n}"
    model = export_run(out, place, Choice(license=LICENSE)).model
    if model.size_mb > LARGEST_MB:
        raise SystemExit(f"{place} has {model.size_mb:.1f} MB; at most {LARGEST_MB:g} may stay.")
    rows = score(model, about(TITLES[start], n, seconds, asked), everybody(asked)[1])
    if start == "joint":
        named = about("MO-Net, partial decoder", n, seconds, asked)
        rows += score(giving(model, asked.partial), named, everybody(asked)[1])
    keep(rows, asked)


def arguments() -> argparse.Namespace:
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--size", choices=list(SIZES), required=True)
    ask.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    ask.add_argument("--work", type=Path, default=Path("runs") / "dai2019")
    ask.add_argument("--steps", type=int, help="of stage 2")
    ask.add_argument("--pretrain-steps", type=int)
    ask.add_argument("--partial", default="fsl15", help="protocol of stage 1")
    ask.add_argument("--label-maps", type=Path, help="make up images from these in stage 1, too")
    ask.add_argument("--synthetic", type=float, default=0.2, help="share of made-up images")
    ask.add_argument("--seed", type=int, default=0)
    ask.add_argument("--device", default=None)
    ask.add_argument("--only", nargs="+", default=[], help="such as joint-n1")
    ask.add_argument("--trial", action="store_true", help="write nothing outside of --work")
    ask.add_argument("--note", default="")
    asked = ask.parse_args()
    asked.steps = asked.steps or STEPS[asked.size][0]
    asked.pretrain_steps = asked.pretrain_steps or STEPS[asked.size][1]
    asked.real, asked.work = not asked.trial, asked.work.resolve() / asked.size
    asked.work.mkdir(parents=True, exist_ok=True)
    return asked


def main() -> None:
    asked = arguments()
    done = {(row["method"], int(row["n"])) for row in read_table(asked)}
    automatic = "adult-aseg32 (draws the partial labels)"
    if (automatic, 0) not in done:
        annotated(asked)
        rows = score(find_model(None), about(automatic, 0, 0, asked), everybody(asked)[1])
        keep(rows, asked)
    for n in COUNTS:
        for start in NAMES:
            wanted = not asked.only or f"{start}-n{n}" in asked.only
            if wanted and (TITLES[start], n) not in done:
                one(start, n, asked)
                print("\n".join(summary(read_table(asked))), flush=True)
    print("\n".join(summary(read_table(asked))))
    figures = ROOT / "docs" / "papers" if asked.real else asked.work
    draw_boxes(read_table(asked, "_structures"), figures / f"dai2019-boxes-{asked.size}.png")
    folder = MODELS if asked.real else asked.work / "models"
    models = {TITLES[s]: folder / f"dai2019-{NAMES[s]}-n5" for s in NAMES}
    if all(path.is_dir() for path in models.values()):
        found = {title: read_model(path) for title, path in models.items()}
        draw_slices(everybody(asked)[1][0], found, figures / f"dai2019-slices-{asked.size}.png")


if __name__ == "__main__":
    main()
