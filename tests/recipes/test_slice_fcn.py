import csv
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
import yaml

from fewlabel.cohort import Cohort, read_cohort, write_cohort
from fewlabel.engine import Compute
from fewlabel.errors import CohortError
from fewlabel.export import Choice, export_run
from fewlabel.io import read_scan
from fewlabel.labels import UNLABELED, load_protocol
from fewlabel.recipes import read_plan
from fewlabel.recipes.slice_fcn import Config, exports, for_mean_loss, stages
from fewlabel.segmenter import Segmenter
from fewlabel.slice_data import load_case
from fewlabel.slice_draw import turned_and_scaled
from fewlabel.slices import SliceRule
from fewlabel.train.stage import Workplace
from fewlabel.train_run import Means, train_run

TINY = {
    "recipe": "slice-fcn",
    "protocol": "tissue3",
    "backbone": "random",
    "stages": 1,
    "side_maps": 4,
    "even_stages": True,
    "steps": 120,
    "optimizer": {"kind": "adam", "learning_rate": 0.002, "weight_decay": 0, "accumulate": 1},
}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Three balls in a ball, brighter inwards, of two persons; slices are 4 mm thick."""
    folder = tmp_path_factory.mktemp("balls")
    shape, spacing = (32, 32, 8), np.array([2.0, 2.0, 4.0])
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    rows = []
    for n, split in enumerate(("train", "val")):
        off = (index - (np.array(shape) - 1) / 2) * spacing + n
        classes = np.digitize(-np.sqrt((off**2).sum(axis=-1)), (-14.0, -11.0, -8.0))
        rng = np.random.default_rng(n)
        image = classes * 100 + (classes > 0) * rng.normal(0, 8, shape)
        affine = np.diag([*spacing, 1.0])
        nibabel.save(nibabel.Nifti1Image(image.astype(np.float32), affine), folder / f"{n}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(classes.astype(np.uint8), affine), folder / f"{n}l.nii.gz")
        rows.append([f"sub-{n}", split, f"{n}l.nii.gz", f"{n}.nii.gz"])
    path = folder / "cohort.tsv"
    write(path, [["case", "split", "labels", "T1w"], *rows])
    return path


def write(path, rows):
    with path.open("w", newline="") as stream:
        csv.writer(stream, delimiter="\t").writerows(rows)


@pytest.fixture(scope="module")
def run(manifest, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY | {"cohort": str(manifest)}))
    train_run(folder / "tiny.yaml", folder / "run", means=Means(device="cpu", workers=1))
    return folder / "run"


def test_it_learns_a_toy_problem_from_one_scan(run):
    with (run / "history.csv").open() as stream:
        scores = [float(row["value"]) for row in csv.DictReader(stream) if "validation" in str(row)]

    assert max(scores) > 0.8


@pytest.mark.parametrize("bits", [16, 8])
def test_an_exported_model_segments_a_scan_as_torch_does(run, manifest, tmp_path, bits):
    done = export_run(run, tmp_path / "balls", Choice(bits=bits))
    case = read_cohort(manifest).part("val")[0]
    scan = read_scan(case.scans["T1w"])

    found = Segmenter(done.model, Compute(threads=1, precision="exact"))(scan).labels

    truth = np.asarray(nibabel.load(case.labels).dataobj)
    overlap = (
        2 * ((found.data > 0) & (truth > 0)).sum() / ((found.data > 0).sum() + (truth > 0).sum())
    )
    assert overlap > 0.9
    assert found.grid.matches(scan.grid)
    assert done.difference < 1e-3
    assert "backbone: random" in done.model.card.description
    assert done.model.card.grid == SliceRule()


def test_a_mean_loss_with_converted_rates_moves_weights_as_the_papers_sum_does():
    target = torch.tensor([1.0, 2.0, 3.0, 6.0])

    def trained(reduce, rate, decay):
        weight = torch.tensor([0.5], requires_grad=True)
        sgd = torch.optim.SGD([weight], rate, momentum=0.99, weight_decay=decay)
        for _ in range(5):
            sgd.zero_grad()
            reduce((weight - target) ** 2).backward()
            sgd.step()
        return float(weight.detach())

    summed = trained(torch.sum, 1e-3, 0.5)

    assert trained(torch.mean, *for_mean_loss(1e-3, 0.5, 4)) == pytest.approx(summed, rel=1e-5)


def test_the_defaults_are_the_papers_for_adults(tmp_path):
    config = Config(cohort=tmp_path / "c.tsv", protocol="mrbrains8")

    assert config.backbone == "imagenet"
    assert (config.stages, config.side_maps) == (4, 16)
    assert config.slices.axes == ("axial",)
    assert config.slices.spacing_mm is None
    assert config.optimizer.momentum == 0.99
    assert config.optimizer.learning_rate / (240 * 240) == pytest.approx(1e-8)
    assert config.optimizer.weight_decay * (240 * 240) == pytest.approx(0.005)
    assert config.optimizer.accumulate * config.steps == 120_000


def test_a_quarter_turn_moves_labels_with_the_image_and_leaves_no_label_beyond():
    image = torch.zeros(1, 3, 4, 4)
    image[0, :, 0, 1] = 9.0
    classes = (image[:, 0] > 0).long()
    quarter = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]])

    moved, labels = turned_and_scaled(image, classes, quarter)

    assert torch.allclose(moved[0, 0], torch.rot90(image[0, 0], 1), atol=1e-4) or torch.allclose(
        moved[0, 0], torch.rot90(image[0, 0], -1), atol=1e-4
    )
    assert torch.equal(labels[0], (moved[0, 0] > 1).long())

    _, half = turned_and_scaled(image, classes, torch.tensor([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]]))
    assert (half[0, [0, 3]] == UNLABELED).all()


def test_labels_follow_the_scan_to_finer_pixels(manifest):
    case = read_cohort(manifest).cases[0]
    rule = SliceRule(spacing_mm=1.0)

    fine = load_case(case, rule, read_protocol())
    plain = load_case(case, SliceRule(), read_protocol())

    assert fine.classes.shape == fine.volumes["T1w"].shape
    assert (fine.classes > 0).sum() == pytest.approx(4 * (plain.classes > 0).sum(), rel=0.1)


def read_protocol():
    return load_protocol("tissue3")


def test_batches_are_functions_of_their_number(manifest, tmp_path):
    config = Config(cohort=manifest, **{k: v for k, v in TINY.items() if k != "recipe"})
    (stage,) = stages(config, 3, Workplace(tmp_path, tmp_path))
    draw = stage.turns[0].draw

    assert torch.equal(draw(5)["matrix"], draw(5)["matrix"])
    assert not torch.equal(draw(5)["matrix"], draw(6)["matrix"])
    assert exports(config, stage.networks).grid == SliceRule()


def test_a_protocol_of_ones_own_is_exported_by_its_name(manifest, tmp_path):
    (tmp_path / "mine.tsv").write_text("index\tname\n1\tCSF\n2\tGM\n3\tWM\n")
    settings = {k: v for k, v in TINY.items() if k not in ("recipe", "protocol")}
    config = Config(cohort=manifest, protocol=str(tmp_path / "mine.tsv"), **settings)

    export = exports(config, {"net": torch.nn.Identity()})

    assert list(export.heads) == ["mine"]
    assert export.description.startswith("mine by slices")


def test_cases_that_cannot_teach_the_protocol_are_refused(manifest):
    case = read_cohort(manifest).cases[0]

    with pytest.raises(CohortError, match="sub-0 has no FLAIR"):
        load_case(case, SliceRule(channels=("FLAIR-1", "FLAIR", "FLAIR+1")), read_protocol())
    with pytest.raises(CohortError, match="do not tell all of mrbrains8 apart: basal ganglia"):
        load_case(replace(case, protocol="tissue3"), SliceRule(), load_protocol("mrbrains8"))
    with pytest.raises(CohortError, match="sub-0 has no labels"):
        load_case(replace(case, labels=None), SliceRule(), read_protocol())


def test_all_cases_that_cannot_be_used_are_named_at_once(manifest, tmp_path):
    cases = read_cohort(manifest).cases
    unlabeled = (replace(case, labels=None, split="train") for case in cases)
    write_cohort(Cohort(tuple(unlabeled)), tmp_path / "cohort.tsv")
    settings = {k: v for k, v in TINY.items() if k != "recipe"}
    config = Config(cohort=tmp_path / "cohort.tsv", **settings)

    with pytest.raises(CohortError) as refusal:
        next(stages(config, 0, Workplace(tmp_path, tmp_path)))

    assert "has 2 problems" in refusal.value.what


def test_a_training_case_that_is_not_in_the_manifest_is_named(manifest, tmp_path):
    settings = {k: v for k, v in TINY.items() if k != "recipe"}
    config = Config(cohort=manifest, cases=("sub-9",), **settings)

    with pytest.raises(CohortError, match="has no training case sub-9"):
        next(stages(config, 0, Workplace(tmp_path, tmp_path)))


@pytest.mark.parametrize(
    "path",
    sorted((Path(__file__).parents[2] / "configs").glob("xu2017_*.yaml")),
    ids=lambda p: p.stem,
)
def test_every_settings_file_of_the_paper_is_understood(path):
    plan = read_plan(path)

    assert plan.header.recipe == "slice-fcn"
