"""Does a network do better on windows as large as its training patches, or on the whole field?

    python -m benchmarks.models.windows RUN [--split val]

Segments the held-out scans of a run both ways and scores them on their own grids. Rows go to
benchmarks/results/windows.csv.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import fmean, stdev

from benchmarks.common import RESULTS, add_rows, provenance
from fewlabel.conform import GridRule
from fewlabel.engine import Compute
from fewlabel.evaluate import score_pair
from fewlabel.evaluate_run import held_out_cases
from fewlabel.export import export_run
from fewlabel.io import read_labels, read_scan
from fewlabel.model import ModelFolder
from fewlabel.segmenter import Segmenter

TABLE = RESULTS / "windows.csv"


def seen_at_once(model: ModelFolder, window: tuple[int, int, int] | None) -> ModelFolder:
    """The same model with another window."""
    assert isinstance(model.card.grid, GridRule)
    grid = model.card.grid.model_copy(update={"window": window})
    return ModelFolder(model.folder, model.card.model_copy(update={"grid": grid}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--split", choices=("test", "val"), default="test")
    parser.add_argument("--note", default="", help="what else the machine was doing")
    asked = parser.parse_args()
    cases = held_out_cases(asked.run, asked.split)
    with tempfile.TemporaryDirectory() as folder:
        model = export_run(asked.run, Path(folder) / "model").model
        assert isinstance(model.card.grid, GridRule)
        for window in (model.card.grid.window, None):
            segmenter = Segmenter(seen_at_once(model, window), Compute())
            dice, seconds = [], []
            for case in cases:
                assert case.labels is not None
                (scan,) = case.scans.values()
                done = segmenter(read_scan(scan))
                truth = read_labels(case.labels, case.drawn_in())
                scores = score_pair(done.labels, truth, case=case.id, metrics=["dice"])
                dice.append(scores.per_case("dice")[case.id])
                seconds.append(done.record["seconds"]["network"])
            row = {
                "run": asked.run.name,
                "split": asked.split,
                "seen": "x".join(map(str, window or model.card.grid.field)),
                "whole_field": "no" if window else "yes",
                "n": len(dice),
                "dice_mean": round(fmean(dice), 4),
                "dice_sd": round(stdev(dice), 4) if dice[1:] else "",
                "network_s": round(fmean(seconds), 2),
            }
            add_rows(TABLE, [{**provenance(asked.note), **row}])
            print(row)


if __name__ == "__main__":
    main()
