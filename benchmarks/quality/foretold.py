r"""Is the Dice foretold that a fine-tuned model then has? Few labels for everything.

    python -m benchmarks.quality.foretold --model runs/finetuning/malc-1/fine-tuned-model \
        [--taught 1] [--people 3 4] [--data ../shared/data/malc] [--threads 2]

Takes a model of `benchmarks.models.finetuning`, which learned from the first `--taught` people;
the next few calibrate it (`fewlabel calibrate`), and its last ten, which had no say in anything,
are segmented: true Dice of each structure against the expected one and its 90 % interval. Rows, one
for each number of people that calibrate, go to benchmarks/results/foretold.csv.
"""

import argparse
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from benchmarks.common import RESULTS, add_rows, provenance
from benchmarks.models.finetuning import SCORED, shuffled
from fewlabel.calibrate import Task, calibrate, check, foretold, look
from fewlabel.damage import INTACT
from fewlabel.datasets import index_folder
from fewlabel.engine import Compute
from fewlabel.model import find_model
from fewlabel.segmenter import Segmenter


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--model", required=True)
    ask.add_argument("--taught", type=int, default=1, help="people that it learned from")
    ask.add_argument("--people", type=int, nargs="+", default=[3, 4], help="that calibrate")
    ask.add_argument("--data", type=Path, default=Path("../shared/data/malc"))
    ask.add_argument("--threads", type=int, default=2)
    ask.add_argument("--note", default="")
    asked = ask.parse_args()
    cases = index_folder(asked.data.resolve()).cohort.part("train")
    order = shuffled(cases)
    if asked.taught + max(asked.people) + SCORED > len(cases):
        raise SystemExit(f"{len(cases)} people are too few: {SCORED} are scored.")
    model, compute = find_model(asked.model), Compute(threads=asked.threads)
    segmenter = Segmenter(model, compute)
    others = [look(segmenter, Task(case, INTACT)).known for case in order[-SCORED:]]
    for n in asked.people:
        few = order[asked.taught : asked.taught + n]
        norms = calibrate(model, few, asked.data.name, compute, print).norms
        rows = [row for known in others for row in foretold(known, norms.interval).values()]
        (truth, middle, low, high), checked = np.array(rows).T, check(rows)
        row = {
            "model": "/".join(Path(asked.model).parts[-2:]),
            "data": asked.data.name, "taught": asked.taught, "calibrated_on": n, "scored": SCORED,
            "dice": f"{truth.mean():.4f}", "expected": f"{middle.mean():.4f}",
            "mean_absolute_error": f"{checked.error:.4f}",
            "covered": f"{checked.covered:.3f}", "width": f"{(high - low).mean():.3f}",
            "spearman": f"{spearmanr(truth, middle)[0]:.3f}", "values": checked.values,
        }  # fmt: skip
        add_rows(RESULTS / "foretold.csv", [provenance(asked.note) | row])
        print(row, flush=True)


if __name__ == "__main__":
    main()
