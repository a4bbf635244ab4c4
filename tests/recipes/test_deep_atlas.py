from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from fewlabel.augment import NOTHING
from fewlabel.batches import PatchConfig
from fewlabel.datasets.phantom import phantom
from fewlabel.deep_atlas_study import told_apart, with_labels_of
from fewlabel.deformer import NetworkDeformer
from fewlabel.errors import CohortError, ConfigError, ModelFolderError
from fewlabel.export import export_run
from fewlabel.labels import load_protocol
from fewlabel.losses_deep_atlas import (
    Carrier,
    Classes,
    Look,
    RegisterTurn,
    RegistrationLoss,
    SegmentTurn,
)
from fewlabel.model import ModelFolder
from fewlabel.nets.register import RegistrationNet
from fewlabel.nets.unet import UNet
from fewlabel.recipes import read_plan
from fewlabel.recipes.deep_atlas import stages
from fewlabel.register import How, register
from fewlabel.train import Run, Workplace, train
from fewlabel.train.checkpoint import load_weights
from tests.recipes.toys import TOYS

FEW = {"register_steps": 2, "segment_steps": 2, "joint_steps": 4}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("deep-atlas")


def plan(place, **changes):
    settings = {"recipe": "deep-atlas"} | TOYS["deep-atlas"](place) | FEW | changes
    (place / "toy.yaml").write_text(yaml.safe_dump(settings))
    return read_plan(place / "toy.yaml")


def stages_of(place, **changes):
    return stages(plan(place, **changes).config, 0, Workplace(place / "run", place / "cache"))


@pytest.fixture(scope="module")
def joint(place):
    """A run with `ablation: joint`."""
    wanted = plan(place)
    train(stages_of(place), Run(place / "run"))
    (place / "run" / "settings.yaml").write_text(yaml.safe_dump(wanted.resolved()))
    return place / "run"


@pytest.mark.parametrize(
    ("ablation", "steps"),
    [
        ("unsupervised", {"registration": 2, "unsupervised": 2}),
        ("weak", {"registration": 2, "weak": 2}),
        ("segmentation", {"alone": 4}),
        ("held", {"registration": 2, "segmentation": 2, "held": 4}),
        ("joint", {"registration": 2, "segmentation": 2, "joint": 4}),
    ],
)
def test_each_network_takes_equally_many_steps_in_every_ablation(place, ablation, steps):
    """Two and two steps of stage 3: 4 of each network in all."""
    found = list(stages_of(place, ablation=ablation))
    assert {stage.name: stage.steps for stage in found} == steps
    taken = {"register": 0, "segment": 0}
    for stage in found:
        for step in range(stage.steps):
            taken[stage.turns[stage.turn_of(step)].trains[0]] += 1
    assert set(taken.values()) <= {0, 4}


def test_networks_that_are_held_still_do_not_move(place, joint):
    """`held` starts from the first two stages of another run, and leaves their copies alone."""
    found = list(stages_of(place, ablation="held", start=[str(joint)]))
    assert [stage.name for stage in found] == ["held"]
    before = load_weights(joint / "segmentation" / "final.safetensors")
    train(found, Run(place / "held"))
    after = load_weights(place / "held" / "held" / "final.safetensors")
    for key in ("register", "segment"):
        still = after[f"{key}_still"]
        assert all(torch.equal(still[name], weight) for name, weight in before[key].items())
        assert any(not torch.equal(after[key][n], weight) for n, weight in before[key].items())


def test_a_model_folder_registers_as_its_network_does(place, joint):
    folder = export_run(joint, place / "model").model
    deformer = NetworkDeformer(folder)
    moving, labels = phantom(0, 0, spacing_mm=6.0)
    fixed, _ = phantom(0, 1, spacing_mm=6.0)

    done = register(moving, fixed, labels=labels, model=deformer, how=How())

    assert done.labels.grid.matches(fixed.grid)
    assert done.displacement.grid.spacing_mm == pytest.approx((8.0, 8.0, 8.0))
    shape = deformer.field(fixed).shape
    assert all(n % deformer.network.stride == 0 for n in shape)
    weights = load_weights(joint / "joint" / "final.safetensors")["register"]
    net = RegistrationNet(channels=(4, 8)).eval()
    net.load_state_dict(weights)
    one, other = torch.rand(1, 1, 16, 16, 16), torch.rand(1, 1, 16, 16, 16)
    with torch.no_grad():
        assert torch.allclose(deformer.displacement(one, other), net(one, other), atol=0.01)


