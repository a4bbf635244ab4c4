r"""How true Dice goes with the network's own doubt, and what is usual for a model's results.

Does what `fewlabel calibrate` does, on several data sets at once, and keeps what was measured in a
file, so that it can be stopped and taken up again. Then it fits `fewlabel.norms` on half of the
people and tests on the other half, twenty times, and writes the means to
`benchmarks/results/quality_MODEL.csv`; the same with few people of the first data set, tested on
its others, to `quality_few_MODEL.csv`. `--record` fits all and writes `quality.json` into the model
folder:

    python -m benchmarks.quality.calibrate --keep looks.jsonl --record \
        ../shared/data/malc ../shared/data/oasis-trt:dktaseg

People who are in several of the data sets are told by `person_id` in `participants.tsv`.
"""

import argparse
import json
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from benchmarks.common import RESULTS, add_rows, provenance
from fewlabel.calibrate import Look, Task, check, foretold, look, tasks_for
from fewlabel.cohort import Case
from fewlabel.damage import MILD
from fewlabel.datasets import index_folder
from fewlabel.engine import Compute
from fewlabel.grid import Grid
from fewlabel.labels import Label, LabelProtocol
from fewlabel.model import ModelFolder, copy_model, find_model
from fewlabel.norms import Norms
from fewlabel.norms_fit import About, Known, fit_norms
from fewlabel.people import WEEKS_PER_YEAR
from fewlabel.quality import judge
from fewlabel.segmenter import Segmenter
from fewlabel.traits import Traits
from fewlabel.volume import LabelMap

SPLITS = 20
FEW = (3, 4, 5, 8)


@dataclass(frozen=True)
class Job:
    """A task in one of several data sets."""

    data: str
    task: Task

    @property
    def case(self) -> Case:
        return self.task.case

    @property
    def key(self) -> str:
        return f"{self.task.damage} {self.data} {self.case.id}"


@dataclass(frozen=True)
class Measured:
    """What was measured of one job."""

    job: Job
    look: Look

    @property
    def known(self) -> Known:
        return self.look.known


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="adult-aseg32")
    parser.add_argument("--keep", type=Path, required=True, help="file for what was measured")
    parser.add_argument("--record", action="store_true", help="write quality.json of the model")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("data", nargs="+", help="FOLDER[:DESC of its labels]")
    options = parser.parse_args()
    model = find_model(options.model)
    looks = measured(jobs_from(options.data), model, options.keep, options.threads)
    about = about_of(looks)
    for table, rows in (("quality", evaluate(looks, about)), ("quality_few", with_few(looks))):
        path = RESULTS / f"{table}_{model.card.name}.csv"
        path.unlink(missing_ok=True)
        add_rows(path, [row | provenance() for row in rows])
        for row in rows:
            print(" | ".join(str(value) for value in row.values()))
    if options.record:
        norms = fit_norms([one.known for one in looks], about)
        copy_model(model, model.folder, model.card, norms)
        print(f"{model.folder}: {asdict(About(norms.scans, norms.spacing_mm))}")


def jobs_from(sources: Sequence[str]) -> list[Job]:
    """The tasks of all data sets."""
    named = []
    for source in sources:
        folder, _, desc = source.partition(":")
        cases = index_folder(Path(folder).resolve(), desc=desc).cohort.cases
        named += [(Path(folder).name, case) for case in cases if case.labels]
    data = {id(case): name for name, case in named}
    return [Job(data[id(task.case)], task) for task in tasks_for([case for _, case in named])]


def measured(
    jobs: Sequence[Job], model: ModelFolder, keep: Path, threads: int | None
) -> list[Measured]:
    """Measure what is not yet in the file."""
    network = model.card.sha256["model.onnx"][:12]
    lines = keep.read_text().splitlines() if keep.exists() else []
    done = {row["key"]: row for row in map(json.loads, lines) if row["network"] == network}
    segmenter = None
    for number, job in enumerate(jobs, start=1):
        if job.key in done:
            continue
        segmenter = segmenter or Segmenter(model, Compute(threads=threads))
        done[job.key] = {"key": job.key, "network": network, **as_json(look(segmenter, job.task))}
        with keep.open("a") as stream:
            stream.write(json.dumps(done[job.key]) + "\n")
        print(f"{number} of {len(jobs)}: {job.key}", flush=True)
    return [Measured(job, from_json(done[job.key], job)) for job in jobs]


