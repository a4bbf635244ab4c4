"""The method of xu2019 with one labeled scan: its five ablations, on hippocampi and on brains.

    python -m benchmarks.papers.deepatlas2019 --size cpu [--only hippocampus|brain]
        [--data ../shared/data] [--work runs/deepatlas2019] [--scale 1.0] [--labeled 0 1 2]

Each network of each ablation takes equally many steps; three scans take turns in being the
labeled one. `unsupervised` and the first stage of the others need no labels, and are trained
once. With one labeled scan no pair has two label maps, so `weak` is `unsupervised` then; it is
trained with all three labeled scans instead and says so. Scores are taken on the voxels that
the networks work on, of people that no training saw ("new") and of the training scans whose
labels were hidden ("unlabeled"). The last weights count.

Stop it at any time: what is trained and scored is kept, and the same command goes on. Rows go to
benchmarks/results/deepatlas2019_cpu.csv, a model of each set to benchmarks/papers/models,
pictures to docs/papers; tables are printed. `--scale` multiplies all steps.
"""

import argparse
import csv
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from benchmarks.common import RESULTS, add_rows, provenance
from benchmarks.papers.deepatlas2019_figures import draw_pair, tables
from benchmarks.papers.deepatlas2019_scores import Scans, score_pairs, score_segmentation
from fewlabel.cohort import Case, Cohort, write_cohort
from fewlabel.datasets import index_folder
from fewlabel.export import Choice, export_run
from fewlabel.recipes import read_plan
from fewlabel.recipes.deep_atlas import FINAL, Config, networks_of
from fewlabel.train.checkpoint import load_weights
from fewlabel.train.progress import shown
from fewlabel.train_run import Means, train_run

ROOT = Path(__file__).parents[2]
MODELS = Path(__file__).parent / "models"
TABLE = RESULTS / "deepatlas2019_cpu.csv"
LAST = {
    "unsupervised": "unsupervised", "weak": "weak", "segmentation": "alone", "held": "held",
    "joint": "joint",
}  # fmt: skip
"""The stage that each ablation ends with."""


@dataclass(frozen=True)
class Study:
    """One data set: who trains, who is new, who is labeled in turn."""

    name: str
    data: str
    config: str
    train: int
    labeled: tuple[int, ...]
    license: str


STUDIES = (
    Study(
        "hippocampus",
        "hippocampus",
        "deep_atlas_hippocampus.yaml",
        40,
        (0, 13, 26),
        "CC BY-SA 4.0, as the training data (Medical Segmentation Decathlon)",
    ),
    Study(
        "brain",
        "malc",
        "deep_atlas_brain.yaml",
        15,
        (0, 5, 10),
        "research use: trained on malc (CC BY-NC 3.0; labels by Neuromorphometrics, Inc.)",
    ),
)


def split(study: Study, asked: argparse.Namespace) -> Cohort:
    """The first people train, the others are new; where the data have a split, it is kept."""
    cases = index_folder(asked.data.resolve() / study.data).cohort.cases
    if any(case.split for case in cases):
        cases = tuple(sorted(cases, key=lambda case: case.split != "train"))
    found = [
        Case(c.id, c.person, c.family, c.scans, c.labels, c.protocol,
             split="train" if n < study.train else "test")
        for n, c in enumerate(cases)
    ]  # fmt: skip
    return Cohort(tuple(found))


@dataclass(frozen=True)
class Training:
    """One run."""

    study: Study
    ablation: str
    labeled: tuple[str, ...]
    starts: tuple[str, ...]

    @property
    def name(self) -> str:
        return "-".join((self.study.name, self.ablation, *self.labeled))


def trainings(study: Study, cohort: Cohort, turns: Sequence[int]) -> Iterator[Training]:
    """In order; of the scans that take turns in being labeled only some, perhaps."""
    train = cohort.part("train")
    names = [train[n].id for n in study.labeled]
    first = Training(study, "unsupervised", (), ())
    yield first
    for name in (names[turn] for turn in turns):
        yield Training(study, "segmentation", (name,), ())
        yield (held := Training(study, "held", (name,), (first.name,)))
        yield Training(study, "joint", (name,), (first.name, held.name))
    if len(names) - 1 in turns:
        yield Training(study, "weak", tuple(names), (first.name,))


def train(one: Training, manifest: Path, asked: argparse.Namespace) -> tuple[Path, float]:
    """A run folder with trained weights, and how long this call took."""
    work = asked.work.resolve()
    settings = yaml.safe_load((ROOT / "configs" / one.study.config).read_text(encoding="utf-8"))
    settings |= {
        "data": {"cohort": str(manifest)},
        "ablation": one.ablation,
        "labeled": list(one.labeled),
        "start": [str(work / name) for name in one.starts],
    }
    for key in ("register_steps", "segment_steps", "joint_steps"):
        settings[key] = max(3, round(settings[key] * asked.scale))
    path = work / f"{one.name}.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    begin = time.perf_counter()
    with shown() as watch:
        train_run(path, work / one.name, resume=True, means=Means(device="cpu", watch=watch))
    return work / one.name, time.perf_counter() - begin


