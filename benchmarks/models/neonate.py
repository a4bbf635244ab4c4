"""Trains the embedded model neonate-drawem9, and says how well it does on weeks it has not seen.

    python -m benchmarks.models.neonate [--only model folds seen] [--data ../shared/data]
        [--work runs/neonate] [--scale 1.0] [--device cuda] [--train] [--folds 0 1 2]

- **model**: one network from all weeks of neonatal-templates (28 to 44), to
  src/fewlabel/models/neonate-drawem9.
- **folds**: the weeks are dealt to three folds; a network trained in the same way without a fold is
  scored on it, on the templates' own voxels: Dice with both modalities and with each alone, age.
  Rows go to benchmarks/results/neonate-drawem9_folds.csv, means and the error of ages into the
  model's card.
- **seen**: the model on the weeks it has learned from. Does it no better there, it needs training
  rather than data. Rows go to benchmarks/results/neonate-drawem9_seen.csv.

Networks learn coarse to fine, at 3.4, 1.7 and 0.86 mm, and three times more at 0.86 mm on images
that are changed less. Stop it at any time; the same command goes on.
`--scale` multiplies all steps, to try the script; `--train` leaves exporting and scoring to a
later call, so that each network can be trained on a machine that only trains.
"""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, add_rows, provenance, read_rows
from benchmarks.papers.richter2022 import FOLDS, LICENSE, Bench, of_levels, whole_brain
from benchmarks.papers.richter2022_data import (
    rightly_named,
    score_fold,
    score_natively,
    split_of,
    usual_age_error,
    weeks,
    with_age_error,
)
from benchmarks.papers.richter2022_tables import by_case, of_folds, of_structures
from fewlabel.card import Measured
from fewlabel.cohort import Case
from fewlabel.export import Choice, export_run
from fewlabel.model import read_model, rewrite_card
from fewlabel.nets.unet import stride_of
from fewlabel.recipes.neonatal import STAGE

MODEL = Path(__file__).parents[2] / "src" / "fewlabel" / "models" / "neonate-drawem9"
TABLE, SEEN = (RESULTS / f"neonate-drawem9_{name}.csv" for name in ("folds", "seen"))
VERSION = "1.5"
"""Of the model that is trained so."""
LEVELS = (
    (3.4375, 1200, 3e-3),
    (1.71875, 450, 2e-3),
    (0.859375, 650, 1.5e-3),
    (0.859375, 550, 1.2e-3),
    (0.859375, 700, 1.2e-3),
    (0.859375, 900, 1.5e-3),
)
"""Voxel size in mm, steps, learning rate. The last is that of the templates."""
NETWORK: dict[str, Any] = {"channels": [16, 32, 64, 128]}
FINEST: dict[str, Any] = {"fine": 16, "fine_norm": False, "mirror": True}
"""At the last level: what came before works at half the resolution from then on."""
WINDOW = (64, 80, 64)
"""Voxels in which the finest layer is judged, a sixth of the field."""
AUGMENT = {
    "drop_modality": 0.4, "synthetic": 0.05, "rotation_deg": 10, "scaling": 0.1,
    "elastic_voxels": 1.0, "bias": 0.2, "gamma": 0.2, "chance": 0.15,
}  # fmt: skip
LATE_AUGMENT = AUGMENT | {
    "synthetic": 0.02, "rotation_deg": 5, "scaling": 0.05, "elastic_voxels": 0.6, "chance": 0.05,
}  # fmt: skip
"""Where a voxel size comes again: less is changed once all has been seen."""
DESCRIPTION = (
    "9 tissues of the newborn brain as in the templates of Serag 2012, and the age at scan"
)
INPUT = "T1w or T2w scans of newborns of 28 to 44 weeks, or both together"


def level(number: int, scale: float = 1) -> dict[str, Any]:
    """Settings of one of `LEVELS`; `scale` multiplies its steps."""
    spacing_mm, steps, rate = LEVELS[number]
    again = number > 0 and LEVELS[number - 1][0] == spacing_mm
    network = NETWORK | (FINEST if spacing_mm == LEVELS[-1][0] else {})
    stride = stride_of(network["channels"], network.get("fine", 0))
    augment = LATE_AUGMENT if again else AUGMENT
    found = whole_brain((spacing_mm, max(4, round(steps * scale)), rate), augment, stride)
    if "fine" in network:
        found["patches"]["size"] = list(WINDOW)
    found["optimizer"]["ema"] = 0.99
    found["objective"] = {"dice": "log"}
    return found | network | {"precision": "32", "description": DESCRIPTION, "input": INPUT}


