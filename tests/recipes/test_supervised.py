"""The supervised recipe, on brains of 5 mm voxels."""

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from fewlabel.cohort import Cohort, read_cohort, write_cohort
from fewlabel.datasets import index_folder
from fewlabel.datasets.choice import DataConfig
from fewlabel.datasets.phantom import PhantomConfig, write_phantoms
from fewlabel.errors import CohortError, ConfigError
from fewlabel.export import plan_of
from fewlabel.io import read_labels, write_labels
from fewlabel.labels import load_protocol
from fewlabel.recipes import find_recipe, read_plan, supervised
from fewlabel.surgery import shape_of
from fewlabel.train.loop import train
from fewlabel.train.run import Run
from fewlabel.train.stage import Workplace
from fewlabel.train_run import Means, train_run
from fewlabel.volume import LabelMap

PHANTOM = load_protocol("phantom8")
SETTINGS = """
recipe: supervised
data: {{cohort: {cohort}}}
protocols: [{protocols}]
working: {{spacing_mm: 5.0}}
patches: {{size: [16, 16, 16], batch: 2}}
augment: {{margin_voxels: 2, elastic_voxels: 0.5}}
channels: [8, 16, 16]
steps: {steps}
optimizer: {{kind: adamw, learning_rate: 1.0e-2}}
"""


@pytest.fixture
def cohort(tmp_path):
    """Eight people: two for validation, none for tests."""
    config = PhantomConfig(cases=8, spacing_mm=5.0, validation=2, test=0)
    folder = write_phantoms(tmp_path / "data", config)
    found = index_folder(folder).cohort
    write_cohort(found, tmp_path / "cohort.tsv")
    return found


@pytest.fixture
def plan(tmp_path):
    def of(steps=3, protocols="phantom8", changes=()):
        path = tmp_path / "settings.yaml"
        text = SETTINGS.format(cohort=tmp_path / "cohort.tsv", steps=steps, protocols=protocols)
        path.write_text(text)
        return read_plan(path, changes)

    return of


def stage_of(plan, tmp_path):
    work = Workplace(tmp_path / "run", tmp_path / "cache")
    return next(supervised.stages(plan.config, plan.header.seed, work))


def loss_of_batch(stage, n=0):
    (turn,) = stage.turns
    return turn.loss(stage.networks, turn.draw(n))


def relabel(case, draw, folder: Path, protocol=PHANTOM):
    """The same case with an altered label map."""
    labels = read_labels(case.labels, PHANTOM)
    path = folder / f"{case.id}_altered_dseg.nii.gz"
    write_labels(LabelMap(draw(labels.data.copy()), labels.grid, protocol), path)
    return replace(case, labels=path)


@pytest.mark.usefixtures("cohort")
def test_it_learns_brains_that_it_has_not_seen(plan, tmp_path):
    stage = stage_of(plan(steps=60), tmp_path)
    before = stage.validate(stage.networks)["score"]

    train([stage], Run(tmp_path / "run"))

    after = stage.validate(stage.networks)["score"]
    assert after > before + 0.1
    table = (tmp_path / "run" / "validation.csv").read_text().splitlines()
    assert table[0] == "case,head,structure,dice"
    assert len(table) > 10


@pytest.mark.usefixtures("cohort")
def test_the_same_seed_gives_the_same_network_and_batches(plan, tmp_path):
    first, second = (stage_of(plan(), tmp_path) for _ in range(2))

    for one, other in zip(
        first.networks["net"].parameters(), second.networks["net"].parameters(), strict=True
    ):
        assert torch.equal(one, other)
    assert torch.equal(first.turns[0].draw(3)["image"], second.turns[0].draw(3)["image"])


def incomplete(cohort, folder):
    """A case of each of the six kinds of incompleteness, one whole case, and validation."""

    def in_tissues(classes):
        tissue = np.array([0, 2, 2, 3, 3, 2, 2, 1, 0, -1], dtype=np.int16)
        return tissue[classes]

    def some_slices(classes):
        drawn = np.full_like(classes, -1)
        drawn[:, :, ::5] = classes[:, :, ::5]
        return drawn

    def scribbles(classes):
        drawn = np.full_like(classes, -1)
        chosen = np.random.default_rng(0).random(classes.shape) < 0.02
        drawn[chosen] = classes[chosen]
        return drawn

    tissues = folder / "tissues.tsv"
    tissues.write_text("index\tname\n1\tVentricle\n2\tgray\n3\twhite\n")
    merged = load_protocol(tissues)
    train_cases = list(cohort.part("train"))
    kinds = [
        train_cases[0],  # whole
        replace(relabel(train_cases[1], in_tissues, folder, merged), protocol=str(tissues)),
        replace(train_cases[2], looked_for=("Left-Cortex", "Right-Cortex")),
        relabel(train_cases[3], some_slices, folder),
        relabel(train_cases[4], scribbles, folder),
        replace(train_cases[5], labels=None, protocol=""),
    ]
    return Cohort((*kinds, *cohort.part("val")))