def as_json(found: Look) -> dict[str, object]:
    known = found.known
    return {
        "traits": known.traits.as_json(), "dice": dict(known.dice), "spacing_mm": found.spacing_mm,
    }  # fmt: skip


def from_json(row: dict[str, object], job: Job) -> Look:
    known = Known(job.case.person, Traits.from_json(row["traits"]), row["dice"], job.task.intact)
    return Look(known, row["spacing_mm"])


def about_of(looks: Sequence[Measured]) -> About:
    clean = [one.job for one in looks if one.known.intact]
    counts = Counter(job.data for job in clean)
    ages = [job.case.age_weeks / WEEKS_PER_YEAR for job in clean if job.case.age_weeks]
    return About(
        scans=", ".join(f"{n} scans of {name}" for name, n in counts.items()),
        spacing_mm=max(one.look.spacing_mm for one in looks),
        ages_years=(min(ages), max(ages)),
    )


def evaluate(looks: Sequence[Measured], about: About) -> list[dict[str, object]]:
    """Fit on half of the people, test on the others; means and ranges over splits."""
    people = sorted({one.known.person for one in looks})
    found: dict[str, dict[str, list[float]]] = {}
    for seed in range(SPLITS):
        half = set(np.random.default_rng(seed).permutation(people)[: (len(people) + 1) // 2])
        norms = fit_norms([one.known for one in looks if one.known.person in half], about)
        rest = [one for one in looks if one.known.person not in half]
        parts = {"as they are and damaged": rest}
        for damage in MILD:
            parts[damage] = [one for one in rest if one.job.task.damage == damage]
        for name in dict.fromkeys(one.job.data for one in looks):
            parts[name] = [one for one in rest if one.job.data == name and one.known.intact]
        for name, part in parts.items():
            for figure, value in figures(part, norms).items():
                found.setdefault(name, {}).setdefault(figure, []).append(value)
    return [
        {"scans": name} | {figure: spread_of(values) for figure, values in of_part.items()}
        for name, of_part in found.items()
    ]


def with_few(looks: Sequence[Measured]) -> list[dict[str, object]]:
    """Fit on a few people of the first data set, test on its others."""
    first = [one for one in looks if one.job.data == looks[0].job.data]
    people, about, rows = sorted({one.known.person for one in first}), about_of(first), []
    for n in FEW:
        found: dict[str, list[float]] = {}
        for seed in range(SPLITS):
            few = set(np.random.default_rng(seed).permutation(people)[:n])
            norms = fit_norms([one.known for one in first if one.known.person in few], about)
            rest = [one for one in first if one.known.person not in few]
            for damaged in (False, True):
                part = [one for one in rest if one.known.intact != damaged]
                for figure, value in figures(part, norms).items():
                    found.setdefault(f"{figure}{' of damaged' * damaged}", []).append(value)
        kept = [f for f in found if f.startswith(("covered", "interval_width", "mean_absolute"))]
        rows.append({"people": n} | {figure: spread_of(found[figure]) for figure in kept})
    return rows


def spread_of(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def figures(looks: Sequence[Measured], norms: Norms) -> dict[str, float]:
    rows, means, warned = [], [], 0
    for one in looks:
        known = one.known
        expected = foretold(known, norms.interval)
        of_case = [(*row, norms.structures[name].dice.mean) for name, row in expected.items()]
        rows += of_case
        means.append(np.mean(of_case, axis=0)[:2])
        warned += bool(judge(a_brain(), known.traits, norms).findings)
    (truth, middle, low, high, mean), checked = np.array(rows).T, check([r[:4] for r in rows])
    return {
        "spearman": float(spearmanr(truth, middle)[0]),
        "spearman_of_structure_means_alone": float(spearmanr(truth, mean)[0]),
        "spearman_of_case_means": float(spearmanr(*np.array(means).T)[0]),
        "covered_by_90_percent_intervals": checked.covered,
        "interval_width": float((high - low).mean()),
        "mean_absolute_error": checked.error,
        "scans_with_a_warning": warned / len(looks),
    }


def a_brain() -> LabelMap:
    """A label map that no rule on labels objects to; the scans are whole."""
    data = np.zeros((3, 3, 3), np.int16)
    data[1, 1, 1] = 1
    return LabelMap(data, Grid((3, 3, 3), np.eye(4)), LabelProtocol("one", (Label(1, "one"),)))


if __name__ == "__main__":
    main()
