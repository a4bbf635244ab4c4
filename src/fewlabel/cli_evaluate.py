"""The commands that score, and compare scores."""

import sys
from dataclasses import dataclass
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from fewlabel.errors import ConfigError

if TYPE_CHECKING:
    from fewlabel.scores import ScoreTable


@Parameter(name="*")
@dataclass(frozen=True)
class Terms:
    """What the numbers in label files mean.

    Attributes:
        protocol: Name or TSV file of the label protocol of the predictions; a run knows its own.
        truth_protocol: That of the truth, if it is another one.
        score_in: A protocol to compare both in; by default the coarser of the two.
    """

    protocol: str | None = None
    truth_protocol: str | None = None
    score_in: str | None = None


@Parameter(name="*")
@dataclass(frozen=True)
class Outputs:
    """Where results go besides the terminal.

    Attributes:
        out: CSV to write, one row per case, structure and metric.
        plot: PNG to draw.
        json: Print JSON instead of tables.
    """

    out: Path | None = None
    plot: Path | None = None
    json: Annotated[bool, Parameter(negative="")] = False


def evaluate(
    pred: Path,
    truth: Path | None = None,
    *,
    terms: Terms = Terms(),
    split: Literal["test", "val"] = "test",
    metrics: str = "dice,hausdorff95,mean_surface_distance,volume_difference,"
    "volume,reference_volume",
    outputs: Outputs = Outputs(),
) -> None:
    """Score segmentations against the truth: two files, two folders matched by case, or a run.

    A run is scored on the scans of its own cohort that it did not learn from. Structures that
    either protocol does not draw are left out, not counted as missed.

    Args:
        pred: Label map, a folder of them, or the run folder of a training that has ended.
        truth: Label map or folder taken as the truth, on the same grids; none for a run.
        terms: The protocols.
        split: Which scans of a run's cohort; those of val chose its weights.
        metrics: What to measure, separated by commas; the first is plotted.
        outputs: Files, and the form of what is printed.
    """
    from fewlabel.scores import plot_boxes
    from fewlabel.show import scores_as_json, scores_as_tables

    wanted = tuple(metric.strip() for metric in metrics.split(","))
    if truth is None:
        scores = _scores_of_run(pred, terms, split, wanted)
    else:
        scores = _scores_of_files(pred, truth, terms, wanted)
    if outputs.out:
        scores.write_csv(outputs.out)
    if outputs.plot and scores.rows:
        plot_boxes(scores, wanted[0], outputs.plot)
    _show(scores_as_json(scores) if outputs.json else scores_as_tables(scores))
    if scores.refused:
        sys.exit(1)


def _scores_of_files(
    pred: Path, truth: Path, terms: Terms, metrics: tuple[str, ...]
) -> "ScoreTable":
    from fewlabel.evaluate import Protocols, score_paths

    if terms.protocol is None:
        raise ConfigError(
            f"Nothing says what the numbers in {pred} mean.", fix="add `--protocol NAME|FILE.tsv`."
        )
    protocols = Protocols.named(terms.protocol, terms.truth_protocol, terms.score_in)
    return score_paths(pred, truth, protocols, metrics=metrics)


def _scores_of_run(
    run: Path, terms: Terms, split: Literal["test", "val"], metrics: tuple[str, ...]
) -> "ScoreTable":
    if not (run / "settings.yaml").is_file():
        raise ConfigError(
            f"{run} is no run folder, and there is no TRUTH to score it against.",
            fix="give both: `fewlabel evaluate PRED TRUTH --protocol NAME`.",
        )
    if terms.protocol or terms.truth_protocol:
        raise ConfigError(
            "A run and its cohort know their protocols.",
            fix="leave out --protocol and --truth-protocol; --score-in works.",
        )
    from fewlabel.evaluate_run import evaluate_run
    from fewlabel.labels import load_protocol

    score_in = load_protocol(terms.score_in) if terms.score_in else None
    return evaluate_run(run, split=split, metrics=metrics, score_in=score_in)


def compare(
    scores_a: Path,
    scores_b: Path,
    *,
    metric: str = "dice",
    plot: Path | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Compare two tables of scores of the same cases: B less A, intervals, signed-rank tests.

    Args:
        scores_a: CSV that `fewlabel evaluate --out` wrote.
        scores_b: Another one.
        metric: The metric to compare.
        plot: PNG to draw: mean differences with their intervals.
        json: Print JSON instead of a table.
    """
    from fewlabel import compare as comparing
    from fewlabel.scores import ScoreTable
    from fewlabel.show import comparison_as_json, comparison_as_table

    tables = (ScoreTable.read_csv(scores_a), ScoreTable.read_csv(scores_b))
    found = comparing.compare(*tables, metric=metric)
    if plot:
        comparing.plot_differences(found, plot)
    _show(comparison_as_json(found) if json else comparison_as_table(found))


def _show(what: Any) -> None:
    """Print a table, or what is plain data as JSON."""
    from rich.console import Console

    if isinstance(what, dict):
        print(dumps(what, indent=2))
    else:
        console = Console()
        Console(width=None if console.is_terminal else 160).print(what)
