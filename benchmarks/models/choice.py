"""Which model `fewlabel segment` chooses for each scan of the data sets, by its size alone.

    python -m benchmarks.models.choice [--data ../shared/data]

Rows, one for each data set, modality and choice, go to benchmarks/results/model_choice.csv.
"""

import argparse
from collections import Counter
from pathlib import Path

from benchmarks.common import RESULTS, add_rows, provenance
from fewlabel.io import read_scan
from fewlabel.people import UNKNOWN
from fewlabel.suited import choose_model

SETS = ("malc", "oasis-trt", "ibsr18", "neonatal-templates", "fetal-spina-bifida", "hippocampus")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    asked = parser.parse_args()
    for name in SETS:
        for modality in ("T1w", "T2w"):
            scans = sorted((asked.data / name).glob(f"sub-*/**/*_{modality}.nii.gz"))
            found = (choose_model(read_scan(scan), UNKNOWN) for scan in scans)
            counts = Counter((one.model.card.name, bool(one.doubt)) for one in found)
            rows = [
                {**provenance(), "data": name, "modality": modality, "model": model,
                 "said_to_look_like_neither": str(doubt).lower(), "scans": count}
                for (model, doubt), count in sorted(counts.items())
            ]  # fmt: skip
            for row in rows:
                print({key: row[key] for key in list(row)[5:]}, flush=True)
            if rows:
                add_rows(RESULTS / "model_choice.csv", rows)


if __name__ == "__main__":
    main()
