"""The commands that spend a budget of annotated slices."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

if TYPE_CHECKING:
    from fewlabel.segmenter import Segmenter

budget = App(name="budget", help="Spend a budget of annotated slices: plan, paint, collect.")


@Parameter(name="*")
@dataclass(frozen=True)
class Spent:
    """How the budget is spent.

    Attributes:
        model: A name from `fewlabel models`, or a model folder: finds the brain, and for the
            strategy uncertain says what it is unsure of.
        scans: Draw so many scans; by default the budget is spread over all.
        minutes_per_slice: What one slice costs; time your first ones.
        modality: The scan to annotate, such as T2w; by default the first that all cases have.
        protocol: What to draw: a shipped protocol or a TSV file; by default the cohort's.
        seed: Decides all that is drawn.
    """

    model: str | None = None
    scans: int | None = None
    minutes_per_slice: float = 10.0
    modality: str = ""
    protocol: str = ""
    seed: int = 0


@budget.command
def plan(
    cohort: Path,
    *,
    slices: int,
    out: Path,
    strategy: Literal[
        "random", "axial", "coronal", "sagittal", "equidistant", "uncertain"
    ] = "random",
    how: Spent = Spent(),
) -> None:
    """Choose slices to annotate in the training scans of a cohort, and say what they cost.

    Args:
        cohort: A manifest, or the folder of a data set.
        slices: The budget: slices of all scans together.
        out: Plan to write (TSV), a line for each slice.
        strategy: random, or all along one axis; equidistant; or where a model is unsure.
        how: How the budget is spent.
    """
    from fewlabel.budget_make import Wish, make_plan
    from fewlabel.budget_plan import write_plan

    wish = Wish(
        slices=slices,
        strategy=strategy,
        seed=how.seed,
        scans=how.scans,
        minutes_per_slice=how.minutes_per_slice,
        modality=how.modality,
        protocol=how.protocol,
    )
    look = None
    if how.model is not None:
        from fewlabel.doubt import look_with

        look = look_with(_segmenter(how.model))
    done = make_plan(cohort, wish, look)
    write_plan(done, out)
    print(f"{out}: {done.as_text()}")


@budget.command
def sheets(plan: Path, *, out: Path, model: str | None = None) -> None:
    """Write for each scan of a plan a copy and a label map to paint on, and color tables.

    Args:
        plan: From `fewlabel budget plan`.
        out: New folder for the sheets.
        model: A name from `fewlabel models`, or a model folder, that fills in the planned slices.
    """
    from fewlabel.budget_plan import read_plan
    from fewlabel.sheets import write_sheets

    planned, propose = read_plan(plan), None
    lacking: list[str] = []
    if model is not None:
        from fewlabel.doubt import not_drawn, propose_with

        segmenter = _segmenter(model)
        propose = propose_with(segmenter, planned.drawn_in(), planned.modality)
        lacking = not_drawn(segmenter, planned.drawn_in())
    write_sheets(planned, out, propose)
    print(f"{out}: sheets for {planned.as_text()}")
    if lacking:
        print(f"  The model does not draw {', '.join(lacking)}: paint these yourself.")


@budget.command
def collect(
    plan: Path,
    folder: Annotated[Path, Parameter(name="DIR")],
    *,
    out: Path | None = None,
    allow_missing: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Check the painted maps, and write label maps and a manifest to train on.

    Args:
        plan: From `fewlabel budget plan`.
        folder: From `fewlabel budget sheets`, painted; nothing in it is changed.
        out: Folder for label maps, notes.tsv and cohort.tsv; by default DIR/collected.
        allow_missing: Go on without slices that were forgotten.
    """
    from fewlabel.budget_plan import read_plan
    from fewlabel.collect import MANIFEST
    from fewlabel.collect import collect as collect_maps

    done = collect_maps(read_plan(plan), folder, out, allow_missing=allow_missing)
    annotated = len(done.cohort.part("train"))
    print(
        f"{(out or folder / 'collected') / MANIFEST}: {done.slices} slices of {annotated} scans to"
        f" train on, {len(done.cohort.cases) - annotated} held-out cases"
    )
    print(f"  Train with voxels (`working.spacing_mm`) of at most {done.coarsest_mm:.3g} mm.")
    for note in done.notes:
        print(f"  {note.case}: {note.says}")


def _segmenter(name: str) -> "Segmenter":
    from fewlabel.engine import Compute
    from fewlabel.model import find_model
    from fewlabel.segmenter import Segmenter

    return Segmenter(find_model(name), Compute())
