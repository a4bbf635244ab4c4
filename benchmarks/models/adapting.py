"""How much a few labeled scans are worth to a model that is adapted to them.

    python -m benchmarks.models.adapting [--model adult-aseg32] [--plain] [--people 1 3 5]
        [--draws 3] ../shared/data/malc ../shared/data/oasis-trt:dktaseg

For each data set: so many of its people, drawn at random, choose offsets and slopes (`fewlabel
adapt`); all others are scored as the model was and with those, on the network's own grid. With
`--plain` the model begins without those that it ships with. Rows go to
benchmarks/results/adapting_MODEL.csv.
"""

import argparse
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.common import RESULTS, add_rows, provenance
from fewlabel.adapt import evidence_in, pairs_of
from fewlabel.datasets import index_folder
from fewlabel.engine import Compute
from fewlabel.evidence import Evidence
from fewlabel.model import find_model
from fewlabel.segmenter import Segmenter
from fewlabel.style import Style
from fewlabel.style_fit import fit


def worth(found: list[Evidence], chosen: set[str], pairs: list[tuple[int, ...]]) -> list[float]:
    """Dice of all others before, and after with what the chosen ones give."""
    ours = [one for one in found if one.person in chosen]
    others = [one for one in found if one.person not in chosen]
    styles = Style.plain(len(found[0].meaning)), fit(ours, pairs)
    return [statistics.fmean(one.dice(style) for one in others) for style in styles]


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--model", default="adult-aseg32")
    ask.add_argument("--people", type=int, nargs="+", default=[1, 3, 5])
    ask.add_argument("--draws", type=int, default=3)
    ask.add_argument(
        "--plain", action="store_true", help="without the model's own offsets and slopes"
    )
    ask.add_argument("--note", default="")
    ask.add_argument("data", nargs="+", help="FOLDER[:DESC]")
    asked = ask.parse_args()
    model = find_model(asked.model)
    table = RESULTS / f"adapting_{model.card.name}.csv"
    if asked.plain:
        model = replace(model, card=model.card.model_copy(update={"offsets": {}, "slopes": {}}))
    segmenter = Segmenter(model, Compute())
    about = provenance(asked.note)
    for source in asked.data:
        folder, _, desc = source.partition(":")
        cases = index_folder(Path(folder).resolve(), desc=desc).cohort.cases
        found = [evidence_in(segmenter, case) for case in cases]
        pairs = pairs_of(segmenter.model.card.protocol, found)
        people = sorted({one.person for one in found})
        for n in asked.people:
            draws = [
                worth(found, set(np.random.default_rng((n, d)).permutation(people)[:n]), pairs)
                for d in range(asked.draws)
            ]
            before, after = (statistics.fmean(column) for column in zip(*draws, strict=True))
            gains = [late - early for early, late in draws]
            row = {"data": Path(folder).name, "plain": asked.plain, "people": n,
                   "scored": len(people) - n,
                   "draws": asked.draws, "dice_before": f"{before:.4f}",
                   "dice_after": f"{after:.4f}", "least_gain": f"{min(gains):.4f}",
                   "most_gain": f"{max(gains):.4f}"}  # fmt: skip
            add_rows(table, [about | row])
            print(*row.values(), flush=True)


if __name__ == "__main__":
    main()