def test_a_model_without_a_registration_network_is_refused(place, joint):
    folder = export_run(joint, place / "model").model
    without = ModelFolder(folder.folder, folder.card.model_copy(update={"registration": None}))
    with pytest.raises(ModelFolderError, match="has no registration network"):
        NetworkDeformer(without)


def test_a_run_without_a_segmentation_network_makes_no_model(place):
    wanted = plan(place, ablation="unsupervised")
    with pytest.raises(ConfigError, match="trains no segmentation network"):
        wanted.recipe.exports(wanted.config, {})


def networks(seed=0):
    torch.manual_seed(seed)
    return {
        "register": RegistrationNet(channels=(4, 8)),
        "segment": UNet({"p": 3}, channels=(4, 8)),
    }


def pair(fixed=-1, moving=-1):
    rng = torch.Generator().manual_seed(0)
    shape = (1, 8, 8, 8)
    return {
        "fixed": torch.rand((1, *shape), generator=rng),
        "moving": torch.rand((1, *shape), generator=rng),
        "fixed_classes": torch.full(shape, fixed, dtype=torch.int16),
        "moving_classes": torch.full(shape, moving, dtype=torch.int16),
        "image": torch.rand((1, *shape), generator=rng),
        "classes/p": torch.ones(shape, dtype=torch.int16),
        "merge/p": torch.tensor([[0, 1, 2]]),
        "start": torch.zeros(3, dtype=torch.int64),
        "chance": torch.tensor(0.5),
    }


CLASSES = Classes("p", (0, 1, 2))
LOOK = Look(PatchConfig(size=(8, 8, 8)), NOTHING)


def test_anatomy_counts_where_both_have_labels_or_a_teacher_makes_them_up():
    alone = RegisterTurn(RegistrationLoss(every=1), CLASSES)
    taught = replace(alone, teacher="segment")
    assert alone(networks(), pair(fixed=1))["anatomy"] == 0
    assert alone(networks(), pair(fixed=1, moving=1))["anatomy"] < 1e-3
    assert alone(networks(), pair(fixed=1, moving=2))["anatomy"] > 0.99
    assert 0 < taught(networks(), pair(fixed=1))["anatomy"] <= 1


def test_each_loss_moves_its_own_network_only():
    for turn, moved, still in (
        (RegisterTurn(RegistrationLoss(), CLASSES, "segment"), "register", "segment"),
        (SegmentTurn(CLASSES, LOOK, Carrier("register")), "segment", "register"),
    ):
        nets = networks()
        turn(nets, pair(moving=1))["total"].backward()
        assert any(weight.grad is not None for weight in nets[moved].parameters())
        assert all(weight.grad is None for weight in nets[still].parameters())


def test_labels_are_carried_only_to_scans_that_have_none():
    turn = SegmentTurn(CLASSES, LOOK, Carrier("register"))
    assert turn(networks(), pair(moving=1))["carried"] > 0
    assert turn(networks(), pair(moving=1, fixed=1))["carried"] == 0
    assert turn(networks(), pair())["carried"] == 0


def test_a_class_that_labels_do_not_tell_apart_counts_for_the_one_that_stands_for_it():
    """Class 2 goes with 1: a teacher's probability of both is the fixed scan's of class 1."""
    turn = RegisterTurn(RegistrationLoss(every=1), Classes("p", (0, 1, 1)), "segment")
    shares = turn._probabilities(networks(), pair()["fixed"], pair()["fixed_classes"])
    assert shares[0, 2].abs().max() == 0
    assert torch.allclose(shares.sum(1), torch.ones(1, 8, 8, 8), atol=1e-5)


def test_labels_are_hidden_by_name_and_differing_protocols_are_refused(place):
    cases = plan(place).recipe.cohort(plan(place).config, place / "run").part("train")
    one, other = with_labels_of(cases, ["sub-03"])
    assert one.labels is not None
    assert other.labels is None
    with pytest.raises(CohortError, match="is called sub-77"):
        with_labels_of(cases, ["sub-77"])
    with pytest.raises(CohortError, match="no training case has labels"):
        told_apart([], load_protocol("phantom8"), needed=True)