def trained(bench: Bench, name: str, cases: Sequence[Case]) -> Path:
    """The run of the last level; a finished one needs no earlier ones any more."""
    levels = [level(number, bench.asked.scale) for number in range(len(LEVELS))]
    run = bench.work / of_levels(name, levels)[-1]
    if (run / STAGE / "final.safetensors").exists():
        bench.manifest(name, cases)  # to export it
        return run
    return bench.coarse_to_fine(name, cases, levels)


def model(bench: Bench) -> None:
    run = trained(bench, "model", split_of(weeks(bench.asked.data), (), "val"))
    if bench.asked.train:
        return
    out = MODEL if bench.asked.scale == 1 else bench.work / MODEL.name
    print(rightly_named(export_run(run, out, Choice(license=LICENSE)).model).as_text())


def folds(bench: Bench) -> None:
    table = TABLE if bench.asked.scale == 1 else bench.work / TABLE.name
    done = {int(row["fold"]) for row in read_rows(table)}
    for number, held in enumerate(FOLDS):
        if number in done or number not in bench.asked.folds:
            continue
        cases = split_of(weeks(bench.asked.data), held, "val")
        run = trained(bench, f"fold{number}", cases)
        if bench.asked.train:
            continue
        network = rightly_named(export_run(run, bench.work / f"fold{number}-model", Choice()).model)
        about, rows = provenance(bench.asked.note), score_fold(network, cases, number)
        add_rows(table, [{**about, **row} for row in rows])
        print(*of_folds(read_rows(table)), sep="\n", flush=True)


def seen(bench: Bench) -> None:
    shipped = read_model(MODEL)
    about = provenance(f"version {shipped.card.version}")
    rows = (row for case in weeks(bench.asked.data) for row in score_natively(shipped, case))
    found = [{**about, **row} for row in rows]
    SEEN.unlink(missing_ok=True)
    add_rows(SEEN, found)
    print(*of_folds(read_rows(SEEN)), *of_structures(read_rows(SEEN)), sep="\n")


def measured(rows: list[dict[str, str]]) -> None:
    """Writes what the folds say into the model's card."""
    found = []
    for seen, cases in by_case(rows).items():
        mean = statistics.fmean(cases.values())
        data = f"neonatal-templates, {seen}, {len(cases)} weeks not seen"
        found.append(
            Measured(data=data, metric="mean Dice of structures, averages of many newborns",
                     value=round(mean, 4))
        )  # fmt: skip
    error = usual_age_error(rows)
    assert error is not None
    model = with_age_error(read_model(MODEL), error)
    about = {"version": VERSION, "measured": tuple(found)}
    rewrite_card(model, model.card.model_copy(update=about))


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = {"model": model, "folds": folds, "seen": seen}
    ask.add_argument("--only", nargs="+", choices=parts, default=["model", "folds"])
    ask.add_argument("--data", type=Path, default=Path("../shared/data"))
    ask.add_argument("--work", type=Path, default=Path("runs") / "neonate")
    ask.add_argument("--scale", type=float, default=1.0, help="of all steps, to try the script")
    ask.add_argument("--train", action="store_true", help="only train; score elsewhere, later")
    ask.add_argument("--folds", type=int, nargs="+", default=[0, 1, 2], help="those to train")
    ask.add_argument("--device", default="cpu")
    ask.add_argument("--workers", type=int, help="threads that draw patches")
    ask.add_argument("--note", default="")
    bench = Bench(ask.parse_args())
    for part in bench.asked.only:
        parts[part](bench)
    rows = read_rows(TABLE)
    if rows and bench.asked.scale == 1 and {"model", "folds"} & set(bench.asked.only):
        measured(rows)
        for table in (of_folds, of_structures):
            print(*table(rows), sep="\n")


if __name__ == "__main__":
    main()
