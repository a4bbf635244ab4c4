"""Do the tables agree? Volumes of the same people, drawn in two protocols, both as aseg32.

    python benchmarks/protocols/volumes.py ../shared/data

`malc` (neuromorphometrics138) and `oasis-trt` (dktaseg) label scans of the same people.
"""

import csv
import sys
from pathlib import Path

import numpy as np

from fewlabel.evaluate import label_files
from fewlabel.io import read_labels
from fewlabel.labels import load_protocol, shared_protocol
from fewlabel.metrics import intraclass_correlation, volumes_mm3


def volumes_of(folder: Path, name: str) -> dict[str, dict[str, float]]:
    """Person to structure to mm3, in aseg32."""
    protocol, target = load_protocol(name), load_protocol("aseg32")
    files = label_files(folder / "derivatives" / "manual", protocol)
    return {
        case.removeprefix("sub-"): volumes_mm3(
            read_labels(path, protocol).to(shared_protocol(protocol, target))
        )
        for case, path in files.items()
    }


def main() -> None:
    data = Path(sys.argv[1])
    with (data / "oasis-trt" / "participants.tsv").open() as file:
        person = {
            r["participant_id"][4:]: r["malc_id"] for r in csv.DictReader(file, delimiter="\t")
        }
    malc = volumes_of(data / "malc", "neuromorphometrics138")
    trt = {person[p]: v for p, v in volumes_of(data / "oasis-trt", "dktaseg").items()}
    people = sorted(malc.keys() & trt.keys())
    print(f"{len(people)} people\n")
    print("| structure | malc (mm3) | oasis-trt (mm3) | mean difference | largest | ICC(2,1) |")
    print("|---|---|---|---|---|---|")
    for name in trt[people[0]]:
        pairs = np.array([[malc[p][name], trt[p][name]] for p in people])
        percent = 100 * (pairs[:, 1] / pairs[:, 0] - 1)
        largest = percent[np.abs(percent).argmax()]
        print(
            f"| {name} | {pairs[:, 0].mean():.0f} | {pairs[:, 1].mean():.0f} |"
            f" {percent.mean():+.1f} % | {largest:+.1f} % | {intraclass_correlation(pairs):.3f} |"
        )


if __name__ == "__main__":
    main()
