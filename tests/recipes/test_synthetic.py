"""Going on at half the voxel size, in windows."""

import pytest
import torch
import yaml

from fewlabel.nets.unet import UNet, inside
from fewlabel.recipes import synthetic
from fewlabel.recipes.synthetic import Config, Level, _draw_window
from fewlabel.train.checkpoint import save_weights
from fewlabel.train.stage import Workplace
from tests.recipes.toys import synthetic as toy

WINDOW = {"fine": 4, "levels": [{
    "spacing_mm": 4.0, "steps": 2, "learning_rate": 0.01,
    "field_mm": [64.0, 64.0, 64.0], "window_mm": [32.0, 24.0, 32.0],
}]}  # fmt: skip


@pytest.fixture
def settings(tmp_path):
    return toy(tmp_path) | WINDOW


def stage_of(settings, tmp_path):
    return next(synthetic.stages(Config(**settings), 0, Workplace(tmp_path, tmp_path)))


def test_both_resolutions_learn_from_a_window_and_from_the_whole(settings, tmp_path):
    stage = stage_of(settings, tmp_path)
    (turn,), net = stage.turns, stage.networks["net"]

    losses = turn.loss(stage.networks, turn.draw(0))
    losses["total"].backward()

    assert set(losses) == {
        "total", "cross-entropy", "dice", "half: cross-entropy", "half: dice"
    }  # fmt: skip
    assert all(weight.grad is not None for weight in net.parameters())


def test_the_same_batch_has_the_same_window(settings, tmp_path):
    stage = stage_of(settings, tmp_path)
    (turn,) = stage.turns
    batch, losses = turn.draw(3), []
    for _ in range(2):
        torch.manual_seed(7)  # the loop does so before each batch
        losses.append(float(turn.loss(stage.networks, batch)["total"].detach()))

    assert losses[0] == losses[1]


def test_a_batch_holds_the_images_that_come_one_by_one(settings, tmp_path):
    single = stage_of(settings, tmp_path).turns[0]
    level = WINDOW["levels"][0] | {"batch": 2}
    stage = stage_of(settings | {"levels": [level]}, tmp_path)
    (turn,) = stage.turns

    both = turn.draw(1)

    for n, one in enumerate((single.draw(2), single.draw(3))):
        assert (both["rows"][n] == one["rows"][0]).all()
        assert both["chance"][n] == one["chance"][0]
    turn.loss(stage.networks, both)["total"].backward()


@pytest.mark.parametrize("more", [{"start": "runs/before"}, {"levels": WINDOW["levels"]}])
def test_what_needs_a_layer_at_full_resolution_says_so(more, tmp_path):
    with pytest.raises(ValueError, match="need `fine`"):
        Config(**toy(tmp_path) | more)


def test_windows_lie_within_the_field_on_even_voxels():
    torch.manual_seed(0)
    level = Level(**WINDOW["levels"][0])
    drawn = [_draw_window((16, 16, 16), level)[0] for _ in range(50)]

    assert {tuple(part.stop - part.start for part in one) for one in drawn} == {(8, 6, 8)}
    assert {part.start % 2 for one in drawn for part in one} == {0}
    assert {one[1].start for one in drawn} == {0, 2, 4, 6, 8, 10}


def test_the_rim_of_a_window_has_no_labels():
    classes = torch.ones(1, 8, 8, 8, dtype=torch.int64)

    kept = inside(classes, (slice(0, 4), slice(2, 6), slice(4, 8)))

    assert kept.shape == (1, 4, 4, 4)
    assert (kept == 1).sum() == 8
    assert (classes == 1).all()


def test_a_run_on_larger_voxels_is_a_start(settings, tmp_path):
    before = UNet({"aseg32": 33}, channels=(4, 8))
    run = tmp_path / "before"
    save_weights(run / "8mm" / "final.safetensors", {"net": before.state_dict()})
    told = {"recipe": "synthetic"} | Config(**toy(tmp_path)).model_dump(mode="json")
    (run / "settings.yaml").write_text(yaml.safe_dump(told))

    net = stage_of(settings | {"start": str(run)}, tmp_path).networks["net"]

    key = "encoder.levels.1.conv2.conv.weight"
    assert torch.equal(net.state_dict()[key], before.state_dict()[key])
    assert net.stride == 4