def test_all_kinds_of_incomplete_labels_train_in_one_run(cohort, plan, tmp_path):
    write_cohort(incomplete(cohort, tmp_path), tmp_path / "cohort.tsv")
    stage = stage_of(plan(steps=6), tmp_path)

    losses = [loss_of_batch(stage, n)["total"] for n in range(6)]
    train([stage], Run(tmp_path / "run"))

    assert torch.stack(losses).isfinite().all()
    weights = torch.cat([w.flatten() for w in stage.networks["net"].parameters()])
    assert weights.isfinite().all()


@pytest.mark.usefixtures("cohort")
def test_several_heads_learn_from_the_labels_that_speak_of_them(plan, tmp_path):
    own = tmp_path / "own.tsv"
    own.write_text("index\tname\n1\tVentricle\n2\tBrain-Stem\n")
    stage = stage_of(plan(protocols=f"phantom8, {own}"), tmp_path)

    batch = stage.turns[0].draw(0)
    losses = loss_of_batch(stage)
    losses["total"].backward()

    assert set(stage.networks["net"].decoders) == {"phantom8", "own"}
    assert batch["merge/own"].tolist() == [[0, 1, 2]] * 2
    assert set(batch["classes/own"].unique().tolist()) <= {-1, 0, 1, 2}
    for decoder in stage.networks["net"].decoders.values():
        assert any(w.grad.abs().sum() > 0 for w in decoder.parameters())


@pytest.mark.usefixtures("cohort")
def test_deep_supervision_trains_the_coarser_outputs(plan, tmp_path):
    stage = stage_of(plan(changes=("depths=2",)), tmp_path)

    loss_of_batch(stage)["total"].backward()

    outs = stage.networks["net"].decoders["phantom8"].outs
    assert len(outs) == 2
    assert all(w.grad.abs().sum() > 0 for out in outs for w in out.parameters())


def test_a_leak_between_training_and_validation_is_refused_by_name(cohort, plan, tmp_path):
    twins = [
        replace(case, family="the Millers") if n in (0, 7) else case
        for n, case in enumerate(cohort.cases)
    ]
    write_cohort(Cohort(tuple(twins)), tmp_path / "cohort.tsv")

    with pytest.raises(CohortError, match=r"Family the Millers .* is in train .* and val"):
        stage_of(plan(), tmp_path)

    allowed = plan(changes=("data.allow_leak=true",))
    export = supervised.exports(allowed.config, stage_of(allowed, tmp_path).networks)
    assert "Family the Millers" in export.description


def test_structures_that_never_occur_are_refused_by_name(cohort, plan, tmp_path):
    cases = tuple(replace(case, looked_for=PHANTOM.names[:6]) for case in cohort.cases)
    write_cohort(Cohort(cases), tmp_path / "cohort.tsv")

    with pytest.raises(CohortError, match="no training case has Ventricle, Brain-Stem"):
        stage_of(plan(), tmp_path)
    assert stage_of(plan(changes=("allow_empty_classes=true",)), tmp_path)


def test_data_that_are_not_split_yet_are_split_by_people(cohort, plan, tmp_path):
    cases = tuple(replace(case, split="") for case in cohort.cases)
    write_cohort(Cohort(cases), tmp_path / "cohort.tsv")

    found = plan().config.data.load(tmp_path)

    assert [len(found.part(s)) for s in ("train", "val", "test")] == [6, 1, 1]
    assert read_cohort(tmp_path / "cohort.tsv").part("train") == ()


