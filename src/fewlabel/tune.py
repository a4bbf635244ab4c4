"""Several ways to fine-tune under one budget, scored on the same scans and put side by side."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from statistics import fmean, stdev

from fewlabel.errors import ConfigError, OutputError
from fewlabel.evaluate_run import Part, evaluate_run
from fewlabel.recipes import find_recipe, read_plan
from fewlabel.run_folder import HISTORY
from fewlabel.scores import ScoreTable
from fewlabel.strategies import PAPER, counts, strategy_named
from fewlabel.train.history import History
from fewlabel.train_run import Means, first_process, train_run
from fewlabel.whole import write_text

TABLE, PAGE = "comparison.tsv", "comparison.md"


@dataclass(frozen=True)
class Way:
    """What came of one strategy.

    Attributes:
        strategy: A key of `fewlabel.strategies.PAPER`.
        weights: How many weights moved.
        numbers: How many numbers these hold.
        seconds: Time of its steps, at the pace that the run ended with; validation counts.
        scores: Dice of the held-out scans.
    """

    strategy: str
    weights: int
    numbers: int
    seconds: float
    scores: ScoreTable

    def per_case(self, structures: Sequence[str]) -> list[float]:
        """Mean Dice over these structures of every case that has any of them."""
        rows = tuple(row for row in self.scores.rows if row.structure in structures)
        values = ScoreTable(rows).per_case("dice").values() if rows else ()
        return [value for value in values if math.isfinite(value)]

    def per_structure(self) -> dict[str, float]:
        """Mean Dice over the cases of every structure."""
        found = self.scores.summaries("dice") if self.scores.rows else ()
        return {one.structure: one.mean for one in found}


def tune(
    config: Path,
    out: Path,
    strategies: Sequence[str] = tuple(PAPER),
    *,
    changes: tuple[str, ...] = (),
    split: Part = "test",
    means: Means | None = None,
) -> tuple[Way, ...]:
    """Train one network by each strategy, score all on the same scans, and write the comparison.

    Steps, batches and seed are those of the settings for every strategy. What a former call has
    finished is not done again. `comparison.tsv` and `comparison.md` are written anew after each
    strategy.

    Args:
        config: YAML file of the recipe `finetune`; its own strategy does not matter.
        out: Folder with a run folder for each strategy.
        strategies: Keys of `fewlabel.strategies.PAPER` or the paper's names.
        changes: Such as "steps=500"; they win over the file.
        split: Which scans of the cohort to score: "test", or "val", which choose the weights.
        means: What the runs are carried out with.

    Raises:
        CohortError: If the cohort has no labeled scans in that split.
        ConfigError: If the settings are of another recipe, or differ from those of the runs in
            `out`, or there is no such strategy.
        OutputError: If something else is in `out`, or it cannot be written.
        KeyboardInterrupt: If `means.stop` asked for it; the same call goes on from there.
    """
    wanted = _checked(config, out, strategies, changes)
    ways: list[Way] = []
    for strategy in wanted:
        run = out / strategy
        told = (*changes, f"strategy={strategy}")
        train_run(config, run, changes=told, resume=True, means=means)
        if not first_process():
            continue  # the next way begins once the first process has scored this one
        ways.append(Way(strategy, *counts(run), seconds_of(run), _scores(run, split)))
        write_text(out / TABLE, as_tsv(ways))
        write_text(out / PAGE, as_markdown(ways, split))
    return tuple(ways)


def _checked(
    config: Path, out: Path, strategies: Sequence[str], changes: tuple[str, ...]
) -> list[str]:
    """The strategies in the order of `PAPER`, if they can be carried out."""
    if read_plan(config, changes).recipe is not find_recipe("finetune"):
        raise ConfigError(
            f"{config.name} is not of the recipe `finetune`.",
            fix="write `recipe: finetune`, or carry out other recipes with `fewlabel train`.",
        )
    named = [strategy_named(name) for name in strategies]
    for strategy in named:
        read_plan(config, (*changes, f"strategy={strategy}"))  # refuses what is none
    others = sorted({path.name for path in out.glob("*")} - {*PAPER, TABLE, PAGE})
    if others:
        raise OutputError(
            f"{out} holds other things than ways to fine-tune, such as {others[0]}.",
            fix="choose another folder.",
        )
    return [strategy for strategy in PAPER if strategy in named]


def seconds_of(run: Path) -> float:
    """Time of a run's steps, each stage at the pace that it ended with; 0 if it has taken none."""
    rows = History(run / HISTORY).rows()
    last = {stage: (step, pace) for stage, step, name, pace in rows if name == "steps per second"}
    return sum((step / pace for step, pace in last.values()), 0.0)


