"""What every recipe must do, whatever its method. New ones add a toy to `toys.py`."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from fewlabel.cohort import read_cohort
from fewlabel.datasets.phantom import phantom
from fewlabel.engine import Compute
from fewlabel.errors import ConfigError
from fewlabel.export import LARGEST_DIFFERENCE, export_run
from fewlabel.grid import Grid
from fewlabel.recipes import RECIPES, Plan, read_plan
from fewlabel.segmenter import Segmenter
from fewlabel.train import Run, Workplace, train
from fewlabel.train.checkpoint import load_weights
from fewlabel.train.history import History
from fewlabel.train_run import Means, train_run
from fewlabel.volume import Scan
from tests.recipes.toys import TOYS


@dataclass(frozen=True)
class Trained:
    """A toy run that went through without a stop."""

    recipe: str
    settings: Path
    folder: Path
    cache: Path

    @property
    def plan(self) -> Plan:
        return read_plan(self.settings)

    @property
    def means(self) -> Means:
        return Means(device="cpu", workers=1, cache=self.cache)


@pytest.fixture(scope="module", params=TOYS)
def trained(request, tmp_path_factory) -> Trained:
    place = tmp_path_factory.mktemp(request.param)
    (place / "data").mkdir()
    found = {"recipe": request.param, "seed": 1} | TOYS[request.param](place / "data")
    (place / "toy.yaml").write_text(yaml.safe_dump(found))
    done = Trained(request.param, place / "toy.yaml", place / "run", place / "cache")
    train_run(done.settings, done.folder, means=done.means)
    return done


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    return export_run(trained.folder, tmp_path_factory.mktemp("export") / f"toy-{trained.recipe}")


def hashes(run: Path) -> dict[str, str]:
    return {
        path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in run.glob("*/final.safetensors")
    }


def test_every_recipe_has_a_toy():
    assert set(TOYS) == set(RECIPES)


def test_it_learns(trained):
    rows = History(trained.folder / "history.csv").rows()
    series: dict[tuple[str, str], list[float]] = {}  # stages and turns have different losses
    for stage, _, name, value in rows:
        if name.split(": ")[-1] == "total":
            series.setdefault((stage, name), []).append(value)
    left = [
        np.mean(losses[-(len(losses) // 5) :]) / np.mean(losses[: len(losses) // 5])
        for losses in series.values()
    ]

    assert min(left) < 0.9


def test_stopped_and_resumed_it_ends_with_the_same_weights(trained, tmp_path):
    run = tmp_path / "run"
    left = iter([False] * 24 + [True])
    stopping = replace(trained.means, stop=lambda: next(left, False))
    with pytest.raises(KeyboardInterrupt):
        train_run(trained.settings, run, means=stopping)

    train_run(run / "settings.yaml", run, resume=True, means=trained.means)

    assert hashes(run) == hashes(trained.folder)


def test_only_the_weights_that_its_turns_name_move(trained, tmp_path):
    plan = trained.plan
    work = Workplace(trained.folder, trained.cache)
    stage = next(iter(plan.recipe.stages(plan.config, plan.header.seed, work)))
    before = {
        f"{key}.{name}": weight.clone()
        for key, net in stage.networks.items()
        for name, weight in net.named_parameters()
    }
    steps = sum(turn.times for turn in stage.turns)

    train([replace(stage, steps=steps, validate=None)], Run(tmp_path))

    after = load_weights(tmp_path / stage.name / "final.safetensors")
    prefixes = [prefix for turn in stage.turns for prefix in turn.trains]
    moved = {
        full
        for full, weight in before.items()
        if not torch.equal(after[full.split(".", 1)[0]][full.split(".", 1)[1]], weight)
    }
    allowed = {n for n in before if any(f"{n}.".startswith(f"{p}.") for p in prefixes)}
    assert moved
    assert moved <= allowed


def test_its_batches_are_the_same_whenever_they_are_drawn(trained):
    plan = trained.plan
    work = Workplace(trained.folder, trained.cache)
    stage = next(iter(plan.recipe.stages(plan.config, plan.header.seed, work)))
    for turn in stage.turns:
        first = turn.draw(3)
        turn.draw(0)
        torch.manual_seed(7)
        np.random.seed(7)  # noqa: NPY002  (the global one must not matter)
        again = turn.draw(3)
        assert all(torch.equal(first[key], again[key]) for key in first | again)


def test_its_run_keeps_the_cases_if_it_has_any(trained):
    cohort = trained.plan.recipe.cohort(trained.plan.config, trained.folder)

    assert not cohort.cases or cohort.part("train")
    kept = trained.folder / "cohort.tsv"
    found = read_cohort(kept).cases if kept.exists() else ()
    splits = [[(case.id, case.split) for case in cases] for cases in (cohort.cases, found)]
    assert splits[0] == splits[1]


def test_a_slip_in_its_settings_is_refused_with_the_nearest_name(trained):
    with pytest.raises(ConfigError) as refusal:
        read_plan(trained.settings, ("optimizer.learning_rat=1", "optimiser=2"))

    assert "write 'optimizer.learning_rate'" in refusal.value.fix
    assert "write 'optimizer'" in refusal.value.fix


def test_what_it_exports_says_what_torch_says(exported, trained):
    card = exported.model.card

    assert exported.difference < LARGEST_DIFFERENCE
    assert card.provenance["recipe"] == trained.recipe
    assert card.description
    assert (exported.model.folder / "README.md").read_text().startswith(f"# {card.name}")


def test_its_labels_come_on_the_grid_of_the_scan(exported):
    scan, _ = phantom(0, 0, spacing_mm=6.0)
    turned = np.ascontiguousarray(scan.data.transpose(2, 0, 1)[::-1, :, ::2])
    native = Grid(turned.shape, _turned_affine(scan.grid))

    modality = exported.model.card.modalities[0]

    found = Segmenter(exported.model, Compute(threads=1))({modality: Scan(turned, native)})

    assert found.labels.grid.matches(native)
    assert found.labels.protocol == exported.model.card.protocol


def _turned_affine(grid: Grid) -> np.ndarray:
    """Of axes in the order k, i, j; k backwards, and of j every second slice."""
    to_old = np.zeros((4, 4))
    to_old[2, 0], to_old[0, 1], to_old[1, 2], to_old[3, 3] = -1, 1, 2, 1
    to_old[2, 3] = grid.shape[2] - 1
    return grid.affine @ to_old