@pytest.mark.parametrize("name", ["brain", "hippocampus"])
def test_shipped_settings_are_understood(name):
    config = read_plan(Path(__file__).parents[2] / "configs" / f"deep_atlas_{name}.yaml").config
    assert config.joint_steps % sum(config.ratio) == 0
    assert np.prod(config.patches.size) > 0


def test_coarse_steps_come_first_for_every_ablation_that_segments(place):
    def names(ablation):
        found = stages_of(place, ablation=ablation, coarse_steps=3)
        return [(stage.name, stage.steps) for stage in found]

    assert names("segmentation") == [("coarse-alone", 3), ("alone", 4)]
    assert names("joint")[1:3] == [("coarse", 3), ("segmentation", 2)]
    assert [name for name, _ in names("weak")] == ["registration", "weak"]


def test_coarse_steps_train_on_every_second_voxel(place):
    found = list(stages_of(place, coarse_steps=2))
    train(found, Run(place / "coarse"))

    before = load_weights(place / "coarse" / "registration" / "final.safetensors")
    after = load_weights(place / "coarse" / "coarse" / "final.safetensors")
    assert all(torch.equal(before["register"][key], after["register"][key])
               for key in before["register"])  # fmt: skip
    assert any(not torch.equal(before["segment"][key], after["segment"][key])
               for key in before["segment"])  # fmt: skip


def test_a_held_network_is_asked_once_for_each_pair():
    """And a network that learns, each time."""
    asked = []

    class Still(torch.nn.Module):
        def forward(self, fixed, moving):
            asked.append(moving)
            return torch.zeros(1, 3, *fixed.shape[2:])

    batch = {
        "fixed": torch.rand(1, 1, 8, 8, 8),
        "moving": torch.rand(1, 1, 8, 8, 8),
        "fixed_classes": torch.full((1, 8, 8, 8), -1),
        "moving_classes": torch.randint(0, 3, (1, 8, 8, 8)),
        "start": torch.tensor([0, 0, 0]),
        "chance": torch.tensor(0.5),
        "pair": torch.tensor([1, 0]),
        "image": torch.rand(1, 1, 8, 8, 8),
        "classes/three": torch.randint(0, 3, (1, 8, 8, 8)),
        "merge/three": torch.arange(3)[None],
    }
    networks = {"segment": UNet({"three": 3}, channels=(4, 8)), "teacher": Still()}
    classes = Classes("three", (0, 1, 2))
    for held, times in ((True, 1), (False, 2)):
        turn = SegmentTurn(classes, LOOK, Carrier("teacher", held=held))
        asked.clear()
        first, second = (turn(networks, batch)["carried"].item() for _ in range(2))
        assert (len(asked), first) == (times, second)


def test_carried_labels_are_learned_on_their_own_scan_in_the_share_that_was_asked_for():
    """The teacher moves everything by one voxel along i."""
    seen = []

    class Moves(torch.nn.Module):
        def forward(self, fixed, moving):
            motion = torch.zeros(len(moving), 3, *fixed.shape[2:])
            motion[:, 0] = 1
            return motion

    class Sees(UNet):
        def forward(self, image):
            seen.append(image.clone())
            return super().forward(image)

    fixed, moving = torch.rand(2, 1, 1, 8, 8, 8)
    batch = {
        "fixed": fixed,
        "moving": moving,
        "fixed_classes": torch.full((1, 8, 8, 8), -1),
        "moving_classes": torch.randint(0, 3, (1, 8, 8, 8)),
        "start": torch.tensor([0, 0, 0]),
        "image": torch.rand(1, 1, 8, 8, 8),
        "classes/three": torch.randint(0, 3, (1, 8, 8, 8)),
        "merge/three": torch.arange(3)[None],
    }
    turn = SegmentTurn(Classes("three", (0, 1, 2)), LOOK, Carrier("teacher", moved=0.3))
    networks = {"segment": Sees({"three": 3}, channels=(4, 8)), "teacher": Moves()}
    for chance in (0.2, 0.4):
        turn(networks, batch | {"chance": torch.tensor(chance)})
    assert torch.allclose(seen[1][..., :7, :, :], moving[..., 1:, :, :], atol=1e-5)
    assert torch.equal(seen[3], fixed)
