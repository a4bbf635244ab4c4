r"""How true Dice goes with the network's own doubt, and what is usual for a model's results.

Segments scans that have a truth, as they are and mildly damaged, and keeps what was measured in a
file, so that it can be stopped and taken up again. Then it fits `fewlabel.norms` on half of the
people and tests on the other half, twenty times, and writes the means to
`benchmarks/results/quality_MODEL.csv`. `--record` fits all and writes `quality.json` into the
model folder:

    python -m benchmarks.quality.calibrate --keep looks.jsonl --record \
        ../shared/data/malc:neuromorphometrics138 ../shared/data/oasis-trt:dktaseg

People who are in several of the data sets are told by `person_id` in `participants.tsv`.
"""

import argparse
import csv
import json
import statistics
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from benchmarks.common import RESULTS, add_rows, provenance
from benchmarks.quality.damage import MILD, upright
from fewlabel.conform import turned
from fewlabel.engine import Compute
from fewlabel.evaluate import label_files, score_pair
from fewlabel.grid import Grid
from fewlabel.io import read_labels, read_scan
from fewlabel.labels import Label, LabelProtocol, load_protocol
from fewlabel.model import CARD, QUALITY, ModelFolder, find_model
from fewlabel.norms import Norms
from fewlabel.norms_fit import About, Known, fit_norms
from fewlabel.quality import judge
from fewlabel.segmenter import Segmenter
from fewlabel.traits import Traits
from fewlabel.volume import LabelMap
from fewlabel.whole import write_text

SPLITS = 20


@dataclass(frozen=True)
class Job:
    """A scan with its truth, and what is to be done to it."""

    data: str
    case: str
    person: str
    age_years: float
    scan: Path
    truth: Path
    protocol: str
    damage: str

    @property
    def key(self) -> str:
        return f"{self.damage} {self.data} {self.case}"


@dataclass(frozen=True)
class Look:
    """What was measured of one job."""

    job: Job
    known: Known
    spacing_mm: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="adult-aseg32")
    parser.add_argument("--keep", type=Path, required=True, help="file for what was measured")
    parser.add_argument("--record", action="store_true", help="write quality.json of the model")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("data", nargs="+", help="FOLDER:PROTOCOL")
    options = parser.parse_args()
    model = find_model(options.model)
    looks = look(jobs_from(options.data), model, options.keep, options.threads)
    about = about_of(looks)
    rows = evaluate(looks, about)
    path = RESULTS / f"quality_{model.card.name}.csv"
    path.unlink(missing_ok=True)
    add_rows(path, [row | provenance() for row in rows])
    for row in rows:
        print(" | ".join(str(value) for value in row.values()))
    if options.record:
        record(model, fit_norms([one.known for one in looks], about))


