"""The method of richter2022: baseline and age, label budgets, six ways to fine-tune.

    python -m benchmarks.papers.richter2022 --size cpu [--only folds budget finetune model]
        [--data ../shared/data] [--work runs/richter2022] [--seeds 0 1 2] [--scale 1.0]

- **folds**: the weeks of neonatal-templates (28 to 44) are dealt to three folds; a network that has
  not seen a fold is scored on it: Dice with both modalities and with each alone, age in weeks.
- **budget**: a third of the slices of three times the scans, chosen in five ways, against all
  slices of a third of the scans (equally many annotated voxels), and against all slices of all
  scans. All take equal steps. On neonatal-templates (4 or 12 of 13 weeks, scored on 4 others) and
  on malc (5 or 15 scans, scored on its 2 validation scans: CSF of the ventricles,
  gray and white matter; 160 steps are not enough for more structures).
- **finetune**: from weeks 37 to 44 to weeks 28 to 33: two for training, four are scored.
- **model**: one network from all weeks, for benchmarks/papers/models/richter2022-neonatal.

Scores are taken on the working grid (2 mm), of the last weights, except those of the folds, which
are taken on the scans' own voxels. Stop it at any time; the same command goes on. Rows go to
benchmarks/results/richter2022_*.csv. `--scale` multiplies all steps, to try the script.
"""

import argparse
import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from benchmarks.common import RESULTS, add_rows, provenance, read_rows
from benchmarks.papers.richter2022_data import (
    BLIND,
    annotated,
    at_2_mm,
    hidden,
    malc,
    rightly_named,
    score_fold,
    split_of,
    usual_age_error,
    weeks,
    with_age_error,
)  # fmt: skip
from benchmarks.papers.richter2022_figures import draw_curves
from benchmarks.papers.richter2022_tables import of_folds, of_structures, over_seeds
from fewlabel.cohort import Case, Cohort, write_cohort
from fewlabel.conform import GridRule
from fewlabel.export import Choice, export_run
from fewlabel.model import read_model
from fewlabel.train.history import History
from fewlabel.train.progress import shown
from fewlabel.train.stage import numbered
from fewlabel.train_run import Means, train_run

ROOT = Path(__file__).parents[2]
MODEL = Path(__file__).parent / "models" / "richter2022-neonatal"
LICENSE = (
    "research use: trained on the neonatal templates of Serag 2012 with the labels of"
    " Makropoulos 2016, which state no terms"
)
FOLDS = tuple(tuple(range(28 + n, 45, 3)) for n in range(3))
BUDGET_TEST = (29, 33, 38, 43)
FEW_WEEKS = (28, 34, 39, 44)
YOUNG_TRAIN, YOUNG_TEST = (29, 32), (28, 30, 31, 33)
FIVE_LEVELS = [12, 24, 48, 64, 64]
STRATEGIES = ("frozen", "inner-1", "inner-2", "inner-all", "full", "scratch")
NEONATAL = {"protocols": ["drawem9"], "working": {"modalities": ["T1w", "T2w"]}}
ADULT = {"protocols": ["tissue3"], "working": {"modalities": ["T1w"]}, "age": False}
STEPS = {
    "folds": (1200, 400, 100),
    "model": (1400, 600, 100),
    "budget": (160,),
    "source": (500,),
    "finetune": (80,),
}
FIELD_MM = (96.0, 128.0, 96.0)
"""What the network looks at: any of the brains, of which the largest has 88 x 119 x 94 mm."""
BUDGETS = {"channels": [16, 32, 64], "patches": {"size": [40, 40, 40], "batch": 1}}
TUNED = {"patches": {"size": [48, 48, 48], "batch": 1}}
"""Small, as there are some fifty runs."""


