"""Networks for torch out of model folders."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import fewlabel
from fewlabel.conform import GridRule, conform
from fewlabel.engine import Compute
from fewlabel.engine_stream import stream_engine
from fewlabel.engine_torch import torch_engine
from fewlabel.errors import ModelFolderError
from fewlabel.export import Choice, card_of, write_export
from fewlabel.grid import Grid
from fewlabel.intensity import robust_scale
from fewlabel.io import read_scan
from fewlabel.labels import load_protocol
from fewlabel.model import ModelFolder, find_model
from fewlabel.model_weights import network_of, stored_weights, weights_of
from fewlabel.nets.mirror import Mirrored
from fewlabel.nets.unet import UNet
from fewlabel.recipes import read_plan
from fewlabel.train.stage import Export

PHANTOM = load_protocol("phantom8")
SHAPE = {"channels": [4, 8], "fine": 4, "fine_norm": False, "first": 7, "residual": True}


def small(**shape) -> UNet:
    """Its norms are as they begin, so that many weights are equal and stored once."""
    torch.manual_seed(0)
    return UNet({"phantom8": 9}, **(SHAPE | shape)).eval()


def exported(folder, network, tmp_path, bits=16, **about) -> ModelFolder:
    settings = "recipe: supervised\nprotocols: [phantom8]\ndata: {phantom: {}}\n"
    (tmp_path / "plan.yaml").write_text(settings)
    export = Export(network, {"phantom8": PHANTOM}, GridRule(spacing_mm=2, multiple=4), **about)
    plan = read_plan(tmp_path / "plan.yaml")
    return write_export(folder, export, card_of("m", plan, "train", export, Choice()), bits).model


@pytest.mark.parametrize("mirrored", [False, True])
def test_an_onnx_file_gives_back_the_network(tmp_path, mirrored):
    network = small()
    whole = Mirrored(network, {"phantom8": PHANTOM}).eval() if mirrored else network
    model = exported(tmp_path / "m", whole, tmp_path)

    again = network_of(model).eval()

    image = torch.rand(1, 1, 8, 8, 8)
    assert isinstance(again, Mirrored) == mirrored
    with torch.inference_mode():
        found, expected = again(image)["phantom8"], whole(image)["phantom8"]
    torch.testing.assert_close(found, expected, atol=2e-2, rtol=0)


def test_weights_in_8_bits_are_read_too(tmp_path):
    network = small(channels=[16, 32], fine=0, first=3, fine_norm=True)
    model = exported(tmp_path / "m", network, tmp_path, bits=8)

    key = "encoder.levels.1.conv2.conv.weight"
    found, before = weights_of(model)[key], network.state_dict()[key]

    kinds = {one.data_type for one in onnx.load(model.onnx).graph.initializer}
    assert onnx.TensorProto.INT8 in kinds
    assert 0 < (found - before).abs().max() <= before.abs().max() / 127


@pytest.mark.parametrize("mirrored", [False, True])
def test_ages_come_from_the_card(tmp_path, mirrored):
    network = small(age=True)
    network.age.expect((30.0, 40.0))
    whole = Mirrored(network, {"phantom8": PHANTOM}).eval() if mirrored else network
    model = exported(tmp_path / "m", whole, tmp_path, ages_weeks=(30.0, 40.0))

    image = torch.rand(1, 1, 8, 8, 8)
    with torch.inference_mode():
        expected = float(whole(image)["age_weeks"])
        assert float(network_of(model).eval()(image)["age_weeks"]) == pytest.approx(expected, 1e-2)


def test_weights_of_another_network_are_refused(tmp_path):
    model = exported(tmp_path / "m", small(), tmp_path)
    heads = {"phantom8": load_protocol("tissue3")}
    other = replace(model, card=model.card.model_copy(update={"heads": heads}))

    with pytest.raises(ModelFolderError, match="are not those of a whole network"):
        network_of(other)


def test_a_damaged_file_is_said_so(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"not a network")

    with pytest.raises(ModelFolderError, match="cannot be read as ONNX"):
        stored_weights(tmp_path / "model.onnx")


def test_weights_in_other_files_are_not_fetched(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"\0" * 16)
    weight = onnx.TensorProto(name="network.w", data_type=onnx.TensorProto.FLOAT, dims=[4])
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="secret")
    graph = onnx.helper.make_graph([], "g", [], [], [weight])
    (tmp_path / "model.onnx").write_bytes(onnx.helper.make_model(graph).SerializeToString())

    with pytest.raises(ModelFolderError):
        stored_weights(tmp_path / "model.onnx")


def test_no_weight_that_is_not_the_networks_own_is_kept():
    stored = stored_weights(find_model("neonate-drawem9").onnx)

    assert all(name.startswith("network.") for name in stored)
    assert all(weight.dtype == torch.float32 for weight in stored.values())


@pytest.mark.parametrize("name", ["adult-aseg32", "neonate-drawem9"])
def test_torch_answers_as_the_engine_of_the_cpu_does(name):
    model = find_model(name)
    card, exact = model.card, Compute(precision="exact", threads=1)
    scan = read_scan(next((Path(fewlabel.__file__).parent / "example").glob("*.nii.gz")))
    rule = GridRule(spacing_mm=3.0, multiple=card.grid.multiple)
    field = rule.field
    center = scan.grid.corners_mm().mean(axis=0)
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    affine[:3, 3] = center - 1.5 * (np.array(field) - 1)
    image = robust_scale(conform(scan, Grid(field, affine)).data)
    images = np.stack([image] * len(card.modalities))

    by_torch = torch_engine(
        network_of(model), card.head, len(card.modalities), exact, card.class_offsets
    ).run(images)
    on_cpu = stream_engine(model.onnx, card.head, rule, exact, card.class_offsets).run(images)

    agree = np.asarray(by_torch.shares).argmax(0) == np.asarray(on_cpu.shares).argmax(0)
    assert agree.mean() > 0.999
    if card.age is not None:
        assert by_torch.age_weeks == pytest.approx(on_cpu.age_weeks, abs=0.05)