def test_a_data_set_without_training_cases_is_refused(cohort, plan, tmp_path):
    cases = tuple(replace(case, split="test") for case in cohort.cases)
    write_cohort(Cohort(cases), tmp_path / "cohort.tsv")

    with pytest.raises(CohortError, match="None of 8 cases is in the split 'train'"):
        stage_of(plan(), tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("patches.size=[16, 16, 18]", "must be divisible by 4, as the network halves it 2 times"),
        ("depths=3", "`depths` must be less than the 3 levels"),
        ("data.cohort=", "needs either `cohort` or `phantom`"),
        ("patches.sise=[8, 8, 8]", "there is no setting 'patches.sise'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(plan, change, words):
    with pytest.raises(ConfigError, match=words.replace("[", r"\[")):
        plan(changes=(change,))


@pytest.mark.usefixtures("cohort")
def test_it_exports_its_network_with_what_prediction_needs(plan, tmp_path):
    wanted = plan()
    stage = stage_of(wanted, tmp_path)

    export = supervised.exports(wanted.config, stage.networks)

    assert list(export.heads) == ["phantom8"]
    assert export.grid.spacing_mm == 5.0
    assert export.grid.multiple == 4
    assert export.grid.seen == (16, 16, 16), "segmenting shows it as much as training did"
    assert export.intensity == "robust_scale"
    assert export.channels == 1
    heads = {"phantom8": 9}
    state = export.network.state_dict()
    supervised.UNet(heads, **shape_of(state)).load_state_dict(state)


def test_phantoms_are_made_up_in_the_run_folder(tmp_path):
    config = supervised.Config.model_validate(
        {"data": {"phantom": {"cases": 5, "spacing_mm": 5}}, "protocols": ["phantom8"]}
    )

    first = config.data.load(tmp_path)
    written = (tmp_path / "phantoms" / "participants.tsv").stat().st_mtime_ns
    again = config.data.load(tmp_path)

    assert first == again
    assert (tmp_path / "phantoms" / "participants.tsv").stat().st_mtime_ns == written
    assert nibabel.load(first.cases[0].scans["T1w"]).shape == (34, 40, 34)


def test_phantoms_of_other_settings_or_half_of_them_are_made_anew(tmp_path):
    def load(cases):
        data = {"phantom": {"cases": cases, "spacing_mm": 8}}
        return DataConfig.model_validate(data).load(tmp_path).cases

    load(6)
    assert len(load(5)) == 5
    (tmp_path / "phantoms" / "dataset_description.json").unlink()  # as a kill leaves it
    (tmp_path / "phantoms" / "sub-09" / "anat").mkdir(parents=True)

    assert [case.id for case in load(5)] == [f"sub-{n:02d}" for n in range(1, 6)]
    assert not (tmp_path / "phantoms" / "sub-09").exists()


def test_the_recipe_is_known_by_its_name():
    assert find_recipe("supervised") is supervised


@pytest.mark.parametrize("name", ["toy", "malc_supervised"])
def test_shipped_settings_are_understood(name):
    configs = Path(__file__).parents[2] / "configs"

    assert read_plan(configs / f"{name}.yaml").header.recipe == "supervised"


@pytest.mark.usefixtures("cohort")
def test_a_run_can_go_on_from_one_on_larger_voxels(plan, tmp_path):
    coarse = tmp_path / "coarse"
    trained = train([stage_of(plan(steps=2), tmp_path)], Run(folder=coarse, seed=0))

    stage = stage_of(plan(changes=(f"start={coarse}", "working.spacing_mm=4.0")), tmp_path)

    found, wanted = stage.networks["net"].state_dict(), trained["net"].state_dict()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


@pytest.mark.usefixtures("cohort")
def test_a_start_that_does_not_fit_is_refused(plan, tmp_path):
    coarse = tmp_path / "coarse"
    train([stage_of(plan(steps=2), tmp_path)], Run(folder=coarse, seed=0))

    with pytest.raises(ConfigError, match="has another shape"):
        stage_of(plan(changes=(f"start={coarse}", "channels=[8, 8, 16]")), tmp_path)
    with pytest.raises(ConfigError, match="but there is no"):
        stage_of(plan(changes=(f"start={tmp_path}/nowhere",)), tmp_path)


@pytest.mark.usefixtures("cohort")
def test_a_run_whose_own_protocol_has_changed_is_refused(plan, tmp_path):
    table = tmp_path / "own8.tsv"
    lines = [f"{label.value}\t{label.name}" for label in PHANTOM.labels]
    table.write_text("\n".join(["index\tname", *lines]) + "\n")
    plan(steps=1, protocols=table)
    settings, run = tmp_path / "settings.yaml", tmp_path / "run"
    train_run(settings, run, means=Means(device="cpu", cache=tmp_path / "cache"))
    assert plan_of(run).header.recipe == "supervised"

    table.write_text("\n".join(["index\tname", *reversed(lines)]) + "\n")

    with pytest.raises(ConfigError, match=r"own8\.tsv is not as it was when the run"):
        plan_of(run)
    with pytest.raises(ConfigError, match=r"own8\.tsv is not as it was when the run"):
        train_run(settings, run, resume=True, means=Means(device="cpu"))


@pytest.mark.usefixtures("cohort")
def test_scores_of_z_are_not_spoiled_as_if_they_began_at_zero(plan):
    changes = ("working.intensity=z_score",)

    with pytest.raises(ConfigError, match=r"`augment.chance` must be 0 unless"):
        plan(changes=changes)
    assert plan(changes=(*changes, "augment.chance=0")).config.working.intensity == "z_score"


def test_training_without_a_single_label_is_refused(cohort, plan, tmp_path):
    bare = (replace(case, labels=None, protocol="") for case in cohort.cases)
    write_cohort(Cohort(tuple(bare)), tmp_path / "cohort.tsv")

    with pytest.raises(CohortError, match="None of the 6 training cases has labels"):
        stage_of(plan(changes=("allow_empty_classes=true",)), tmp_path)