def settings(kind: dict[str, Any], manifest: Path, steps: int, seed: int) -> dict[str, Any]:
    """At 2 mm, with bold augmentation, as the templates are averages, and few."""
    working = {"spacing_mm": 2.0, "any_modality": True} | kind["working"]
    return {
        "recipe": "neonatal", "seed": seed, "precision": "bf16",
        "data": {"cohort": str(manifest)}, **kind, "working": working,
        "patches": {"size": [48, 64, 48], "batch": 1, "foreground": 0.67},
        "augment": {
            "flip": 0.5, "move": 0.8, "rotation_deg": 20, "scaling": 0.2, "elastic_voxels": 1.5,
            "chance": 0.3,
        },
        "channels": [16, 32, 64, 96], "depths": 2, "steps": steps, "validate_every": steps,
        "optimizer": {
            "kind": "adamw", "learning_rate": 8e-3, "weight_decay": 1e-4, "decay": "poly",
            "warmup_steps": min(50, max(1, steps // 5)), "ema": 0.98, "clip": 1.0,
        },
    }  # fmt: skip


def whole_brain(
    level: tuple[float, int, float], augment: dict[str, float], multiple: int = 8
) -> dict[str, Any]:
    """Settings, but for the data, of one resolution at which the network sees all of a brain.

    Args:
        level: Voxel size in mm, steps, learning rate.
        augment: What is augmented otherwise than in `settings`.
        multiple: What sizes must be divisible by.
    """
    spacing_mm, steps, rate = level
    found = settings(NEONATAL, Path(), steps, 0)
    found["augment"] |= augment
    found["optimizer"]["learning_rate"] = rate
    rule = GridRule(spacing_mm=spacing_mm, field_mm=FIELD_MM, multiple=multiple)
    return found | {
        "working": found["working"] | {"spacing_mm": spacing_mm},
        "patches": found["patches"] | {"size": list(rule.field)},
        "field_mm": list(FIELD_MM),
        "windows": False,
    }


def of_levels(name: str, levels: Sequence[dict[str, Any]]) -> list[str]:
    """Names of the runs of one network: by voxel size, and by number if that comes again."""
    return numbered(f"{name}-{level['working']['spacing_mm']:g}mm" for level in levels)


class Bench:
    """What all parts share: where to work, what is done, how to train."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked, self.work = asked, asked.work.resolve()
        self.work.mkdir(parents=True, exist_ok=True)

    def steps(self, part: str, level: int = 0) -> int:
        return max(4, round(STEPS[part][level] * self.asked.scale))

    def manifest(self, name: str, cases: Sequence[Case]) -> Path:
        path = self.work / "cohorts" / f"{name}.tsv"
        path.parent.mkdir(exist_ok=True)
        write_cohort(Cohort(tuple(cases)), path)
        return path

    def train(self, name: str, found: dict[str, Any]) -> Path:
        """Train, or take up, or do nothing if all is done."""
        path = self.work / f"{name}.yaml"
        path.write_text(yaml.safe_dump(found))
        with shown() as watch:
            means = Means(
                device=self.asked.device, cache=self.work / "cache", workers=self.asked.workers,
                watch=watch,
            )  # fmt: skip
            train_run(path, self.work / name, resume=True, means=means)
        return self.work / name

    def table(self, part: str) -> Path:
        folder = RESULTS if self.asked.scale == 1 else self.work
        return folder / f"richter2022_{part}.csv"

    def rows(self, part: str) -> list[dict[str, str]]:
        return read_rows(self.table(part))

    def keep(self, part: str, rows: list[dict[str, Any]]) -> None:
        add_rows(self.table(part), [{**provenance(self.asked.note), **row} for row in rows])

    def coarse_to_fine(
        self, name: str, cases: Sequence[Case], levels: Sequence[dict[str, Any]]
    ) -> Path:
        """The run of the last of several levels, each from the weights of the one before."""
        manifest, run = self.manifest(name, cases), None
        for part, level in zip(of_levels(name, levels), levels, strict=True):
            found = level | {"data": {"cohort": str(manifest)}, "start": run}
            run = str(self.train(part, found))
        return Path(str(run))

    def levels(self, part: str) -> list[dict[str, Any]]:
        """4 mm first, then 2, then 1, where a step costs 64 times as much as at the start."""
        rates = ((4.0, 1e-2), (2.0, 5e-3), (1.0, 2e-3))
        bold = {"synthetic": 0.2, "drop_modality": 0.4, "scaling": 0.25}
        return [
            whole_brain((spacing_mm, self.steps(part, n), rate), bold)
            for n, (spacing_mm, rate) in enumerate(rates)
        ]


# Folds and the model


def folds(bench: Bench) -> None:
    done = {int(row["fold"]) for row in bench.rows("folds")}
    for number, held in enumerate(FOLDS):
        if number in done:
            continue
        everybody = weeks(bench.asked.data)
        cases = split_of(everybody, held, "val")
        run = bench.coarse_to_fine(f"fold{number}", cases, bench.levels("folds"))
        model = rightly_named(export_run(run, bench.work / f"fold{number}-model").model)
        bench.keep("folds", score_fold(model, cases, number))
        print(*of_folds(bench.rows("folds")), sep="\n", flush=True)


def model(bench: Bench) -> None:
    cases = split_of(weeks(bench.asked.data), (), "val")
    run = bench.coarse_to_fine("model", cases, bench.levels("model"))
    out = MODEL if bench.asked.scale == 1 else bench.work / "richter2022-neonatal"
    error = usual_age_error(bench.rows("folds"))
    print(rightly_named(export_run(run, out, Choice(license=LICENSE)).model).as_text())
    if error is not None:
        with_age_error(read_model(out), error)


# Budgets


def budgets(bench: Bench) -> None:
    done = {(r["data"], r["labels"], r["seed"]) for r in bench.rows("budget")}
    for seed in bench.asked.seeds:
        for data, kind, few, many, test in _sets(bench):
            for labels, choose in _ways(bench, data, few, many, seed):
                if (data, labels, str(seed)) in done:
                    continue
                cases = choose()
                name = f"{data}-{labels.replace(' ', '-')}-{seed}"
                manifest = bench.manifest(name, [*cases, *test])
                found = settings(kind, manifest, bench.steps("budget"), seed)
                found |= BUDGETS | {"validate_every": max(1, bench.steps("budget") // 3)}
                found["allow_empty_classes"] = True
                run = bench.train(name, found)
                row = _row(run, data, labels, seed, len(cases))
                bench.keep("budget", [row | {"annotated_voxels": annotated(cases)}])
                print(f"{name}: {bench.rows('budget')[-1]['dice']}", flush=True)


def _sets(bench: Bench) -> Iterator[tuple[str, dict[str, Any], Sequence[Case], Any, Any]]:
    """Name, settings, few and many cases to train on, those to score."""
    place = bench.work / "at_2_mm"
    cases = at_2_mm(split_of(weeks(bench.asked.data), BUDGET_TEST, "val"), place / "neonatal")
    train = [case for case in cases if case.split == "train"]
    few = [case for case in train if int(case.age_weeks or 0) in FEW_WEEKS]
    several = [case for case in train if int(case.age_weeks or 0) != 36]  # three times as many
    test = [case for case in cases if case.split == "val"]
    yield "neonatal", NEONATAL | {"age": False}, few, several, test
    adults, test = (at_2_mm(part, place / "malc") for part in malc(bench.asked.data))
    yield "malc", ADULT, adults[:5], adults, test


def _ways(
    bench: Bench, data: str, few: Sequence[Case], many: Sequence[Case], seed: int
) -> Iterator[tuple[str, Callable[[], Sequence[Case]]]]:
    yield "all slices of a third", lambda: few
    for strategy in BLIND:
        folder = bench.work / "hidden" / f"{data}-{strategy}-{seed}"
        yield strategy, partial(hidden, many, strategy, seed, folder)
    yield "all slices of all", lambda: many


def _row(run: Path, data: str, labels: str, seed: int, scans: int) -> dict[str, Any]:
    scores = [(step, value) for _, step, name, value in History(run / "history.csv").rows()
              if name == "validation score"]  # fmt: skip
    curve = " ".join(f"{step}:{value:.4f}" for step, value in scores)
    return {"data": data, "labels": labels, "scans": scans, "seed": seed,
            "steps": scores[-1][0], "dice": f"{scores[-1][1]:.4f}", "curve": curve}  # fmt: skip


# Fine-tuning


def finetune(bench: Bench) -> None:
    everybody = weeks(bench.asked.data)
    old = [replace(c, split="train") for c in everybody if (c.age_weeks or 0) >= 37]
    kind = NEONATAL | {"age": False}
    begin = settings(kind, bench.manifest("old", old), bench.steps("source"), 0)
    source = bench.train("source", begin | TUNED | {"channels": FIVE_LEVELS})
    young = [
        replace(c, split="train" if int(c.age_weeks or 0) in YOUNG_TRAIN else "val")
        for c in everybody
        if int(c.age_weeks or 0) in (*YOUNG_TRAIN, *YOUNG_TEST)
    ]
    manifest = bench.manifest("young", young)
    done = {(r["strategy"], r["seed"]) for r in bench.rows("finetune")}
    for seed in bench.asked.seeds:
        for strategy in STRATEGIES:
            if (strategy, str(seed)) in done or (strategy == "frozen" and seed):
                continue
            found = settings(kind, manifest, bench.steps("finetune"), seed)
            found |= TUNED
            for key in ("age", "channels", "protocols", "working"):
                del found[key]
            found["optimizer"]["learning_rate"] = 8e-3 if strategy == "scratch" else 2e-3
            found |= {"recipe": "finetune", "source": str(source), "strategy": strategy}
            found["validate_every"] = max(1, found["steps"] // 2)
            run = bench.train(f"finetune-{strategy}-{seed}", found)
            row = _row(run, "neonatal", strategy, seed, len(YOUNG_TRAIN))
            row["strategy"] = row.pop("labels")
            row["trained_weights"] = _count(run)
            bench.keep("finetune", [row])
            print(f"{strategy} {seed}: {row['dice']}", flush=True)


def _count(run: Path) -> int:
    with (run / "trained_weights.tsv").open(encoding="utf-8", newline="") as stream:
        return sum(int(row["numbers"]) for row in csv.DictReader(stream, delimiter="\t"))


PARTS: dict[str, Callable[[Bench], None]] = {
    "folds": folds, "budget": budgets, "finetune": finetune, "model": model,
}  # fmt: skip


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--size", choices=["cpu"], required=True)
    ask.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    ask.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    ask.add_argument("--work", type=Path, default=Path("runs") / "richter2022")
    ask.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    ask.add_argument("--scale", type=float, default=1.0, help="of all steps, to try the script")
    ask.add_argument("--device", default="cpu")
    ask.add_argument("--workers", type=int, help="threads that draw patches")
    ask.add_argument("--note", default="")
    bench = Bench(ask.parse_args())
    for part in bench.asked.only:
        PARTS[part](bench)
    for table in (of_folds, of_structures):
        print(*table(bench.rows("folds")), sep="\n")
    if bench.rows("budget") and bench.rows("finetune"):
        pages = ROOT / "docs" / "papers" if bench.asked.scale == 1 else bench.work
        picture = pages / "richter2022-curves.png"
        draw_curves(bench.rows("budget"), bench.rows("finetune"), picture)
    print(*over_seeds(bench.rows("budget"), ("data", "labels", "scans")), sep="\n")
    print(*over_seeds(bench.rows("finetune"), ("strategy", "trained_weights")), sep="\n")


if __name__ == "__main__":
    main()
