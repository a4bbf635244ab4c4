"""The method of xu2017 on two small public sets: 1, 2 and 8 training images, ImageNet or random.

    python -m benchmarks.papers.xu2017 --size cpu [--data ../shared/data] [--weights FILE]
        [--work runs/xu2017] [--only ibsr18] [--steps N]

Every training has the same number of steps (configs/xu2017_ibsr18.yaml, xu2017_neonatal.yaml) and
its last weights are scored, on scans that nothing was chosen by. Stop it at any time: what is
trained and scored is kept, and the same command goes on. Rows go to
benchmarks/results/xu2017_cpu.csv, three models to benchmarks/papers/models, pictures to
docs/papers.
"""

import argparse
import csv
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import RESULTS, add_rows, provenance
from fewlabel.cohort import Case, Cohort, write_cohort
from fewlabel.engine import Compute
from fewlabel.export import Choice, Exported, export_run
from fewlabel.io import read_labels, read_scan
from fewlabel.labels import load_protocol
from fewlabel.metrics import dice
from fewlabel.model import ModelFolder
from fewlabel.picture import picture
from fewlabel.segmenter import Segmenter
from fewlabel.train_run import Means, train_run

ROOT = Path(__file__).parents[2]
MODELS = Path(__file__).parent / "models"
TABLE = RESULTS / "xu2017_cpu.csv"
STARTS = ("imagenet", "random")
LARGEST_CHANGE = 0.002  # of mean Dice, for weights to be kept in 8 bits
LARGEST_MB = 16.0


@dataclass(frozen=True)
class Study:
    """One data set: who trains with 1, 2 and 8 images, who is scored, and which models stay."""

    name: str
    data: str
    protocol: str
    modality: str
    scan: str
    labels: str
    train: dict[int, tuple[str, ...]]
    test: tuple[str, ...]
    scored: tuple[str, ...]
    kept: tuple[int, ...]


def weeks(*numbers: int) -> tuple[str, ...]:
    return tuple(f"sub-week{n}" for n in numbers)


_IBSR = tuple(f"sub-{n:02d}" for n in (1, 3, 4, 5, 6, 7, 8, 9))
STUDIES = (
    Study(
        name="ibsr18",
        data="ibsr18",
        protocol="tissue3",
        modality="T1w",
        scan="{0}/anat/{0}_desc-brain_T1w.nii.gz",
        labels="derivatives/manual/{0}/anat/{0}_desc-tissue_dseg.nii.gz",
        train={1: _IBSR[3:4], 2: _IBSR[3:5], 8: _IBSR},
        test=("sub-16", "sub-18"),
        scored=("gray matter", "white matter"),
        kept=(1, 8),
    ),
    Study(
        name="neonatal",
        data="neonatal-templates",
        protocol="serag9",
        modality="T2w",
        scan="{0}/anat/{0}_T2w.nii.gz",
        labels="derivatives/manual/{0}/anat/{0}_desc-drawem9_dseg.nii.gz",
        train={1: weeks(36), 2: weeks(32, 40), 8: weeks(28, 29, 32, 33, 36, 39, 40, 44)},
        test=weeks(30, 34, 38, 42),
        scored=tuple(label.name for label in load_protocol("serag9").labels if label.scored),
        kept=(8,),
    ),
)


def manifest(study: Study, data: Path, work: Path) -> Path:
    """All cases that some training uses, and those that are scored."""
    place = data / study.data
    used = sorted({name for names in study.train.values() for name in names})
    cases = [
        Case(
            name,
            name,
            name,
            {study.modality: place / study.scan.format(name)},
            place / study.labels.format(name),
            study.protocol,
            split="train" if name in used else "test",
        )
        for name in (*used, *study.test)
    ]
    path = work / f"{study.name}.tsv"
    write_cohort(Cohort(tuple(cases)), path)
    return path


def train(study: Study, n: int, start: str, asked: argparse.Namespace) -> tuple[Path, float]:
    """A run folder with trained weights, and how long this call took."""
    work = asked.work.resolve()
    run = work / f"{study.name}-n{n}-{start}"
    backbone = (
        "random"
        if start == "random"
        else str(asked.weights.resolve() if asked.weights else "imagenet")
    )
    changes = [
        f"cohort={manifest(study, asked.data.resolve(), work)}",
        f"cases=[{', '.join(study.train[n])}]",
        f"backbone={backbone}",
    ]
    if asked.steps:
        changes.append(f"steps={asked.steps}")
    config = ROOT / "configs" / f"xu2017_{study.name}.yaml"
    begin = time.perf_counter()
    train_run(
        config, run, changes=tuple(changes), resume=True, means=Means(device="cpu", workers=1)
    )
    return run, time.perf_counter() - begin