def trained(run: Path, ablation: str) -> tuple[Config, dict[str, torch.nn.Module]]:
    config = read_plan(run / "settings.yaml").config
    assert isinstance(config, Config)
    networks = dict(zip(("register", "segment"), networks_of(config), strict=True))
    weights = load_weights(run / LAST[ablation] / FINAL)
    for key, net in networks.items():
        net.load_state_dict(weights[key])
        net.eval()
    return config, networks


def scored(one: Training, run: Path, cohort: Cohort, scans: Scans) -> list[dict[str, str | float]]:
    """Rows of a trained run."""
    _, networks = trained(run, one.ablation)
    train, test = cohort.part("train"), cohort.part("test")
    known = one.labeled or tuple(train[n].id for n in one.study.labeled)
    hidden = [case.id for case in train if case.id not in known]
    new = [case.id for case in test]
    rows: list[dict[str, str | float]] = []
    if one.ablation != "segmentation":
        pairs = [("new", a, b) for a in known for b in new]
        pairs += [("new to new", a, b) for a, b in zip(new, [*new[1:], new[0]], strict=True)]
        pairs += [("unlabeled", a, b) for a in known for b in hidden]
        rows += score_pairs(networks["register"], pairs, scans)
    if one.ablation not in ("unsupervised", "weak"):
        groups = [("new", name) for name in new] + [("unlabeled", name) for name in hidden]
        rows += score_segmentation(networks["segment"], groups, scans)
    return rows


def finished() -> set[tuple[str, str, str]]:
    if not TABLE.exists():
        return set()
    with TABLE.open(encoding="utf-8") as stream:
        return {(row["study"], row["ablation"], row["labeled"]) for row in csv.DictReader(stream)}


def keep(one: Training, run: Path, cohort: Cohort, scans: Scans) -> None:
    """The model folder and the picture of a set."""
    out = MODELS / f"deepatlas2019-{one.study.name}"
    print(export_run(run, out, Choice(license=one.study.license)).as_text())
    _, networks = trained(run, one.ablation)
    picture = ROOT / "docs" / "papers" / f"deepatlas2019-{one.study.name}.png"
    draw_pair(networks, one.labeled[0], cohort.part("test")[0].id, scans, picture)


def study_of(study: Study, asked: argparse.Namespace) -> None:
    cohort = split(study, asked)
    manifest = asked.work.resolve() / f"{study.name}.tsv"
    write_cohort(cohort, manifest)
    config = read_plan(ROOT / "configs" / study.config).config
    assert isinstance(config, Config)
    scans, done = Scans(cohort, config), finished()
    kept = False
    for one in trainings(study, cohort, asked.labeled):
        labeled = " ".join(one.labeled)
        wanted = (study.name, one.ablation, labeled) not in done
        keeps = one.ablation == "joint" and not kept and 0 in asked.labeled
        kept = kept or keeps
        if not wanted:
            continue
        run, seconds = train(one, manifest, asked)
        rows = scored(one, run, cohort, scans)
        means = {
            task: [
                float(row["dice"]) for row in rows if row["task"] == task and row["group"] == "new"
            ]
            for task in ("registration", "segmentation")
        }
        said = ", ".join(f"{task} {sum(v) / len(v):.3f}" for task, v in means.items() if v)
        print(f"{one.name}: {said}; {seconds:.0f} s", flush=True)
        if asked.scale != 1:
            continue  # a trial
        about = {**provenance(asked.note), "study": study.name, "ablation": one.ablation}
        about |= {"labeled": labeled, "train_s": str(round(seconds))}
        add_rows(TABLE, [{**about, **row} for row in rows])
        if keeps:
            keep(one, run, cohort, scans)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=["cpu"], required=True)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=Path("runs") / "deepatlas2019")
    parser.add_argument("--only", choices=[study.name for study in STUDIES])
    parser.add_argument("--scale", type=float, default=1.0, help="of all steps, to try the script")
    parser.add_argument(
        "--labeled", type=int, nargs="+", default=[0, 1, 2], help="turns, to share out the work"
    )
    parser.add_argument("--note", default="")
    asked = parser.parse_args()
    for study in STUDIES:
        if asked.only in (None, study.name):
            study_of(study, asked)
    if TABLE.exists():
        print(tables(TABLE))


if __name__ == "__main__":
    main()
