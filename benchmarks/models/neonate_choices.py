"""What each choice is worth to a network for newborns, tried where training is cheap.

    python -m benchmarks.models.neonate_choices [--seeds 0 1] [--only "plain blocks" ...]
        [--steps 500] [--data ../shared/data] [--work runs/neonate-choices]

The first level of neonate.py, at 3.4 mm, and its first fold: four minutes of a core each. Every
choice differs from `CHOICES[USUAL]` in what is named there only; the weeks held out are scored on
their own voxels of 0.86 mm. Rows, one for each choice, seed and input, go to
benchmarks/results/neonate-drawem9_choices.csv. Stop it at any time; the same command goes on.
"""

import argparse
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, add_rows, provenance, read_rows
from benchmarks.models.neonate import LEVELS, level
from benchmarks.papers.richter2022 import FOLDS, Bench
from benchmarks.papers.richter2022_data import score_fold, split_of, weeks
from benchmarks.papers.richter2022_tables import by_case
from fewlabel.export import Choice, export_run

TABLE = RESULTS / "neonate-drawem9_choices.csv"
USUAL = "as it is"
CHOICES: dict[str, dict[str, Any]] = {
    USUAL: {},
    "half as wide": {"channels": [8, 16, 32, 64]},
    "twice as wide": {"channels": [32, 64, 128, 256]},
    "three levels": {"channels": [16, 32, 64]},
    "plain blocks": {"residual": False},
    "no deep supervision": {"depths": 1},
    "three depths": {"depths": 3},
    "Dice, not its logarithm": {"objective": {"dice": "linear"}},
    "cross-entropy alone": {"objective": {"dice_weight": 0}},
    "no age": {"age": False},
    "no hidden modality": {"augment": {"drop_modality": 0}},
    "nothing repainted": {"augment": {"synthetic": 0}},
    "a fifth repainted": {"augment": {"synthetic": 0.2}},
    "as bold as version 1.1": {
        "augment": {
            "rotation_deg": 20,
            "scaling": 0.2,
            "elastic_voxels": 1.5,
            "chance": 0.3,
            "synthetic": 0.15,
        }
    },
    "bent twice as far": {"augment": {"rotation_deg": 20, "scaling": 0.2, "elastic_voxels": 2.0}},
    "neither bent nor spoiled": {"augment": {"move": 0, "chance": 0, "synthetic": 0}},
    "twice the rate": {"optimizer": {"learning_rate": 2 * LEVELS[0][2]}},
    "half the rate": {"optimizer": {"learning_rate": LEVELS[0][2] / 2}},
}
"""Settings that are changed, by what that is called."""


def changed(settings: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with some replaced, one by one in groups."""
    groups = {key: settings.get(key, {}) | new for key, new in changes.items() if type(new) is dict}
    return settings | changes | groups


def scores(bench: Bench, name: str, seed: int) -> Iterator[dict[str, Any]]:
    """A row for each input: mean Dice over weeks and structures."""
    cases = split_of(weeks(bench.asked.data), FOLDS[0], "val")
    run = f"{re.sub('[^a-z0-9]+', '-', name.lower())}-{seed}"
    found = changed(level(0, bench.asked.steps / LEVELS[0][1]), CHOICES[name])
    found |= {"seed": seed, "data": {"cohort": str(bench.manifest("fold0", cases))}}
    done = export_run(bench.train(run, found), bench.work / f"{run}-model", Choice())
    rows = score_fold(done.model, cases, 0)
    for seen, of_week in by_case(rows).items():
        means = list(of_week.values())
        yield {
            "choice": name, "seed": seed, "steps": bench.asked.steps, "input": seen,
            "weeks": len(means), "dice": f"{statistics.fmean(means):.4f}",
            "least": f"{min(means):.4f}", "most": f"{max(means):.4f}",
        }  # fmt: skip


def table(rows: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """For people: means over seeds, and for both modalities each seed."""
    inputs = list(dict.fromkeys(row["input"] for row in rows))
    yield f"| choice | {' | '.join(inputs)} | seeds |"
    yield "|---" * (len(inputs) + 2) + "|"
    for name in dict.fromkeys(row["choice"] for row in rows):
        of_input = [
            [float(r["dice"]) for r in rows if (r["choice"], r["input"]) == (name, seen)]
            for seen in inputs
        ]
        means = " | ".join(f"{statistics.fmean(values):.3f}" for values in of_input)
        yield f"| {name} | {means} | {', '.join(f'{value:.3f}' for value in of_input[0])} |"


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    ask.add_argument("--only", nargs="+", choices=list(CHOICES), default=list(CHOICES))
    ask.add_argument("--steps", type=int, default=500)
    ask.add_argument("--data", type=Path, default=Path("../shared/data"))
    ask.add_argument("--work", type=Path, default=Path("runs") / "neonate-choices")
    ask.add_argument("--results", type=Path, default=TABLE)
    ask.set_defaults(device="cpu", workers=None)
    bench = Bench(ask.parse_args())
    for seed in bench.asked.seeds:
        for name in bench.asked.only:
            done = {(row["choice"], row["seed"]) for row in read_rows(bench.asked.results)}
            if (name, str(seed)) not in done:
                found = [{**provenance(), **row} for row in scores(bench, name, seed)]
                add_rows(bench.asked.results, found)
                print(f"{name} {seed}: {[row['dice'] for row in found]}", flush=True)
    print(*table(read_rows(bench.asked.results)), sep="\n")


if __name__ == "__main__":
    main()
