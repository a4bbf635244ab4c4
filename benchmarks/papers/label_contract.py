"""What incomplete labels are worth: three ways to use them, on malc at 2 mm, equal steps.

    python -m benchmarks.papers.label_contract [--data ../shared/data/malc] [--steps N]
        [--seeds 0 1] [--head neuromorphometrics138|aseg32] [--patch 64]
        [--channels 16 32 64 128] [--work runs/label_contract] [--only subcortical/contract ...]

Five scans are labeled completely. Of the ten others,

- **subcortical**: only the 15 structures of FSL FIRST were drawn;
- **dropped**: of these 15, another five were skipped in each scan;
- **halves**: in each scan a random half of all 138 structures was drawn.

They are used in one of three ways: **contract** (what was not looked for may be anything but what
was), **background** (what was not drawn counts as background), or **left out** (five scans only,
the same for all three). **complete** has all labels of all fifteen scans: what could be had at
best. Each run is scored once, after its last step, on the two validation scans.

All runs start from one network, trained on the five complete scans at 4 mm (`--start-steps`), and
cases are drawn in proportion to the structures that their labels are taken to tell apart.

`--head aseg32` learns the 32 structures of aseg32 from the same maps, which takes far fewer steps
than all 138: for machines without a GPU.

Stop it at any time; the same command goes on. Rows go to benchmarks/results/label_contract.csv.
"""

import argparse
import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.common import RESULTS, add_rows, provenance
from fewlabel.cohort import Case, Cohort, write_cohort
from fewlabel.datasets import index_folder
from fewlabel.io import read_labels, write_labels
from fewlabel.labels import LabelProtocol, load_protocol
from fewlabel.train.progress import shown
from fewlabel.train_run import Means, train_run
from fewlabel.volume import LabelMap

TABLE = RESULTS / "label_contract.csv"
PROTOCOL = load_protocol("neuromorphometrics138")
SCENARIOS = ("subcortical", "dropped", "halves")
COMPLETE = 5
DROPPED = 5


@dataclass(frozen=True)
class Trial:
    """One run.

    Attributes:
        scenario: What is missing.
        way: What is done about it.
        seed: Of the training; what is missing is always the same.
    """

    scenario: str
    way: str
    seed: int

    @property
    def name(self) -> str:
        """What `--only` takes."""
        return f"{self.scenario}/{self.way}"


def trials(seeds: Sequence[int]) -> Iterator[Trial]:
    for seed in seeds:
        yield Trial("five", "left out", seed)
        for scenario in SCENARIOS:
            yield Trial(scenario, "contract", seed)
            yield Trial(scenario, "background", seed)
        yield Trial("fifteen", "complete", seed)


def subcortical(protocol: LabelProtocol) -> tuple[str, ...]:
    """The structures that FSL FIRST draws too."""
    classes = protocol.table_to(load_protocol("fsl15"))[1:-1]
    return tuple(name for name, number in zip(protocol.names, classes, strict=True) if number > 0)


def looked_for(scenario: str, number: int) -> tuple[str, ...]:
    """What was drawn in the scan of that number."""
    rng = np.random.default_rng((SCENARIOS.index(scenario), number))
    names: tuple[str, ...] = PROTOCOL.names if scenario == "halves" else subcortical(PROTOCOL)
    n_kept = {"subcortical": len(names), "dropped": len(names) - DROPPED}.get(
        scenario, len(names) // 2
    )
    kept = set(rng.choice(len(names), n_kept, replace=False).tolist())
    return tuple(name for n, name in enumerate(names) if n in kept)


def incomplete(case: Case, drawn: tuple[str, ...], trial: Trial, folder: Path) -> Case:
    """The case with everything erased from its label map that was not drawn."""
    path = folder / trial.scenario / f"{case.id}_dseg.nii.gz"
    if not path.exists():
        assert case.labels is not None
        labels = read_labels(case.labels, PROTOCOL)
        numbers = [PROTOCOL.class_of(name) for name in drawn]
        kept = np.where(np.isin(labels.data, [-1, *numbers]), labels.data, 0).astype(np.int16)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_labels(LabelMap(kept, labels.grid, PROTOCOL), path)
    return replace(case, labels=path, looked_for=drawn if trial.way == "contract" else None)


def cohort_of(trial: Trial, data: Path, folder: Path) -> Cohort:
    everybody = index_folder(data).cohort
    train, val = everybody.part("train"), everybody.part("val")
    if trial.way == "left out":
        return Cohort((*train[:COMPLETE], *val))
    if trial.way == "complete":
        return Cohort((*train, *val))
    others = [
        incomplete(case, looked_for(trial.scenario, number), trial, folder)
        for number, case in enumerate(train[COMPLETE:])
    ]
    return Cohort((*train[:COMPLETE], *others, *val))