def _scores(run: Path, split: Part) -> ScoreTable:
    """Those of an earlier call, unless a scan was refused then."""
    file = run / f"scores_{split}.csv"
    if not file.is_file() or ScoreTable.read_csv(file).unscored:
        evaluate_run(run, split=split, metrics=("dice",)).write_csv(file)
    return ScoreTable.read_csv(file)


def as_tsv(ways: Sequence[Way]) -> str:
    """A line for each way: weights, numbers, seconds, and Dice over all and of each structure."""
    names = _all_structures(ways)
    text = StringIO()
    table = csv.writer(text, delimiter="\t", lineterminator="\n")
    table.writerow(
        ("strategy", "paper", "weights", "numbers", "seconds", "cases", "dice", "dice_sd",
         *(f"dice {name}" for name in names))
    )  # fmt: skip
    for way in ways:
        values, own = way.per_case(_shared_structures(ways)), way.per_structure()
        table.writerow(
            (way.strategy, PAPER[way.strategy], way.weights, way.numbers, f"{way.seconds:.0f}",
             len(values), f"{_mean(values):.4f}", f"{_sd(values):.4f}",
             *(f"{own.get(name, math.nan):.4f}" for name in names))
        )  # fmt: skip
    return text.getvalue()


def as_markdown(ways: Sequence[Way], split: Part) -> str:
    """The same for people: a table of ways, and one of structures."""
    shared, names = _shared_structures(ways), _all_structures(ways)
    head = [
        "# Ways to fine-tune",
        "",
        f"Dice on {split} scans, mean ± SD over cases of the mean over {len(shared)} structures.",
    ]
    if len(shared) < len(names):
        head += ["Structures that not every way knows are below, and count in no mean."]
    rows = [
        (f"`{way.strategy}`", PAPER[way.strategy], str(way.weights), f"{way.numbers:,}",
         _in_words(values), f"{way.seconds:.0f}")
        for way in ways
        for values in [way.per_case(shared)]
    ]  # fmt: skip
    titles = ("strategy", "paper's name", "weights that move", "numbers", "Dice", "seconds")
    per_way = [way.per_structure() for way in ways]
    structures = [
        (name, *(f"{own[name]:.3f}" if name in own else "" for own in per_way)) for name in names
    ]
    strategies = ("structure", *(f"`{way.strategy}`" for way in ways))
    lines = [*head, "", *_table(titles, rows), "", *_table(strategies, structures)]
    refused = [f"- `{w.strategy}` could not be scored on {c}." for w in ways
               for c in w.scores.unscored]  # fmt: skip
    return "\n".join((*lines, *([""] if refused else []), *refused)) + "\n"


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [titles, ["---"] * len(titles), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _all_structures(ways: Sequence[Way]) -> list[str]:
    return list(dict.fromkeys(name for way in ways for name in way.per_structure()))


def _shared_structures(ways: Sequence[Way]) -> list[str]:
    known = [way.per_structure() for way in ways]
    return [name for name in _all_structures(ways) if all(name in own for own in known)]


def _in_words(values: Sequence[float]) -> str:
    spread = f" ± {_sd(values):.3f}" if len(values) > 1 else ""
    return f"{_mean(values):.3f}{spread} (N = {len(values)})" if values else "n/a"


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else math.nan


def _sd(values: Sequence[float]) -> float:
    return stdev(values) if len(values) > 1 else math.nan
