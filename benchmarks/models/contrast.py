r"""What it is worth to look again with bright and dark exchanged, on painted images.

    python -m benchmarks.models.contrast [--model adult-aseg32] [--images 6]
        [--maps ../shared/data/label-maps]

Images are painted from label maps as in training: like T1w, the same inverted, like T2w, and of
random contrast; every second one without a skull. The network has seen these heads, but no image is
among those of its training, and what is asked is only which way to look is the better one. Each is
segmented without and with a second look, otherwise as the model is: with offsets and slopes, which
are those of other annotators and cost both of them some Dice here. Dice is the mean over the
structures of the truth but the CSF around the brain. Rows go to
benchmarks/results/contrast_MODEL.csv.
"""

import argparse
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import RESULTS, add_rows, provenance
from fewlabel.card import ModelCard
from fewlabel.conform import GridRule
from fewlabel.engine import Compute
from fewlabel.grid import Grid
from fewlabel.heads import Heads, read_heads
from fewlabel.metrics import dice
from fewlabel.model import find_model
from fewlabel.norms import AROUND_BRAIN
from fewlabel.palette import load_palette
from fewlabel.segmenter import Segmenter
from fewlabel.synthesis import SynthesisConfig, synthesize
from fewlabel.volume import LabelMap, Scan

PALETTE = "aseg"
KINDS: dict[str, dict[str, object]] = {
    "like T1w": {"contrasts": {"t1": 1.0}},
    "like T1w, inverted": {"contrasts": {"t1": 1.0}, "invert": 1.0},
    "like T2w": {"contrasts": {"t2": 1.0}},
    "random": {"contrasts": {"random": 1.0}},
}
USUAL: dict[str, object] = {
    "translation_mm": 8.0, "noise": (0.0, 0.04), "kinship": 0.7, "gamma": 0.35, "cut": 0.0,
    "thick": 0.0,
}  # fmt: skip


def painted(heads: Heads, card: ModelCard, kind: str, number: int) -> tuple[Scan, LabelMap]:
    """An image and its truth; the same ones for the same number."""
    assert isinstance(card.grid, GridRule)
    rng = torch.Generator().manual_seed(number)
    chosen = USUAL | KINDS[kind] | {"strip": float(number % 2)}
    working = (card.grid.field, card.grid.spacing_mm, heads.spacing_mm)
    rows = heads.rows[number * 7 % len(heads.rows)]
    config, palette = SynthesisConfig.model_validate(chosen), load_palette(PALETTE, card.protocol)
    image, classes = synthesize(rows, palette, config, working, rng)
    grid = Grid(card.grid.field, np.diag([*[card.grid.spacing_mm] * 3, 1.0]))
    truth = classes[0].numpy().astype(np.int16)
    return Scan(image[0, 0].numpy(), grid), LabelMap(truth, grid, card.protocol)


def score(found: LabelMap, truth: LabelMap) -> float:
    scores = dice(found, truth)
    drawn = np.bincount(truth.data.ravel(), minlength=truth.protocol.n_classes)[1:]
    names = zip(truth.protocol.names, drawn, strict=True)
    return statistics.fmean(
        scores[n] for n, size in names if size and n.lower() not in AROUND_BRAIN
    )


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--model", default="adult-aseg32")
    ask.add_argument("--images", type=int, default=6)
    ask.add_argument("--maps", type=Path, default=Path("../shared/data/label-maps"))
    asked = ask.parse_args()
    model = find_model(asked.model)
    card = model.card
    twice = Segmenter(model, Compute())
    once = Segmenter(replace(model, card=card.model_copy(update={"contrast": None})), Compute())
    assert isinstance(card.grid, GridRule)
    heads = read_heads(asked.maps, load_palette(PALETTE, card.protocol), card.grid.field_mm)
    about, table = provenance(), RESULTS / f"contrast_{card.name}.csv"
    table.unlink(missing_ok=True)
    print(
        "| image | once | twice | least gain | most gain | exchanged |\n|---|---|---|---|---|---|"
    )
    for kind in KINDS:
        pairs, turned = [], 0
        for number in range(asked.images):
            scan, truth = painted(heads, card, kind, number)
            second = twice(scan)
            turned += bool(second.record["bright_and_dark_exchanged"])
            pairs.append((score(once(scan).labels, truth), score(second.labels, truth)))
        before, after = (statistics.fmean(column) for column in zip(*pairs, strict=True))
        gains = [late - early for early, late in pairs]
        row = {"image": kind, "n": asked.images, "dice_once": f"{before:.4f}",
               "dice_twice": f"{after:.4f}", "least_gain": f"{min(gains):.4f}",
               "most_gain": f"{max(gains):.4f}", "exchanged": turned}  # fmt: skip
        add_rows(table, [about | row])
        print(f"| {kind} | {before:.3f} | {after:.3f} | {min(gains):+.3f} | {max(gains):+.3f}"
              f" | {turned} of {asked.images} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
