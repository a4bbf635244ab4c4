"""The `fewlabel` command. Every command is a thin shell round one public function."""

import os
import sys
from dataclasses import dataclass
from json import dumps
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from fewlabel import cli_datasets, cli_train
from fewlabel.errors import FewlabelError
from fewlabel.version import VERSION

app = App(name="fewlabel", version=VERSION, help="Segment brain MR images when labels are scarce.")


app.command(cli_train.train)
app.command(cli_train.export)
app.command(cli_datasets.cohort)
app.command(cli_datasets.dataset)


@app.command
def info(scan: Path, *, json: Annotated[bool, Parameter(negative="")] = False) -> None:
    """Tell what a scan file says about itself, what is odd in it and what is done about that.

    Args:
        scan: NIfTI or MGH file, or a folder with one DICOM series.
        json: Print JSON instead of text.
    """
    from fewlabel.info import describe_scan

    report = describe_scan(scan)
    print(dumps(report.as_json(), indent=2) if json else report.as_text())
    if report.refusal is not None:
        sys.exit(2)


@Parameter(name="*")
@dataclass(frozen=True)
class Terms:
    """What the numbers in label files mean.

    Attributes:
        protocol: Name or TSV file of the label protocol of the predictions.
        truth_protocol: That of the truth, if it is another one.
        score_in: A protocol to compare both in; by default the coarser of the two.
    """

    protocol: str
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


@app.command
def evaluate(
    pred: Path,
    truth: Path,
    *,
    terms: Terms,
    metrics: str = "dice,hausdorff95,mean_surface_distance,volume_difference,"
    "volume,reference_volume",
    outputs: Outputs = Outputs(),
) -> None:
    """Score segmentations against the truth: two files, or two folders matched by case.

    Structures that either protocol does not draw are left out, not counted as missed.

    Args:
        pred: Label map, or a folder of them.
        truth: Label map or folder taken as the truth, on the same grids.
        terms: The protocols.
        metrics: What to measure, separated by commas; the first is plotted.
        outputs: Files, and the form of what is printed.
    """
    from fewlabel.evaluate import Protocols, score_paths
    from fewlabel.scores import plot_boxes
    from fewlabel.show import scores_as_json, scores_as_tables

    protocols = Protocols.named(terms.protocol, terms.truth_protocol, terms.score_in)
    wanted = tuple(metrics.split(","))
    scores = score_paths(pred, truth, protocols, metrics=wanted)
    if outputs.out:
        scores.write_csv(outputs.out)
    if outputs.plot and scores.rows:
        plot_boxes(scores, wanted[0], outputs.plot)
    _show(scores_as_json(scores) if outputs.json else scores_as_tables(scores))
    if scores.refused:
        sys.exit(1)


@app.command
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


@app.command
def segment(  # noqa: PLR0913  (one parameter per option)
    scans: Annotated[list[Path], Parameter(name="SCAN", negative="")],
    *,
    out: Path | None = None,
    model: str | None = None,
    threads: int | None = None,
    device: Literal["cpu", "cuda"] = "cpu",
    precision: Literal["fast", "exact"] = "fast",
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Segment brain scans: labels, their legend, volumes, a picture and a record for each.

    Args:
        scans: NIfTI or MGH files, or folders with one DICOM series each.
        out: Folder for all results; without it they lie next to each scan.
        model: A name from `fewlabel models`, or a model folder.
        threads: CPU threads; without it one per core.
        device: cuda needs the extra `train` and a model with weights for torch.
        precision: fast takes 16-bit numbers where the processor has them, exact never.
        overwrite: Replace existing results.
        json: Print JSON instead of text.
    """
    # Matrix products are small here, and OpenBLAS's threads get in the way of OpenVINO's.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from fewlabel.engine import compute_of
    from fewlabel.model import find_model
    from fewlabel.predict import segment_files

    compute = compute_of(threads, device, precision)
    run = segment_files(scans, find_model(model), out=out, compute=compute, overwrite=overwrite)
    told, failed = [], []
    for outcome in run:
        if outcome.error is not None:
            failed.append((outcome.scan, outcome.error))
        if json:
            told.append(outcome.as_json())
        elif outcome.error is None or len(scans) > 1:
            print(outcome.as_text(), flush=True)
    if failed and len(scans) == 1:
        raise failed[0][1]
    if json:
        print(dumps(told, indent=2))
    if failed:
        print(f"fewlabel: {len(failed)} of {len(scans)} scans failed:", file=sys.stderr)
        for scan, error in failed:
            print(f"  {scan}\n    {error}", file=sys.stderr)
        sys.exit(1)


@app.command
def demo(*, out: Path = Path("fewlabel-demo"), model: str | None = None) -> None:
    """Segment the embedded example scan and print where the results lie.

    Args:
        out: Folder for the scan and its results.
        model: A name from `fewlabel models`, or a model folder.
    """
    from fewlabel.predict import run_demo

    result = run_demo(out, model)
    print(result.as_text())
    print("  Open the picture first, then the labels over the scan in any NIfTI viewer.")


@app.command
def models(*, json: Annotated[bool, Parameter(negative="")] = False) -> None:
    """List the models that ship with fewlabel and those in your own folder.

    Args:
        json: Print JSON instead of text.
    """
    from fewlabel.model import list_models, models_folder

    found = list_models()
    if json:
        print(dumps([model.card.model_dump(mode="json") for model in found], indent=2))
        return
    for each in found:
        print(each.as_text())
    print(f"Models of your own go to {models_folder()}, one folder each.")


def main() -> None:
    """Run the command; a refused input prints its reason and exits with 2."""
    try:
        app()
    except FewlabelError as refusal:
        print(f"fewlabel: {refusal}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # the reader of our output left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
