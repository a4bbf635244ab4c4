"""Model folders from runs."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from fewlabel.card import ModelCard
from fewlabel.conform import GridRule
from fewlabel.errors import ConfigError, ModelFolderError
from fewlabel.export import Choice, export_run, write_export
from fewlabel.labels import Label, LabelProtocol
from fewlabel.model import read_model
from fewlabel.recipes import RECIPES
from fewlabel.train import Export
from fewlabel.train.checkpoint import load_weights
from fewlabel.train_run import Means, train_run

ONE = LabelProtocol("one", (Label(1, "one"),))
TWO = LabelProtocol("two", (Label(1, "one"), Label(2, "two")))
GRID = GridRule(spacing_mm=4, multiple=2)


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), nn.InstanceNorm3d(8, affine=True))
        self.heads = nn.ModuleDict({"one": nn.Conv3d(8, 2, 1), "two": nn.Conv3d(8, 3, 1)})

    def forward(self, image):
        features = self.body(image)
        return {name: head(features) for name, head in self.heads.items()}


def card_of(export, **more):
    said = {
        "name": "toy",
        "version": "1.0",
        "description": "A toy.",
        "input": "Toys.",
        "license": "Apache-2.0",
        "heads": dict(export.heads),
        "grid": export.grid,
        "intensity": export.intensity,
    }
    return ModelCard.model_validate(said | more)


def test_a_network_of_two_heads_is_exported_in_16_bits_and_says_the_same(tmp_path):
    torch.manual_seed(0)
    export = Export(TwoHeads(), {"two": TWO, "one": ONE}, GRID)

    done = write_export(tmp_path / "toy", export, card_of(export))

    assert done.difference < 1e-4
    assert 0 < done.rounding < 0.1
    model = read_model(tmp_path / "toy")
    assert model.card.head == "two"
    graph = onnx.load(model.onnx).graph
    assert [output.name for output in graph.output] == ["logits_two", "logits_one"]
    packed = {w.name: w.data_type for w in graph.initializer if "body.0.weight" in w.name}
    assert list(packed.values()) == [onnx.TensorProto.FLOAT16]
    assert "differ by at most" in done.as_text()
    assert "3 structures" not in (tmp_path / "toy" / "README.md").read_text()


def test_weights_for_torch_come_along_if_the_card_has_the_network(tmp_path):
    export = Export(TwoHeads(), {"two": TWO, "one": ONE}, GRID)

    done = write_export(tmp_path / "toy", export, card_of(export, network={}))

    assert done.model.weights is not None
    assert done.model.weights.is_file()


def test_a_network_that_onnx_does_not_reproduce_is_refused(tmp_path):
    class Fickle(nn.Module):
        def __init__(self):
            super().__init__()
            self.line = nn.Conv3d(1, 2, 1)

        def forward(self, image):
            return self.line(image) + image.shape[2] * float(image.numpy().mean() > 0)

    export = Export(Fickle(), {"one": ONE}, GRID)

    with pytest.raises(ModelFolderError, match=r"ONNX and torch differ by .* in a logit"):
        write_export(tmp_path / "toy", export, card_of(export))
    assert not (tmp_path / "toy").exists()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The tiny recipe, stopped in its second stage."""
    place = tmp_path_factory.mktemp("tiny")
    (place / "tiny.yaml").write_text("recipe: tiny\nfirst_steps: 10\noptimizer: {ema: 0.5}\n")
    left = iter([False] * 14 + [True])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECIPES, "tiny", "tests.train.tiny")
        with pytest.raises(KeyboardInterrupt):
            train_run(
                place / "tiny.yaml", place / "run", means=Means(stop=lambda: next(left), workers=1)
            )
    return place / "run"


@pytest.fixture(autouse=True)
def _tiny_is_a_recipe(monkeypatch):
    monkeypatch.setitem(RECIPES, "tiny", "tests.train.tiny")


def test_a_finished_stage_is_exported_with_its_final_weights(run, tmp_path):
    done = export_run(run, tmp_path / "first", Choice(stage="first"))

    assert done.model.card.provenance["stage"] == "first"
    stored = load_weights(run / "first" / "final.safetensors")["net"]["3.weight"]
    found = onnx.load(done.model.onnx).graph.initializer
    weight = next(onnx.numpy_helper.to_array(w) for w in found if "3.weight" in w.name)
    np.testing.assert_array_equal(weight.astype(np.float16), stored.half().numpy())


def test_a_stage_under_way_is_exported_with_its_last_weights(run, tmp_path):
    done = export_run(run, tmp_path / "second", Choice(weights="last"))

    assert done.model.card.provenance["stage"] == "second"
    assert done.model.card.name == "second"


def test_weights_that_are_not_there_yet_are_refused(run, tmp_path):
    with pytest.raises(ConfigError) as refusal:
        export_run(run, tmp_path / "second")

    assert refusal.value.what == "Stage 'second' has no final weights; it has last."


def test_a_stage_that_is_not_there_is_refused(run, tmp_path):
    with pytest.raises(ConfigError) as refusal:
        export_run(run, tmp_path / "third", Choice(stage="third"))

    assert "has no weights of a stage 'third'" in refusal.value.what
    assert refusal.value.fix == "use one of first, second."


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is no run folder: it has no settings"):
        export_run(tmp_path, tmp_path / "model")
