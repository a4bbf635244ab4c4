"""What an embedded model gains from real scans without labels, by learning from its own answers.

    python -m benchmarks.models.selftraining [--steps 100] [--shared ../shared/data]
        [--work runs/selftraining] [--threads 2]

The network without its offsets and slopes segments the scans of ibsr18, whose labels are not
looked at; then all its weights go on from there with these answers as labels, and images altered as
in any fine-tuning (`benchmarks.models.finetuning`). Both are scored on the `val` scans of malc and
oasis-trt, and on ten others of malc, on their own voxels. Rows go to
benchmarks/results/selftraining_MODEL.csv.
"""

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.common import RESULTS, add_rows, provenance
from benchmarks.models.finetuning import SCORED, labeler, scored, shuffled, taught, without_style
from fewlabel.cohort import Case
from fewlabel.datasets import index_folder
from fewlabel.engine import Compute
from fewlabel.io import read_scan, write_labels
from fewlabel.model import ModelFolder, find_model
from fewlabel.segmenter import Segmenter


def answered(model: ModelFolder, cases: Sequence[Case], folder: Path, threads: int) -> list[Case]:
    """The cases with what the model says of them for labels."""
    segmenter = Segmenter(model, Compute(threads=threads))
    found = []
    for case in cases:
        file = folder / f"{case.id}_dseg.nii.gz"
        if not file.exists():
            write_labels(segmenter(read_scan(case.scans["T1w"])).labels, file)
        protocol = model.card.protocol.name
        found.append(replace(case, labels=file, protocol=protocol, looked_for=None, split=""))
    return found


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--model", default="adult-aseg32")
    ask.add_argument("--steps", type=int, default=100)
    ask.add_argument("--shared", type=Path, default=Path("../shared/data"))
    ask.add_argument("--work", type=Path, default=Path("runs") / "selftraining")
    ask.add_argument("--threads", type=int, default=2)
    ask.add_argument("--note", default="")
    ask.set_defaults(protocol=None)
    asked = ask.parse_args()
    work, shared = asked.work.resolve(), asked.shared.resolve()
    (work / "answers").mkdir(parents=True, exist_ok=True)
    before = without_style(find_model(asked.model), work / "plain-model")
    scans = index_folder(shared / "ibsr18").cohort.cases
    learned = answered(before, scans, work / "answers", asked.threads)
    after = taught("fine-tuned", before, learned, work / "fine-tuned", asked)
    malc, oasis = (
        index_folder(shared / name, desc=desc).cohort
        for name, desc in (("malc", ""), ("oasis-trt", "dktaseg"))
    )
    labelers = [labeler(model, asked.threads) for model in (before, after)]
    sets = {
        "malc val": malc.part("val"),
        "oasis-trt val": oasis.part("val"),
        f"malc, {SCORED} others": shuffled(malc.part("train"))[-SCORED:],
    }
    for data, cases in sets.items():
        sides = [scored(label, cases, before.card.protocol) for label in labelers]
        gains = [sides[1][case] - value for case, value in sides[0].items()]
        row = {
            "data": data, "n": len(cases), "learned_from": len(learned), "steps": asked.steps,
            "before": f"{statistics.fmean(sides[0].values()):.4f}",
            "after": f"{statistics.fmean(sides[1].values()):.4f}",
            "least_gain": f"{min(gains):.4f}", "most_gain": f"{max(gains):.4f}",
        }  # fmt: skip
        add_rows(RESULTS / f"selftraining_{asked.model}.csv", [provenance(asked.note) | row])
        print(row, flush=True)


if __name__ == "__main__":
    main()
