r"""How well a model folder segments real scans that it was not trained on.

Segments every scan of BIDS-like data sets, scores it on its native grid, and writes one row per
structure to `benchmarks/results/MODEL_DATA.csv`:

    python -m benchmarks.models.score_model --model adult-aseg32 \
        ../shared/data/malc:neuromorphometrics138 ../shared/data/oasis-trt:dktaseg

A third part names cases to keep (`split=val` reads `participants.tsv`):
`../shared/data/malc:neuromorphometrics138:val`. `--record` writes the means into the model's card.
"""

import argparse
import csv
import math
import statistics
import tempfile
from pathlib import Path

from benchmarks.common import RESULTS, add_rows, provenance
from fewlabel.card import Measured
from fewlabel.evaluate import Protocols, score_folders
from fewlabel.model import find_model, rewrite_card
from fewlabel.predict import segment_files
from fewlabel.scores import ScoreTable


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="adult-aseg32")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--record", action="store_true", help="write the means into model.json")
    parser.add_argument("--keep", type=Path, help="folder for the segmentations")
    parser.add_argument("data", nargs="+", help="FOLDER:PROTOCOL[:SPLIT]")
    options = parser.parse_args()
    model = find_model(options.model)
    measured = []
    for source in options.data:
        folder, protocol, *split = source.split(":")
        with tempfile.TemporaryDirectory() as scratch:
            out = (options.keep or Path(scratch)) / Path(folder).name
            scores = score(Path(folder), protocol, split[0] if split else "", model, out)
        name = "_".join([model.card.name, Path(folder).name, *split])
        write(scores, options.results / f"{name}.csv")
        show(name, scores)
        cases = cases_of(scores)
        scans = f"{Path(folder).name}{' ' + split[0] if split else ''}, {len(cases)} scans"
        mean = round(statistics.fmean(cases), 4)
        measured.append(Measured(data=scans, metric="mean Dice of structures", value=mean))
    if options.record:
        card = model.card.model_copy(update={"measured": tuple(measured)})
        rewrite_card(model, card)


def cases_of(scores: ScoreTable) -> list[float]:
    return [value for value in scores.per_case("dice").values() if math.isfinite(value)]


def score(folder: Path, protocol: str, split: str, model, out: Path) -> ScoreTable:
    scans = sorted(folder.glob("sub-*/anat/*_T1w.nii.gz"))
    if split:
        people = csv.DictReader((folder / "participants.tsv").open(), delimiter="\t")
        kept = {person["participant_id"] for person in people if person["split"] == split}
        scans = [scan for scan in scans if scan.name.split("_")[0] in kept]
    for outcome in segment_files(scans, model, out=out):
        if outcome.error is not None:
            raise outcome.error
    protocols = Protocols.named(model.card.protocol.name, protocol, None)
    return score_folders(out, folder / "derivatives" / "manual", protocols, metrics=["dice"])


def write(scores: ScoreTable, path: Path) -> None:
    cases = cases_of(scores)
    spread = statistics.stdev(cases) if len(cases) > 1 else math.nan
    overall = ("mean of structures", len(cases), statistics.fmean(cases), spread)
    rows = [(s.structure, s.n, s.mean, s.sd, s.lowest, s.highest) for s in scores.summaries("dice")]
    names = ("structure", "n", "dice_mean", "dice_sd", "dice_min", "dice_max")
    path.unlink(missing_ok=True)
    table = []
    for name, n, *values in [(*overall, min(cases), max(cases)), *rows]:
        figures = [name, n, *(f"{value:.4f}" for value in values)]
        table.append(dict(zip(names, figures, strict=True)) | provenance())
    add_rows(path, table)


def show(name: str, scores: ScoreTable) -> None:
    cases = cases_of(scores)
    print(f"{name}: mean Dice {statistics.fmean(cases):.4f} over {len(cases)} scans")
    for summary in scores.summaries("dice"):
        print(f"| {summary.structure} | {summary.mean:.3f} ± {summary.sd:.3f} | {summary.n} |")


if __name__ == "__main__":
    main()
