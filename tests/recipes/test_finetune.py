"""Fine-tuning: sources, people, what moves and what stays."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from fewlabel.cohort import Cohort, write_cohort
from fewlabel.datasets import index_folder
from fewlabel.datasets.phantom import PhantomConfig, write_phantoms
from fewlabel.errors import CohortError, ConfigError
from fewlabel.export import Choice, export_run
from fewlabel.model import find_model
from fewlabel.model_weights import weights_of
from fewlabel.nets.mirror import Mirrored
from fewlabel.nets.unet import UNet
from fewlabel.recipes import find_recipe, finetune, read_plan
from fewlabel.slices import SliceRule
from fewlabel.source import read_source
from fewlabel.strategies import counts
from fewlabel.surgery import shape_of
from fewlabel.train.checkpoint import load_weights, save_weights
from fewlabel.train.stage import Workplace
from fewlabel.train_run import Means, train_run

SOURCE = {
    "recipe": "supervised",
    "protocols": ["phantom8"],
    "working": {"spacing_mm": 8.0},
    "patches": {"size": [16, 16, 16]},
}
SETTINGS = {
    "recipe": "finetune",
    "patches": {"size": [16, 16, 16], "batch": 1},
    "augment": {"margin_voxels": 2},
    "steps": 2,
    "optimizer": {"kind": "adamw", "learning_rate": 0.02},
}


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> Cohort:
    """Four people: two to learn from, one to validate on, one to test."""
    config = PhantomConfig(cases=4, spacing_mm=5.0, validation=1, test=1)
    return index_folder(write_phantoms(tmp_path_factory.mktemp("data") / "all", config)).cohort


@pytest.fixture
def source(tmp_path) -> Path:
    """A run whose people nobody knows."""
    return source_run(tmp_path / "source")


@pytest.fixture
def target(people, tmp_path) -> Path:
    write_cohort(people, tmp_path / "target.tsv")
    return tmp_path / "target.tsv"


NOBODY = Cohort(())


def source_run(run: Path, cohort=NOBODY, shape=None, **settings) -> Path:
    """What a run leaves behind."""
    told = SOURCE | settings
    torch.manual_seed(5)
    heads = dict.fromkeys(told["protocols"], 9)
    net = UNet(heads, **({"channels": (4, 8, 8), "depths": 2} | (shape or {})))
    save_weights(run / "train" / "final.safetensors", {"net": net.state_dict()})
    (run / "settings.yaml").write_text(yaml.safe_dump(told))
    if cohort.cases:
        write_cohort(cohort, run / "cohort.tsv")
    return run


def settings_of(tmp_path, source, target, **changes) -> Path:
    path = tmp_path / "finetune.yaml"
    told = {"source": str(source), "data": {"cohort": str(target)}}
    path.write_text(yaml.safe_dump(SETTINGS | told | changes))
    return path


def stage_of(tmp_path, source, target, told=lambda _: None, **changes):
    plan = read_plan(settings_of(tmp_path, source, target, **changes))
    work = Workplace(tmp_path / "run", tmp_path.parent / "finetune-cache", tell=told)
    return next(plan.recipe.stages(plan.config, 0, work))


def trained(tmp_path, source, target, **changes) -> Path:
    path, means = settings_of(tmp_path, source, target, **changes), Means("cpu", workers=1)
    train_run(
        path, tmp_path / "run", means=replace(means, cache=tmp_path.parent / "finetune-cache")
    )
    return tmp_path / "run"


def final(run: Path, stage: str):
    return load_weights(run / stage / "final.safetensors")["net"]


def test_the_recipe_is_known_by_its_name():
    assert find_recipe("finetune") is finetune


def test_the_shipped_settings_are_understood():
    configs = Path(__file__).parents[2] / "configs"

    adult = read_plan(configs / "finetune_adult.yaml").config
    config = read_plan(configs / "richter2022_finetune.yaml").config

    assert adult.windows is None, "as in the source: whole fields"

    assert config.optimizer.learning_rate == 1e-3


def test_frozen_parts_stay_bit_equal_and_the_others_move(source, target, tmp_path):
    run = trained(tmp_path, source, target, strategy="inner-1")

    before, after = final(source, "train"), final(run, "finetune")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    table = (run / "trained_weights.tsv").read_text().splitlines()[1:]
    listed = {line.split("\t")[0] for line in table}
    assert moved == listed
    assert len(listed) == 6 + 6 + 7 + 2, "middle level, bottleneck, first up-block, deep output"


def test_frozen_is_the_source_as_it_is_in_every_bit(source, target, tmp_path):
    run = trained(tmp_path, source, target, strategy="no fine-tuning")

    before, after = final(source, "train"), final(run, "finetune")
    assert all(torch.equal(before[name], after[name]) for name in before | after)
    assert counts(run) == (0, 0)
    history = (run / "history.csv").read_text()
    assert "finetune,0,validation score," in history
    assert "total" not in history


def test_scratch_has_the_shape_of_the_source_and_none_of_its_weights(source, target, tmp_path):
    said = []
    net = stage_of(tmp_path, source, target, said.append, strategy="scratch").networks["net"]

    before = final(source, "train")
    assert {k: v.shape for k, v in net.state_dict().items()} == {
        k: v.shape for k, v in before.items()
    }
    key = "encoder.levels.1.conv1.conv.weight"
    assert not torch.equal(net.state_dict()[key], before[key])
    assert "\tTrue" in (tmp_path / "run" / "trained_weights.tsv").read_text().splitlines()[1]
    assert "is not known" not in said[0], "it has learned from nobody"


def test_a_model_folder_is_a_source_as_good_as_its_run(people, target, tmp_path):
    strangers = tuple(
        replace(c, person=f"x{c.person}", family=f"x{c.family}") for c in people.cases
    )
    run = source_run(tmp_path / "source", Cohort(strangers), data={"cohort": "gone.tsv"})
    ready = trained(tmp_path, run, target, strategy="full")
    export_run(ready, tmp_path / "model", Choice(with_weights=True))

    from_model, from_run = read_source(tmp_path / "model"), read_source(ready)

    assert from_model.shape == from_run.shape
    assert from_model.shape["depths"] == 2, "outputs of deep supervision are in the folder"
    assert from_model.working == from_run.working
    assert from_model.grid == from_run.grid
    assert from_model.sees == from_run.sees
    for key, value in from_run.weights.items():
        torch.testing.assert_close(from_model.weights[key], value, rtol=1e-3, atol=1e-6)
    assert from_model.people is None
    known = {case.person for case in from_run.people.part("train")}
    assert known == {c.person for c in (*people.part("train"), *Cohort(strangers).part("train"))}


def test_a_model_that_ships_is_a_source_as_it_is(target, tmp_path):
    patches = {"size": [32, 32, 32], "batch": 1}

    net = stage_of(tmp_path, "adult-aseg32", target, patches=patches, protocols=["aseg32"],
                   allow_empty_classes=True).networks["net"]  # fmt: skip

    card = find_model("adult-aseg32").card
    bias = weights_of(find_model("adult-aseg32"))["decoders.aseg32.outs.0.conv.conv.bias"]
    assert torch.equal(
        net.state_dict()["decoders.aseg32.outs.0.conv.conv.bias"],
        bias + torch.from_numpy(card.class_offsets),
    ), "it first says what the model says, offsets included"


@pytest.mark.parametrize(("mirror", "kept"), [(None, True), (False, False)])
def test_a_model_that_is_averaged_with_its_mirror_image_stays_so(target, tmp_path, mirror, kept):
    told = {"patches": {"size": [32, 32, 32]}, "allow_empty_classes": True, "mirror": mirror}
    net = stage_of(tmp_path, "adult-aseg32", target, **told).networks["net"]
    plan = read_plan(settings_of(tmp_path, "adult-aseg32", target, **told))

    export = plan.recipe.exports(plan.config, {"net": net})

    assert isinstance(export.network, Mirrored) == kept


def test_weights_for_torch_are_refused_of_networks_with_a_mirror_image(source, target, tmp_path):
    run = trained(tmp_path, source, target, mirror=True)

    with pytest.raises(ConfigError, match="of plain U-Nets only"):
        export_run(run, tmp_path / "model", Choice(with_weights=True))

    export_run(run, tmp_path / "model")
    assert read_source(tmp_path / "model").mirrored


def test_a_network_that_tells_an_age_may_have_a_mirror_image(target, tmp_path):
    old = seen_in_fields(tmp_path, shape={"channels": (4, 8), "age": True})
    net = stage_of(tmp_path, old, target, mirror=True).networks["net"]
    plan = read_plan(settings_of(tmp_path, old, target, mirror=True))

    export = plan.recipe.exports(plan.config, {"net": net})

    assert isinstance(export.network, Mirrored)
    assert export.ages_weeks == net.age.range_weeks


def test_a_model_of_slices_is_refused(target, tmp_path, monkeypatch):
    model = find_model("adult-aseg32")
    slices = replace(model, card=model.card.model_copy(update={"grid": SliceRule()}))
    monkeypatch.setattr("fewlabel.source.find_model", lambda _: slices)

    with pytest.raises(ConfigError, match="looks at slices"):
        stage_of(tmp_path, "adult-aseg32", target)


def test_a_folder_that_is_neither_is_refused(target, tmp_path):
    (tmp_path / "empty").mkdir()

    with pytest.raises(ConfigError, match="is neither a run nor a model"):
        stage_of(tmp_path, tmp_path / "empty", target)


def test_a_run_that_has_not_ended_is_refused(source, target, tmp_path):
    (source / "train" / "final.safetensors").unlink()

    with pytest.raises(ConfigError, match="has no final weights to start from"):
        stage_of(tmp_path, source, target)


def test_the_last_stage_of_a_run_is_the_source(source):
    later = UNet({"phantom8": 9}, channels=(2, 2))
    save_weights(source / "joint" / "final.safetensors", {"net": later.state_dict()})
    rows = "stage,step,quantity,value\ntrain,1,total,1\njoint,1,total,1\n"
    (source / "history.csv").write_text(rows)

    assert read_source(source).shape["channels"] == [2, 2]
    assert "stage joint" in read_source(source).name


def test_runs_of_other_recipes_are_sources_too(tmp_path):
    def read(name, heads, more=None, **settings):
        plan = find_recipe(name).Config.model_validate(settings)
        run, told = tmp_path / name, {"recipe": name} | plan.model_dump(mode="json")
        net = UNet(heads, **({"channels": (2, 3, 4)} | (more or {})))
        save_weights(run / "last" / "final.safetensors", {"net": net.state_dict()})
        (run / "settings.yaml").write_text(yaml.safe_dump(told))
        return read_source(run)

    made_up = read("synthetic", {"aseg32": 33}, label_maps="maps")
    joint = read("mo-net", {"malc25": 26, "fsl15": 16}, start="scratch", data={"cohort": "x.tsv"},
                 protocols=["malc25"])  # fmt: skip
    both = {"in_channels": 2, "residual": True, "depths": 2, "age": True}
    neonates = read("neonatal", {"drawem9": 10}, both, data={"cohort": "x.tsv"}, windows=False)

    assert (made_up.grid.spacing_mm, made_up.grid.window) == (2.0, None)
    assert list(made_up.sees.heads) == ["aseg32"]
    assert (joint.working.intensity, list(joint.sees.heads)) == ("z_score", ["malc25", "fsl15"])
    assert (neonates.sees.modalities, neonates.working.any_modality) == (("T1w", "T2w"), True)
    assert neonates.grid.field_mm == (128.0, 160.0, 128.0)
    assert neonates.grid.window is None
    assert neonates.shape == both | {
        "channels": [2, 3, 4], "fine": 0, "fine_norm": True, "first": 3,
    }  # fmt: skip


def test_people_whom_the_source_has_learned_from_are_refused_in_the_test_set(
    people, target, tmp_path
):
    cases = tuple(replace(case, split="train") for case in people.part("test"))

    with pytest.raises(CohortError, match=r"is in pre-training .* and test"):
        stage_of(tmp_path, source_run(tmp_path / "source", Cohort(cases)), target)


def test_people_are_known_where_their_images_are_gone(people, target, tmp_path):
    cases = tuple(
        replace(case, split="train", scans={"T1w": tmp_path / "gone.nii.gz"})
        for case in people.part("test")
    )

    with pytest.raises(CohortError, match="is in pre-training"):
        stage_of(tmp_path, source_run(tmp_path / "source", Cohort(cases)), target)


def test_families_count_as_people_do(people, target, tmp_path):
    (tested,), (first, *_) = people.part("test"), people.part("train")
    twin = replace(first, person="twin", family=tested.family)

    with pytest.raises(CohortError, match="Family"):
        stage_of(tmp_path, source_run(tmp_path / "source", Cohort((twin,))), target)


def test_people_that_the_sources_own_source_knows_count_too(people, target, tmp_path):
    cases = tuple(replace(case, split="train") for case in people.part("val"))
    coarse = source_run(tmp_path / "coarse", Cohort(cases))
    strangers = tuple(replace(c, person="x", family="x") for c in people.part("train"))
    fine = source_run(tmp_path / "source", Cohort(strangers), start=str(coarse))

    with pytest.raises(CohortError, match=r"is in pre-training .* and val"):
        stage_of(tmp_path, fine, target)


def test_training_twice_on_somebody_is_told(people, target, tmp_path):
    said = []

    stage_of(tmp_path, source_run(tmp_path / "source", Cohort(people.part("train"))), target,
             said.append)  # fmt: skip

    assert "is in the source" in said[0]
    assert "and train" in said[0]


def test_a_source_whose_people_are_unknown_is_told(source, target, tmp_path):
    said = []

    stage_of(tmp_path, source, target, said.append)

    assert said[0].startswith("full from the run ")
    assert "36 of 36 weights move" in said[0]
    assert "has learned from is not known here" in said[0]


def test_other_voxels_are_told_and_other_intensities_refused(source, target, tmp_path):
    said = []
    stage_of(tmp_path, source, target, said.append, working={"spacing_mm": 6.0})

    assert "Voxels are 6 mm here and 8 mm in the source" in said[0]
    with pytest.raises(ConfigError, match=r"is z_score, and .* scaled by robust_scale"):
        stage_of(tmp_path, source, target, working={"intensity": "z_score"}, augment={"chance": 0})


def test_intensities_are_scaled_as_in_the_source(target, tmp_path):
    z_scored = source_run(
        tmp_path / "source", working={"spacing_mm": 8.0, "intensity": "z_score"}, space="mni-rigid"
    )

    assert read_source(z_scored).space == "mni-rigid"
    with pytest.raises(ConfigError, match="are made for intensities from 0 to 1"):
        stage_of(tmp_path, z_scored, target)


def seen_in_fields(tmp_path, **settings) -> Path:
    """A run of the recipe neonatal whose network has seen whole fields."""
    shape = {"fine": 3, "fine_norm": False, "channels": (4, 8), "depths": 1}
    told = {"recipe": "neonatal", "windows": False, "field_mm": [160.0, 128.0, 160.0]}
    return source_run(tmp_path / "source", **({"shape": shape} | told | settings))


def test_a_network_that_has_seen_whole_fields_goes_on_seeing_them(target, tmp_path):
    run = trained(tmp_path, seen_in_fields(tmp_path), target)

    stage = stage_of(tmp_path, tmp_path / "source", target)
    batch = stage.turns[0].draw(0)
    model = export_run(run, tmp_path / "model").model

    assert batch["image"].shape == (1, 1, 20, 16, 20)
    assert batch["window"].shape == (1, 3, 2)
    assert model.card.grid.window is None
    assert model.card.grid.field == (20, 16, 20)
    assert read_source(run).grid == model.card.grid


def test_whole_fields_can_be_had_or_refused(source, target, tmp_path):
    fields = seen_in_fields(tmp_path / "other")

    patches = stage_of(tmp_path, fields, target, windows=True).turns[0].draw(0)
    whole = stage_of(tmp_path, source, target, windows=False).turns[0].draw(0)

    assert patches["image"].shape == (1, 1, 16, 16, 16)
    assert whole["image"].shape == (1, 1, 24, 28, 24)


def test_patches_larger_than_the_field_are_refused(target, tmp_path):
    fields = seen_in_fields(tmp_path)

    with pytest.raises(ConfigError, match=r"are larger than the source's field of \(20, 16, 20\)"):
        stage_of(tmp_path, fields, target, patches={"size": [24, 16, 16]})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"patches": {"size": [16, 16, 18]}}, "must be divisible by 4"),
        ({"depths": 3}, "must be less than the 3 levels of the source"),
    ],
)
def test_settings_that_do_not_fit_the_source_are_refused(source, target, tmp_path, changes, words):
    with pytest.raises(ConfigError, match=words):
        stage_of(tmp_path, source, target, **changes)


def test_new_structures_train_whatever_the_strategy(source, target, tmp_path):
    own = tmp_path / "own.tsv"
    own.write_text("index\tname\n1\tVentricle\n2\tBrain-Stem\n3\tSkull\n")
    wanted = {"protocols": [str(own)], "strategy": "inner-1", "allow_empty_classes": True}

    (turn,) = stage_of(tmp_path, source, target, **wanted).turns

    assert "net.decoders.own.outs.0.conv.conv.weight" in turn.trains
    assert "net.decoders.own.ups.0" in turn.trains


def test_frozen_keeps_the_heads_of_the_source(source, target, tmp_path):
    own = tmp_path / "own.tsv"
    own.write_text("index\tname\n1\tVentricle\n2\tBrain-Stem\n")

    stage = stage_of(tmp_path, source, target, protocols=[str(own)], strategy="frozen")

    assert list(stage.networks["net"].decoders) == ["phantom8"]
    assert stage.turns == ()


def test_an_age_head_goes_on_and_expects_the_new_ages_too(people, tmp_path):
    aged = tuple(replace(case, age_weeks=24.0) for case in people.cases)
    write_cohort(Cohort(aged), tmp_path / "target.tsv")
    telling = source_run(tmp_path / "source", shape={"age": True})

    full, frozen = (
        stage_of(tmp_path, telling, tmp_path / "target.tsv", strategy=strategy)
        for strategy in ("full", "frozen")
    )

    assert full.networks["net"].age.range_weeks == (24.0, 45.0)
    assert frozen.networks["net"].age.range_weeks == (26.0, 45.0), "it has learned no others"


def test_the_export_has_what_prediction_needs(source, target, tmp_path):
    plan = read_plan(settings_of(tmp_path, source, target, strategy="inner-2"))
    told = (source / "settings.yaml").read_text()
    (source / "settings.yaml").write_text(told + "field_mm: [160, 128, 160]\n")
    stage = next(
        plan.recipe.stages(plan.config, 0, Workplace(tmp_path, tmp_path.parent / "finetune-cache"))
    )

    export = finetune.exports(plan.config, stage.networks)

    assert list(export.heads) == ["phantom8"]
    assert export.grid.spacing_mm == 8.0
    assert export.grid.multiple == 4
    assert export.grid.field_mm == (160.0, 128.0, 160.0), "as in the source"
    assert export.grid.window == (16, 16, 16)
    assert export.modalities == ("T1w",)
    assert "inner-2 from the run" in export.description
    state = export.network.state_dict()
    UNet({"phantom8": 9}, **shape_of(state)).load_state_dict(state)