def score(study: Study, model: ModelFolder, data: Path) -> dict[tuple[str, str], float]:
    """Dice by case and structure, on the scans' own grids."""
    segmenter, protocol = Segmenter(model, Compute()), load_protocol(study.protocol)
    scores = {}
    for name in study.test:
        place = data / study.data
        found = segmenter(read_scan(place / study.scan.format(name))).labels
        truth = read_labels(place / study.labels.format(name), protocol)
        scores |= {(name, structure): value for structure, value in dice(found, truth).items()}
    return scores


def mean(study: Study, scores: dict[tuple[str, str], float]) -> float:
    values = [v for (_, s), v in scores.items() if s in study.scored and not math.isnan(v)]
    return sum(values) / len(values)


def draw(study: Study, n: int, model: ModelFolder, data: Path) -> None:
    """The first scored scan with its contours, for the paper's page."""
    name = study.test[0]
    scan = read_scan(data / study.data / study.scan.format(name))
    labels = Segmenter(model, Compute())(scan).labels
    title = f"{study.data} {name}, {n} training image{'s' * (n > 1)}"
    drawn = picture(scan, labels, title=title, lines=[model.card.name])
    (ROOT / "docs" / "papers" / f"xu2017-{study.name}-n{n}.png").write_bytes(drawn)


def done() -> set[tuple[str, str, str]]:
    if not TABLE.exists():
        return set()
    with TABLE.open(encoding="utf-8") as stream:
        return {(row["study"], row["n"], row["start"]) for row in csv.DictReader(stream)}


def keep(
    study: Study, n: int, run: Path, exported: Exported, data: Path
) -> tuple[ModelFolder, dict[tuple[str, str], float]]:
    """Put a model among those that stay: in 8 bits if that changes the mean Dice little."""
    out = MODELS / f"xu2017-{study.name}-n{n}"
    license_ = "research use, as of the training data; ImageNet start: CC BY 4.0"
    small = export_run(run, out, Choice(bits=8, license=license_)).model
    full = mean(study, score(study, exported.model, data))
    scores = score(study, small, data)
    change = mean(study, scores) - full
    print(f"  8 bits: mean Dice {full:.4f} {change:+.4f}, {small.size_mb:.1f} MB")
    if abs(change) >= LARGEST_CHANGE:
        small = export_run(run, out, Choice(license=license_)).model
    if small.size_mb > LARGEST_MB:
        raise SystemExit(f"{out} has {small.size_mb:.1f} MB; at most {LARGEST_MB:g} may stay.")
    return small, scores


def trainings(asked: argparse.Namespace) -> Iterator[tuple[Study, int, str]]:
    finished = done()
    for study in STUDIES:
        for n in study.train:
            for start in STARTS:
                wanted = asked.only in (None, study.name)
                if wanted and (study.name, str(n), start) not in finished:
                    yield study, n, start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=["cpu"], required=True)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--weights", type=Path, help="ImageNet weights; else they are fetched")
    parser.add_argument("--work", type=Path, default=Path("runs") / "xu2017")
    parser.add_argument("--only", choices=[study.name for study in STUDIES])
    parser.add_argument("--steps", type=int, help="fewer, to try the script; not for the table")
    parser.add_argument("--note", default="")
    asked = parser.parse_args()
    for study, n, start in trainings(asked):
        run, seconds = train(study, n, start, asked)
        exported = export_run(run, asked.work / "models" / run.name)
        scores = score(study, exported.model, asked.data)
        print(f"{study.name} n={n} {start}: mean Dice {mean(study, scores):.3f}, {seconds:.0f} s")
        if asked.steps:
            continue  # a trial
        if start == "imagenet" and n in study.kept:
            model, _ = keep(study, n, run, exported, asked.data)
            draw(study, n, model, asked.data)
        about = {**provenance(asked.note), "study": study.name, "n": n, "start": start}
        add_rows(
            TABLE,
            [
                {
                    **about,
                    "train_s": round(seconds),
                    "case": case,
                    "structure": s,
                    "dice": f"{v:.4f}",
                }
                for (case, s), v in scores.items()
            ],
        )


if __name__ == "__main__":
    main()