def jobs_from(sources: list[str]) -> list[Job]:
    """All scans as they are, and every second damaged one, which is enough to teach the slope."""
    jobs = [job for source in sources for job in jobs_of(*source.split(":"))]
    return [job for n, job in enumerate(jobs) if job.damage == "clean" or n // len(MILD) % 2 == 0]


def jobs_of(folder: str, protocol: str) -> Iterator[Job]:
    data = Path(folder)
    rows = csv.DictReader((data / "participants.tsv").open(), delimiter="\t")
    people = {row["participant_id"]: row for row in rows}
    truths = label_files(data / "derivatives" / "manual", load_protocol(protocol))
    for scan in sorted(data.glob("sub-*/anat/*_T1w.nii.gz")):
        case = scan.name.split("_")[0]
        person = people[case]
        for damage in MILD:
            yield Job(
                data.name,
                case,
                person.get("person_id", case),
                float(person["age"]),
                scan,
                truths[case],
                protocol,
                damage,
            )


def look(jobs: list[Job], model: ModelFolder, keep: Path, threads: int | None) -> list[Look]:
    """Measure what is not yet in the file."""
    network = model.card.sha256["model.onnx"][:12]
    lines = keep.read_text().splitlines() if keep.exists() else []
    done = {row["key"]: row for row in map(json.loads, lines) if row["network"] == network}
    segmenter = None
    for number, job in enumerate(jobs, start=1):
        if job.key in done:
            continue
        segmenter = segmenter or Segmenter(model, Compute(threads=threads))
        done[job.key] = {"key": job.key, "network": network, **measured(job, segmenter)}
        with keep.open("a") as stream:
            stream.write(json.dumps(done[job.key]) + "\n")
        print(f"{number} of {len(jobs)}: {job.key}", flush=True)
    return [
        Look(
            job,
            Known(
                job.person,
                Traits.from_json(done[job.key]["traits"]),
                done[job.key]["dice"],
                job.damage == "clean",
            ),
            done[job.key]["spacing_mm"],
        )
        for job in jobs
    ]


def measured(job: Job, segmenter: Segmenter) -> dict[str, object]:
    seed = zlib.crc32((job.damage + job.case).encode())
    scan = MILD[job.damage](upright(read_scan(job.scan)), np.random.default_rng(seed))
    result = segmenter(scan)
    truth = read_labels(job.truth, load_protocol(job.protocol))
    grid, classes = turned(truth)
    truth = LabelMap(np.ascontiguousarray(classes), grid, truth.protocol)
    scores = score_pair(result.labels, truth, case=job.case, metrics=["dice"])
    return {
        "traits": result.traits.as_json(),
        "dice": {row.structure: row.value for row in scores.rows if np.isfinite(row.value)},
        "spacing_mm": max(scan.grid.spacing_mm),
    }


def about_of(looks: list[Look]) -> About:
    clean = [one.job for one in looks if one.known.intact]
    counts = Counter(job.data for job in clean)
    ages = [job.age_years for job in clean]
    return About(
        scans=", ".join(f"{n} scans of {name}" for name, n in counts.items()),
        spacing_mm=max(one.spacing_mm for one in looks),
        ages_years=(min(ages), max(ages)),
    )


def evaluate(looks: list[Look], about: About) -> list[dict[str, object]]:
    """Fit on half of the people, test on the others; means and ranges over splits."""
    people = sorted({one.known.person for one in looks})
    found: dict[str, dict[str, list[float]]] = {}
    for seed in range(SPLITS):
        half = set(np.random.default_rng(seed).permutation(people)[: (len(people) + 1) // 2])
        norms = fit_norms([one.known for one in looks if one.known.person in half], about)
        rest = [one for one in looks if one.known.person not in half]
        parts = {"as they are and damaged": rest}
        for damage in MILD:
            parts[damage] = [one for one in rest if one.job.damage == damage]
        for name in {one.job.data for one in rest}:
            parts[name] = [one for one in rest if one.job.data == name and one.known.intact]
        for name, part in parts.items():
            for figure, value in figures(part, norms).items():
                found.setdefault(name, {}).setdefault(figure, []).append(value)
    return [
        {"scans": name}
        | {
            figure: f"{statistics.fmean(values):.3f} ({min(values):.3f} to {max(values):.3f})"
            for figure, values in of_part.items()
        }
        for name, of_part in found.items()
    ]


def figures(looks: list[Look], norms: Norms) -> dict[str, float]:
    rows, means, warned = [], [], 0
    for one in looks:
        known = one.known
        of_case = []
        for name, overlap in zip(known.traits.names, known.traits.overlap, strict=True):
            interval = norms.interval(name, float(overlap))
            line = norms.structures[name].dice if name in norms.structures else None
            if interval and line and name in known.dice:
                of_case.append((known.dice[name], *interval, line.mean))
        rows += of_case
        means.append(np.mean(of_case, axis=0)[:2])
        warned += bool(judge(a_brain(), known.traits, norms).findings)
    truth, middle, low, high, mean = np.array(rows).T
    return {
        "spearman": float(spearmanr(truth, middle)[0]),
        "spearman_of_structure_means_alone": float(spearmanr(truth, mean)[0]),
        "spearman_of_case_means": float(spearmanr(*np.array(means).T)[0]),
        "covered_by_90_percent_intervals": float(((truth >= low) & (truth <= high)).mean()),
        "interval_width": float((high - low).mean()),
        "mean_absolute_error": float(np.abs(truth - middle).mean()),
        "scans_with_a_warning": warned / len(looks),
    }


def a_brain() -> LabelMap:
    """A label map that no rule on labels objects to; the scans are whole."""
    data = np.zeros((3, 3, 3), np.int16)
    data[1, 1, 1] = 1
    return LabelMap(data, Grid((3, 3, 3), np.eye(4)), LabelProtocol("one", (Label(1, "one"),)))


def record(model: ModelFolder, norms: Norms) -> None:
    """Write `quality.json`, and its hash into the card."""
    text = norms.model_dump_json(indent=1) + "\n"
    write_text(model.folder / QUALITY, text)
    hashes = model.card.sha256 | {QUALITY: sha256(text.encode()).hexdigest()}
    card = model.card.model_copy(update={"sha256": hashes})
    write_text(model.folder / CARD, card.model_dump_json(indent=1) + "\n")
    print(f"{model.folder / QUALITY}: {asdict(About(norms.scans, norms.spacing_mm))}")


if __name__ == "__main__":
    main()