def settings_of(trial: Trial, manifest: Path, asked: argparse.Namespace) -> dict[str, Any]:
    return {
        "recipe": "supervised",
        "seed": trial.seed,
        "precision": asked.precision,
        "data": {"cohort": str(manifest)},
        "protocols": [asked.head],
        "working": {"spacing_mm": asked.spacing},
        "patches": {"size": [asked.patch] * 3, "batch": 1, "balance": 1.0},
        "augment": {"elastic_voxels": 1.5},
        "channels": asked.channels,
        "steps": asked.steps,
        "validate_every": asked.steps,
        "allow_empty_classes": True,
        "optimizer": {
            "kind": "adamw", "learning_rate": asked.rate, "weight_decay": 1e-4,
            "warmup_steps": min(100, asked.steps // 10), "decay": "poly",
            "ema": 0.995 if asked.steps >= 500 else 0.0,
        },
    }  # fmt: skip


def start(seed: int, asked: argparse.Namespace) -> Path:
    """The network that all runs of a seed start from: five complete scans, 4 mm, whole brains."""
    trial = Trial("five", "left out", seed)
    out = asked.work / f"start_{asked.head}_{asked.start_steps}_steps" / f"seed{seed}"
    manifest = out.parent / "cohort.tsv"
    if not manifest.exists():
        write_cohort(cohort_of(trial, asked.data, asked.work), manifest)
    settings = settings_of(trial, manifest, asked) | {
        "working": {"spacing_mm": 4.0},
        "patches": {"size": [48] * 3, "batch": 1},
        "steps": asked.start_steps,
        "validate_every": asked.start_steps,
    }
    settings["optimizer"] |= {"learning_rate": 2e-3}
    train(out, settings, asked)
    return out


def run(trial: Trial, asked: argparse.Namespace) -> Path:
    """Train, or take up, or do nothing if all is done; the folder with `validation.csv`."""
    place = asked.work / f"{asked.head}_{asked.steps}_steps"
    name = trial.name.replace("/", "_").replace(" ", "_")
    out = place / name / f"seed{trial.seed}"
    manifest = place / "cohorts" / f"{name}.tsv"
    if not manifest.exists():
        write_cohort(cohort_of(trial, asked.data, place / "labels"), manifest)
    settings = settings_of(trial, manifest, asked)
    train(out, settings | {"start": str(start(trial.seed, asked))}, asked)
    return out


def train(out: Path, settings: dict[str, Any], asked: argparse.Namespace) -> None:
    file = out.with_suffix(".yaml")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(settings))
    with shown() as watch:
        means = Means(device="cpu", cache=asked.work / "cache", watch=watch)
        train_run(file, out, resume=True, means=means)


def rows_of(trial: Trial, out: Path, asked: argparse.Namespace) -> list[dict[str, str | float]]:
    """Mean Dice and its spread over structures and scans, for those that FIRST draws and others."""
    with (out / "validation.csv").open(newline="") as stream:
        scores = [(row["structure"], float(row["dice"])) for row in csv.DictReader(stream)]
    drawn = set(subcortical(load_protocol(asked.head)))
    groups = {
        "all": [dice for _, dice in scores],
        "subcortical": [dice for name, dice in scores if name in drawn],
        "others": [dice for name, dice in scores if name not in drawn],
    }
    about = provenance(f"{asked.spacing} mm, patches of {asked.patch}, channels {asked.channels}")
    return [
        {
            "head": asked.head, "scenario": trial.scenario, "way": trial.way, "seed": trial.seed,
            "steps": asked.steps,
            "structures": group, "dice": round(mean(values), 4), "sd": round(stdev(values), 4),
            "n": len(values), **about,
        }
        for group, values in groups.items()
    ]  # fmt: skip


def is_written(trial: Trial, asked: argparse.Namespace) -> bool:
    if not TABLE.exists():
        return False
    with TABLE.open(newline="") as stream:
        keys = ("head", "scenario", "way", "seed", "steps")
        done = {tuple(row[key] for key in keys) for row in csv.DictReader(stream)}
    return (asked.head, trial.scenario, trial.way, str(trial.seed), str(asked.steps)) in done


def summary(head: str, steps: int) -> Table:
    """The table with seeds averaged."""
    with TABLE.open(newline="") as stream:
        rows = [
            row
            for row in csv.DictReader(stream)
            if (row["head"], row["steps"]) == (head, str(steps))
        ]
    table = Table("scenario", "way", "all", "subcortical", "others", "seeds")
    for scenario, way in dict.fromkeys((row["scenario"], row["way"]) for row in rows):
        here = [row for row in rows if (row["scenario"], row["way"]) == (scenario, way)]
        cells = []
        for group in ("all", "subcortical", "others"):
            of_group = [row for row in here if row["structures"] == group]
            spread = mean(float(row["sd"]) for row in of_group)
            cells.append(f"{mean(float(row['dice']) for row in of_group):.3f} ± {spread:.3f}")
        table.add_row(scenario, way, *cells, str(len({row["seed"] for row in here})))
    return table


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--data", type=Path, default=Path("../shared/data/malc"))
    ask.add_argument("--work", type=Path, default=Path("runs/label_contract"))
    ask.add_argument("--steps", type=int, default=2000)
    ask.add_argument("--start-steps", type=int, default=1000)
    ask.add_argument("--rate", type=float, default=1e-3)
    ask.add_argument("--seeds", type=int, nargs="+", default=[0])
    ask.add_argument("--spacing", type=float, default=2.0)
    ask.add_argument("--head", choices=("neuromorphometrics138", "aseg32"), default=PROTOCOL.name)
    ask.add_argument("--patch", type=int, default=64)
    ask.add_argument("--channels", type=int, nargs="+", default=[16, 32, 64, 128])
    ask.add_argument("--precision", choices=("32", "bf16"), default="bf16")
    ask.add_argument("--only", nargs="+", help="such as subcortical/contract 'five/left out'")
    asked = ask.parse_args()
    for trial in trials(asked.seeds):
        if asked.only and trial.name not in asked.only:
            continue
        if not is_written(trial, asked):
            add_rows(TABLE, rows_of(trial, run(trial, asked), asked))
    Console().print(summary(asked.head, asked.steps))


if __name__ == "__main__":
    main()
