"""The neonatal recipe, on phantoms of 5 mm voxels that are given a T2w scan and an age."""

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from fewlabel.cohort import Cohort, write_cohort
from fewlabel.datasets import index_folder
from fewlabel.datasets.phantom import PhantomConfig, write_phantoms
from fewlabel.errors import CohortError, ConfigError
from fewlabel.nets.mirror import Mirrored
from fewlabel.recipes import neonatal, read_plan
from fewlabel.surgery import shape_of
from fewlabel.train.loop import train
from fewlabel.train.run import Run
from fewlabel.train.stage import Workplace

CONFIGS = Path(__file__).parents[2] / "configs"


def with_t2w(case, folder):
    """The same case with an inverted image beside its T1w."""
    t1w = nibabel.load(case.scans["T1w"])
    inverted = (np.asarray(t1w.dataobj).max() - np.asarray(t1w.dataobj)).astype(np.int16)
    path = folder / f"{case.id}_T2w.nii"
    nibabel.save(nibabel.Nifti1Image(inverted, t1w.affine), path)
    return replace(case, scans={**case.scans, "T2w": path})


def in_every_third_slice(case, folder):
    image = nibabel.load(case.labels)
    drawn = np.full(image.shape, -1, np.int16)
    drawn[:, ::3] = np.asarray(image.dataobj)[:, ::3]
    path = folder / f"{case.id}_some_dseg.nii"
    nibabel.save(nibabel.Nifti1Image(drawn, image.affine), path)
    return replace(case, labels=path)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Three people to learn from, 30, 31 and 32 weeks old, and one of 33 to validate on."""
    folder = tmp_path_factory.mktemp("data")
    config = PhantomConfig(cases=4, spacing_mm=5.0, validation=1, test=0)
    found = index_folder(write_phantoms(folder, config)).cohort.cases
    found = sorted((with_t2w(case, folder) for case in found), key=lambda case: case.split)
    return [replace(case, age_weeks=30.0 + n) for n, case in enumerate(found)]


@pytest.fixture
def config_of(cases, tmp_path):
    def of(changed=None, **changes):
        write_cohort(Cohort(tuple(changed or cases)), tmp_path / "cohort.tsv")
        usual = {
            "data": {"cohort": tmp_path / "cohort.tsv"},
            "protocols": ["phantom8"],
            "working": {"spacing_mm": 5.0},
            "patches": {"size": [32, 32, 32], "batch": 2},
            "augment": {"margin_voxels": 2},
            "channels": [4, 8, 8],
            "depths": 2,
            "steps": 2,
            "validate_every": 2,
        }
        return neonatal.Config.model_validate(usual | changes)

    return of


def stage_of(config, folder):
    return next(neonatal.stages(config, 0, Workplace(folder / "run", folder / "cache")))


def test_defaults_are_those_of_the_paper():
    config = neonatal.Config.model_validate({"data": {"cohort": "a.tsv"}})

    assert config.working.modalities == ("T1w", "T2w")
    assert config.channels == (32, 64, 128, 256, 320)
    assert config.residual
    assert (config.optimizer.kind, config.optimizer.momentum) == ("sgd", 0.99)
    assert (config.optimizer.learning_rate, config.optimizer.weight_decay) == (1e-2, 3e-5)
    assert (config.objective.age_weight, config.objective.coarse) == (0.01, "labels")


def test_the_network_begins_in_the_middle_of_the_training_ages(config_of, tmp_path):
    net = stage_of(config_of(), tmp_path).networks["net"]

    assert net.age.range_weeks == (30.0, 32.0)
    assert net(torch.rand(1, 2, 16, 16, 16))["age_weeks"].item() == pytest.approx(31, abs=1)


def test_age_is_told_if_it_is_known_or_not_at_all(config_of, cases, tmp_path):
    ageless = [replace(case, age_weeks=None) for case in cases]

    assert stage_of(config_of(ageless), tmp_path).networks["net"].age is None
    assert stage_of(config_of(age=False), tmp_path).networks["net"].age is None
    with pytest.raises(CohortError, match="none of 3 training cases has one"):
        stage_of(config_of(ageless, age=True), tmp_path)


def test_it_learns_ages_and_structures_of_sessions_that_lack_a_modality(config_of, cases, tmp_path):
    mixed = [replace(cases[0], scans={"T2w": cases[0].scans["T2w"]}), *cases[1:]]
    mixed[1] = replace(mixed[1], age_weeks=None)
    stage = stage_of(config_of(mixed), tmp_path)

    train([stage], Run(tmp_path / "run"))

    scores = stage.validate(stage.networks)
    assert set(scores) == {"score", "age error weeks"}
    assert 0 <= scores["age error weeks"] < 20
    rows = (tmp_path / "run" / "history.csv").read_text()
    assert "validation age error weeks" in rows
    assert "squared age error" in rows


@pytest.mark.parametrize("coarse", ["labels", "logits"])
def test_hidden_slices_give_no_gradient_at_any_depth(config_of, cases, tmp_path, coarse):
    some = [in_every_third_slice(case, tmp_path) for case in cases]
    strong = {"move": 1, "flip": 1, "flip_others": 1, "elastic_voxels": 3, "margin_voxels": 2}
    # as many slices are shown as were drawn: voxels keep their size
    config = config_of(some, augment=strong, objective={"coarse": coarse}, age=False)
    stage = stage_of(config, tmp_path)
    net, (turn,) = stage.networks["net"], stage.turns
    gradients = []
    for out in net.decoders["phantom8"].outs:
        out.register_full_backward_hook(lambda _, __, found: gradients.append(found[0]))

    batch = turn.draw(0)
    turn.loss(stage.networks, batch)["total"].backward()

    classes = batch["classes/phantom8"]
    assert len(gradients) == 2
    for gradient in gradients:
        n = classes.shape[1] // gradient.shape[2]
        hidden = classes[:, ::n, ::n, ::n] == -1
        if coarse == "logits":
            covered = classes.unfold(1, n, n).unfold(2, n, n).unfold(3, n, n)
            hidden = (covered == -1).flatten(4).all(4)
        shown = gradient.movedim(1, -1)
        assert hidden.any()
        assert (shown[hidden] == 0).all()
        assert (shown[~hidden] != 0).any()


def test_it_exports_what_use_needs(config_of, tmp_path):
    config = config_of(patches={"size": [16, 20, 16], "batch": 1}, windows=True)
    stage = stage_of(config, tmp_path)

    export = neonatal.exports(config, stage.networks)

    assert export.modalities == ("T1w", "T2w")
    assert export.any_modality
    assert export.ages_weeks == (30.0, 32.0)
    assert export.channels == 2
    assert export.grid.seen == (16, 20, 16)
    assert export.grid.field == (28, 32, 28), "128 x 160 x 128 mm at least"
    state = export.network.state_dict()
    neonatal.UNet({"phantom8": 9}, **shape_of(state)).load_state_dict(state)
    mirrored = config.model_copy(update={"mirror": True})
    assert isinstance(neonatal.exports(mirrored, stage.networks).network, Mirrored)
    whole = config.model_copy(update={"windows": False, "age": False})
    assert neonatal.exports(whole, stage.networks).grid.window is None
    assert neonatal.exports(whole, stage_of(whole, tmp_path).networks).ages_weeks is None


def test_a_run_goes_on_from_one_on_larger_voxels_and_expects_its_own_ages(
    config_of, cases, tmp_path
):
    coarse = tmp_path / "coarse"
    trained = train([stage_of(config_of(), tmp_path)], Run(folder=coarse, seed=0))["net"]
    older = [replace(case, age_weeks=case.age_weeks + 2) for case in cases]

    net = stage_of(config_of(older, start=coarse), tmp_path).networks["net"]

    assert net.age.range_weeks == (32.0, 34.0)
    for key, weight in trained.named_parameters():
        assert torch.equal(weight, net.state_dict()[key])
    with pytest.raises(ConfigError, match="has another shape"):
        stage_of(config_of(start=coarse, age=False), tmp_path)


def test_a_layer_at_twice_the_resolution_is_added_to_a_finished_run(config_of, tmp_path):
    coarse = tmp_path / "coarse"
    trained = train([stage_of(config_of(), tmp_path)], Run(folder=coarse, seed=0))["net"]
    finer = {"fine": 4, "fine_norm": False, "windows": False, "field_mm": [140.0, 150.0, 130.0]}
    config = config_of(start=coarse, patches={"size": [16, 16, 16], "batch": 1}, **finer)

    stage = stage_of(config, tmp_path)

    net, (turn,) = stage.networks["net"], stage.turns
    assert torch.equal(net.age.out.weight, trained.age.out.weight)
    batch = turn.draw(0)
    assert batch["image"].shape == (1, 2, 32, 32, 32), "the field, in multiples of 8"
    assert (batch["window"][0, :, 1] - batch["window"][0, :, 0]).tolist() == [16, 16, 16]
    assert turn.loss(stage.networks, batch)["total"].isfinite()
    assert 0 <= stage.validate(stage.networks)["score"] <= 1
    export = neonatal.exports(config, stage.networks)
    assert (export.grid.seen, export.grid.window) == ((32, 32, 32), None)


def test_people_that_the_first_run_has_seen_are_not_scored(config_of, cases, tmp_path):
    coarse = tmp_path / "coarse"
    train([stage_of(config_of(), tmp_path)], Run(folder=coarse, seed=0))
    write_cohort(Cohort(tuple(cases)), coarse / "cohort.tsv")
    turned = [replace(case, split="train" if case.split == "val" else "val") for case in cases]

    with pytest.raises(CohortError, match="is in pre-training"):
        stage_of(config_of(turned, start=coarse), tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"patches": {"size": [16, 16, 18]}}, "must be divisible by 4"),
        ({"fine_norm": False}, "needs `fine`"),
        ({"depths": 3}, "`depths` must be less than the 3 levels"),
        (
            {
                "working": {"intensity": "z_score", "any_modality": False},
                "augment": {"synthetic": 0.5},
            },
            "`augment.synthetic` needs",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(config_of, change, words):
    with pytest.raises(ValueError, match=words):
        config_of(**change)


@pytest.mark.parametrize("name", ["richter2022_neonatal", "neonatal_templates_2mm"])
def test_shipped_settings_are_understood(name):
    plan = read_plan(CONFIGS / f"{name}.yaml")

    assert plan.header.recipe == "neonatal"
    assert plan.config.working.any_modality == (plan.config.augment.drop_modality > 0)
