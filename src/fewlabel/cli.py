"""The `fewlabel` command. Every command is a thin shell round one public function."""

import os
import sys
from json import dumps
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from fewlabel import (
    cli_annotate,
    cli_budget,
    cli_cohort,
    cli_datasets,
    cli_evaluate,
    cli_labeled,
    cli_register,
    cli_report,
    cli_train,
)
from fewlabel.errors import FewlabelError
from fewlabel.version import VERSION

_FIX = "check that path, who may read and write there, and the room on its disk; then try again."

app = App(name="fewlabel", version=VERSION, help="Segment brain MR images when labels are scarce.")


app.command(cli_train.train)
app.command(cli_train.finetune)
app.command(cli_train.export)
app.command(cli_labeled.adapt)
app.command(cli_labeled.calibrate)
app.command(cli_evaluate.evaluate)
app.command(cli_evaluate.compare)
app.command(cli_datasets.cohort)
app.command(cli_cohort.segment_cohort)
app.command(cli_datasets.dataset)
app.command(cli_register.register)
app.command(cli_register.propagate)
app.command(cli_report.report)
app.command(cli_report.view)
app.command(cli_annotate.annotate)
app.command(cli_budget.budget)


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


@app.command
def segment(  # noqa: PLR0913  (one parameter per option)
    scans: Annotated[list[Path], Parameter(name="SCAN", negative="")],
    *,
    out: Path | None = None,
    model: str | None = None,
    head: str | None = None,
    modality: str | None = None,
    others: Annotated[list[str] | None, Parameter(name="--with", negative="")] = None,
    threads: int | None = None,
    device: Literal["cpu", "cuda"] = "cpu",
    precision: Literal["fast", "exact"] = "fast",
    max_memory: float | None = None,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    strict: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Segment brain scans: labels, their legend, volumes, a picture and a record for each.

    Args:
        scans: NIfTI or MGH files, or folders with one DICOM series each.
        out: Folder for all results; without it they lie next to each scan.
        model: A name from `fewlabel models`, or a model folder; without it, what suits each scan.
        head: Which output of a model with several, by its protocol; by default the first.
        modality: What the scans are, such as T2w, for a model that looks at several modalities;
            without it the ends of their names say it.
        others: Another image of the same head in the same space for such a model, [T1w=]PATH;
            with one scan only. The result lies on the grid of the scan.
        threads: CPU threads; without it one per core.
        device: cuda needs the extra `train` and a U-Net.
        precision: fast takes 16-bit numbers where the processor has them, exact never.
        max_memory: GB; networks that would take more look at parts of a scan.
        overwrite: Replace existing results.
        strict: Exit with code 3 if a result has warnings, those of earlier results included.
        json: Print JSON instead of text.
    """
    # Matrix products are small here, and OpenBLAS's threads get in the way of OpenVINO's.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from fewlabel.engine import compute_of
    from fewlabel.modalities import heads_of
    from fewlabel.model import find_model
    from fewlabel.predict import giving, segment_files
    from fewlabel.suited import known_modalities

    compute = compute_of(threads, device, precision, max_memory)
    wanted = None if model is None and head is None else giving(find_model(model), head)
    known = known_modalities(wanted) if others else ()
    heads = heads_of(scans, known, modality, others or ())
    run = segment_files(heads, wanted, out=out, compute=compute, overwrite=overwrite)
    told, failed, doubtful = [], [], 0
    for outcome in run:
        doubtful += bool(strict and outcome.warnings)
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
    if doubtful:
        print(f"fewlabel: {doubtful} of {len(scans)} have warnings.", file=sys.stderr)
        sys.exit(3)


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

    Those of yours that cannot be read are left out, and named.

    Args:
        json: Print JSON instead of text.
    """
    from fewlabel.model import list_models, models_folder, unreadable_models

    found = list_models()
    for problem in unreadable_models():
        print(f"fewlabel: left out: {problem}", file=sys.stderr)
    if json:
        print(dumps([model.card.model_dump(mode="json") for model in found], indent=2))
        return
    for each in found:
        print(each.as_text())
    own = models_folder() or "a folder that the variable FEWLABEL_MODELS names"
    print(f"Models of your own go to {own}, one folder each.")


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
    except OSError as problem:
        where = "" if problem.filename is None else f"{problem.filename}: "
        print(f"fewlabel: {where}{problem.strerror or problem}.\n  To fix: {_FIX}", file=sys.stderr)
        sys.exit(2)
