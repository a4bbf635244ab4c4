"""How the embedded model for newborns does on brains that other people averaged and labeled.

    python -m benchmarks.models.neonate_fetuses [--data ../shared/data] [--model FOLDER]
        [--threads 2]

The T2w averages of fetal-spina-bifida, 21 to 34 weeks, taught it nothing. Its structures and theirs
are merged to the six that both draw: the corpus callosum and all kinds of white matter are one, so
are cerebellum and brainstem; "background" counts as nothing. Rows, one for each brain and
structure, go to benchmarks/results/neonate-drawem9_fetuses.csv; printed are means over the brains
of 28 weeks and older, for which the model is meant, and over the younger ones.
"""

import argparse
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import RESULTS, add_rows, provenance
from fewlabel.cohort import Case
from fewlabel.datasets import index_folder
from fewlabel.engine import Compute
from fewlabel.io import read_labels, read_scan
from fewlabel.labels import load_protocol
from fewlabel.model import find_model
from fewlabel.segmenter import Segmenter

TABLE = RESULTS / "neonate-drawem9_fetuses.csv"
MEANT_FOR = 28.0
"""Weeks from which on the model is meant to be used."""
SHARED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "cerebrospinal fluid": (("extra-axial cerebrospinal fluid",), ("cerebrospinal fluid",)),
    "cortical gray matter": (("cortical gray matter",), ("cortical gray matter",)),
    "white matter": (
        ("white matter", "corpus callosum"),
        ("white matter", "watery white matter", "dark white matter"),
    ),
    "ventricles": (("ventricles",), ("ventricles",)),
    "cerebellum and brainstem": (("cerebellum", "brainstem"), ("cerebellum and brainstem",)),
    "deep gray matter": (("deep gray matter",), ("deep gray matter",)),
}
"""Names that are merged: in the label maps of the fetuses, and in those of the model."""


def scored(segmenter: Segmenter, case: Case) -> Iterator[dict[str, Any]]:
    """Dice of each merged structure."""
    assert case.labels is not None
    found = segmenter({"T2w": read_scan(case.scans["T2w"])})
    truth = read_labels(case.labels, load_protocol("fetal8"))
    (weeks,) = re.findall(r"GA(\d+)", case.id)
    about = {"case": case.id, "weeks": weeks, "told_weeks": found.age and f"{found.age.weeks:.1f}"}
    for name, sides in SHARED.items():
        drawn, said = (
            np.isin(one.data, [one.protocol.class_of(part) for part in parts])
            for one, parts in zip((truth, found.labels), sides, strict=True)
        )
        dice = 2 * (drawn & said).sum() / (drawn.sum() + said.sum())
        yield about | {"structure": name, "dice": f"{dice:.4f}"}


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--data", type=Path, default=Path("../shared/data"))
    ask.add_argument("--model", default="neonate-drawem9")
    ask.add_argument("--threads", type=int)
    asked = ask.parse_args()
    model = find_model(asked.model)
    segmenter = Segmenter(model, Compute(threads=asked.threads))
    cases = index_folder(asked.data / "fetal-spina-bifida").cohort.cases
    rows = [
        {**provenance(f"version {model.card.version}"), **row}
        for case in cases
        for row in scored(segmenter, case)
    ]
    add_rows(TABLE, rows)
    for older in (True, False):
        part = [row for row in rows if (float(row["weeks"]) >= MEANT_FOR) == older]
        count = len({row["case"] for row in part})
        print(f"{count} brains of {'at least' if older else 'less than'} {MEANT_FOR:g} weeks")
        for name in SHARED:
            values = [float(row["dice"]) for row in part if row["structure"] == name]
            print(f"| {name} | {statistics.fmean(values):.3f} |")
        print(f"| mean | {statistics.fmean(float(row['dice']) for row in part):.3f} |")


if __name__ == "__main__":
    main()
