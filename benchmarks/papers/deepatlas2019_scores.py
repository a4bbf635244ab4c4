"""Scores of DeepAtlas's networks on the voxels that they work on."""

import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from fewlabel.aligned import align_cases
from fewlabel.cache import Cache
from fewlabel.cohort import Cohort
from fewlabel.deep_atlas_study import told_apart
from fewlabel.examples import make_examples
from fewlabel.labels import load_protocol
from fewlabel.pairs import classes_of
from fewlabel.recipes.deep_atlas import Config
from fewlabel.train_run import default_cache
from fewlabel.volume import LabelMap
from fewlabel.warp import Displacement, folds, warp_labels

Row = dict[str, str | float]


class Scans:
    """All scans of a study in one place, with their labels, also those hidden in training."""

    def __init__(self, cohort: Cohort, config: Config) -> None:
        cases = (*cohort.part("train"), *cohort.part("test"))
        self.protocol = load_protocol(config.protocol)
        found = align_cases(cases, config.working, config.multiple, Cache(default_cache()))
        examples = make_examples(found, {self.protocol.name: self.protocol})
        self.merge = np.array(told_apart(examples, self.protocol, needed=True))
        self.grid = found[0].grid
        self.images = {
            e.scan.case.id: torch.from_numpy(np.array(e.scan.image))[None] for e in examples
        }
        self.labels = {
            e.scan.case.id: LabelMap(classes_of(e, self.protocol), self.grid, self.protocol)
            for e in examples
        }

    def dice(self, found: np.ndarray, truth: np.ndarray) -> float:
        """Mean over the structures of the truth that labels tell apart."""
        known = (found >= 0) & (truth >= 0)
        said, true = self.merge[found[known]], truth[known]
        n = self.protocol.n_classes
        size = np.bincount(said, minlength=n) + np.bincount(true, minlength=n)
        there = np.bincount(true, minlength=n) > 0
        there[0] = False
        both = np.bincount(true[said == true], minlength=n)
        return float((2 * both[there] / size[there]).mean())


def bent(net: torch.nn.Module, moving: str, fixed: str, scans: Scans) -> tuple[Displacement, float]:
    """The field from a fixed to a moving scan, and the seconds that it took."""
    begin = time.perf_counter()
    with torch.inference_mode():
        voxels = net(scans.images[fixed], scans.images[moving])[0].numpy()
    mm = np.ascontiguousarray(voxels * np.float32(scans.grid.spacing_mm[0]))
    return Displacement(mm, scans.grid), time.perf_counter() - begin


def score_pairs(
    net: torch.nn.Module, pairs: Sequence[tuple[str, str, str]], scans: Scans
) -> list[Row]:
    return list(_pairs(net, pairs, scans))


def _pairs(
    net: torch.nn.Module, pairs: Sequence[tuple[str, str, str]], scans: Scans
) -> Iterator[Row]:
    for group, moving, fixed in pairs:
        field, seconds = bent(net, moving, fixed, scans)
        truth = scans.labels[fixed].data
        carried = warp_labels(scans.labels[moving], field).data
        body = scans.images[fixed][0, 0].numpy() > 0.1
        yield {
            "task": "registration",
            "group": group,
            "moving": moving,
            "case": fixed,
            "dice": round(scans.dice(carried, truth), 5),
            "dice_affine": round(scans.dice(scans.labels[moving].data, truth), 5),
            "folded_share": folds(field, body).share,
            "seconds": round(seconds, 3),
        }


def score_segmentation(
    net: torch.nn.Module, groups: Sequence[tuple[str, str]], scans: Scans
) -> list[Row]:
    rows: list[Row] = []
    for group, name in groups:
        begin = time.perf_counter()
        with torch.inference_mode():
            logits = net(scans.images[name])[scans.protocol.name][0]
        found = logits.argmax(0).numpy().astype(np.int16)
        rows.append(
            {
                "task": "segmentation",
                "group": group,
                "moving": "",
                "case": name,
                "dice": round(scans.dice(found, scans.labels[name].data), 5),
                "dice_affine": "",
                "folded_share": "",
                "seconds": round(time.perf_counter() - begin, 3),
            }
        )
    return rows
