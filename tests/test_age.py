"""Ages at scan, told by the network: averaged, exported, printed, recorded and doubted."""

import json

import nibabel
import numpy as np
import onnx
import pytest
import torch
from torch import nn

from fewlabel.card import AgeCard, ModelCard, PredictedAge
from fewlabel.circumstances import Circumstances, unlike_trained
from fewlabel.conform import GridRule
from fewlabel.datasets.phantom import phantom
from fewlabel.engine import Compute
from fewlabel.engine_stream import stream_engine
from fewlabel.engine_torch import torch_engine
from fewlabel.engine_windows import MeanAge
from fewlabel.errors import ModelFolderError
from fewlabel.export import AGE_ERROR, Choice, error_weeks, write_export
from fewlabel.labels import load_protocol
from fewlabel.model import read_model
from fewlabel.nets.unet import UNet
from fewlabel.people import Age
from fewlabel.predict import segment, segment_files
from fewlabel.report.cases import find_cases
from fewlabel.segmenter import Segmenter
from fewlabel.train import Export
from fewlabel.volume import Scan
from tests.band_model import box_grid, head_at
from tests.two_channels import WEEKS, two_channel_model, two_channel_onnx

EXACT = Compute(threads=1, precision="exact")
NEWBORN = AgeCard(low_weeks=28, high_weeks=44, error_weeks=1.5)


@pytest.fixture(scope="module")
def head():
    return head_at(box_grid((3.0, 3.0, 3.0), 192.0))


@pytest.fixture
def crisp(tmp_path):
    """Tissue is what is brighter than 0.5, without doubt; the age is 40 times the brightest."""
    path = tmp_path / "model.onnx"
    path.write_bytes(two_channel_onnx((0.0, 1.0)))
    return path


def two_windows():
    """Of four planes each, with one in common: 16 voxels of 0.65 in the first, 32 of 1 beyond."""
    image = np.zeros((2, 7, 4, 4), dtype=np.float32)
    image[0, 0] = 0.65
    image[1, 5:] = 1.0
    return image


# What engines say


@pytest.mark.parametrize("precision", ["fast", "exact"])
def test_a_network_on_the_cpu_tells_the_age_beside_the_labels(crisp, precision):
    compute = Compute(threads=1, precision=precision)

    rule = GridRule(spacing_mm=1, multiple=1, field_mm=(7, 4, 4))
    engine = stream_engine(crisp, "bands", rule, compute)

    assert (engine.channels, engine.tells_age) == (2, True)
    assert engine.run(two_windows()).age_weeks == pytest.approx(40.0, abs=0.05)


@pytest.mark.parametrize("at_once", [1, 1000, 64e6], ids=str)  # planes one by one, or all
def test_windows_count_by_the_tissue_in_them(crisp, at_once, monkeypatch):
    monkeypatch.setattr("fewlabel.engine_windows._AT_ONCE_BYTES", at_once)
    rule = GridRule(spacing_mm=1, multiple=1, field_mm=(7, 4, 4), window=(4, 4, 4))
    image = two_windows()

    found = stream_engine(crisp, "bands", rule, EXACT).run(image).age_weeks

    # 40 x 0.65 from 16 voxels and 40 x 1 from 32
    assert found == pytest.approx((16 * 26 + 32 * 40) / 48, abs=1e-4)


def test_where_no_window_sees_tissue_there_is_no_age():
    ages = MeanAge()
    air = np.zeros((2, 3, 3, 3), dtype=np.uint8)
    air[0] = 255
    ages.add(99.0, air)

    assert ages.weeks is None


def test_torch_tells_the_age_too():
    torch.manual_seed(0)
    network = UNet({"x": 3}, in_channels=2, channels=[4, 8], age=True).eval()
    image = np.random.default_rng(0).random((2, 8, 8, 8), dtype=np.float32)

    engine = torch_engine(network, "x", 2, EXACT)

    with torch.inference_mode():
        expected = float(network(torch.from_numpy(image)[None])["age_weeks"])
    assert (engine.channels, engine.tells_age) == (2, True)
    assert engine.run(image).age_weeks == pytest.approx(expected, abs=1e-3)


# What users are told


def test_the_interval_comes_from_the_error_on_held_out_scans():
    assert PredictedAge(38.2, 1.5).as_text() == "38.2 weeks (90 % interval: 36.7 to 39.7)"
    assert PredictedAge(38.2, None).as_text() == "38.2 weeks (its interval was never measured)"


def test_a_result_tells_the_age_and_leaves_the_volumes_as_they_are(head, tmp_path):
    scan = tmp_path / "sub-01_T1w.nii.gz"
    nibabel.save(nibabel.Nifti1Image(head.data.astype(np.int16), head.grid.affine), scan)
    model = two_channel_model(tmp_path / "m", NEWBORN)

    (outcome,) = segment_files([scan], model, compute=EXACT)

    found = outcome.segmentation
    assert found.age == PredictedAge(WEEKS, 1.5)
    assert "  age at scan: 40.0 weeks (90 % interval: 38.5 to 41.5)\n" in outcome.as_text()
    assert "age at scan: 40.0 weeks" in found._repr_html_()
    said = {
        "weeks": 40.0,
        "low_weeks": 38.5,
        "high_weeks": 41.5,
        "known_weeks": None,
        "trained_on_weeks": [28.0, 44.0],
    }
    assert outcome.as_json()["record"]["age"] == said
    assert json.loads(found.paths.record.read_text())["age"] == said
    assert "age" not in found.paths.volumes.read_text()
    (case,) = find_cases(tmp_path)
    assert case.as_json()["age"] == "40.0 weeks (90 % interval: 38.5 to 41.5)"
    assert found.warnings == ()


def test_an_error_that_nobody_measured_is_said_to_be_unknown(head, tmp_path):
    ages = AgeCard(low_weeks=28, high_weeks=44)
    model = two_channel_model(tmp_path / "m", ages)

    found = Segmenter(model, EXACT)({"T2w": head})

    assert found.age.as_text() == "40.0 weeks (its interval was never measured)"
    assert found.record["age"]["low_weeks"] is None
    assert "90 % error was never measured" in model.as_text()


def test_an_age_beyond_those_trained_on_is_a_warning(head, tmp_path):
    model = two_channel_model(tmp_path / "m", AgeCard(low_weeks=28, high_weeks=37.5))

    found = Segmenter(model, EXACT)({"T2w": head})

    assert found.warnings == (
        "The age that the network tells is 40 weeks; this model was trained on 28 to 37.5 weeks.",
    )
    (finding,) = found.record["quality"]["findings"]
    assert (finding["rule"], finding["value"], finding["limit"]) == ("age in weeks", 40.0, 37.5)


@pytest.mark.parametrize(
    ("known", "told", "sentence"),
    [
        (None, 36.0, None),
        (30.0, 36.0, None),
        (28.0, 44.0, None),
        (27.9, 36.0, "The age at scan is 27.9 weeks; this model was trained on 28 to 44 weeks."),
        (30.0, 45.0, "The age that the network tells is 45 weeks; this model was trained on 28 to"
         " 44 weeks."),
        (52.0, 45.0, "The age at scan is 52 weeks; this model was trained on 28 to 44 weeks."),
    ],
)  # fmt: skip
def test_the_known_age_counts_before_the_one_told(known, told, sentence):
    about = Circumstances((1.0, 1.0, 1.0), Age(weeks=known), told, NEWBORN)

    assert [one.says for one in unlike_trained(about)] == ([sentence] if sentence else [])


def test_the_table_of_people_gives_the_known_age(head, tmp_path):
    scan = tmp_path / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
    scan.parent.mkdir(parents=True)
    (tmp_path / "participants.tsv").write_text("participant_id\tscan_age\nsub-01\t46.3\n")
    nibabel.save(nibabel.Nifti1Image(head.data.astype(np.int16), head.grid.affine), scan)
    model = two_channel_model(tmp_path / "m", NEWBORN)

    found = segment(scan, model=model, out=tmp_path / "out", threads=1)

    assert found.record["age"]["known_weeks"] == 46.3
    assert found.warnings[0].startswith("The age at scan is 46.3 weeks; this model was trained")


def test_without_a_brain_there_is_no_age(head, tmp_path):
    model = two_channel_model(tmp_path / "m", NEWBORN)

    found = Segmenter(model, EXACT)({"T1w": Scan(np.zeros_like(head.data), head.grid)})

    assert found.age is None
    assert found.record["age"]["weeks"] is None
    assert found.warnings == ("No brain was found in this scan.",)


def test_a_card_that_promises_an_age_needs_a_network_that_tells_it(head, tmp_path):
    model = two_channel_model(tmp_path / "m", NEWBORN, onnx=two_channel_onnx(age=False))

    with pytest.raises(ModelFolderError, match="promises an age, which its network does not tell"):
        Segmenter(model, EXACT)({"T1w": head})


def test_an_age_that_the_card_does_not_promise_is_not_told(head, tmp_path):
    found = Segmenter(two_channel_model(tmp_path / "m"), EXACT)({"T1w": head})

    assert found.age is None
    assert "age" not in found.record


# From a run to a model


class TellsAge(nn.Module):
    """Logits of phantom8 and, as an age, 30 weeks plus ten times the mean of the first channel."""

    def __init__(self, n_classes):
        super().__init__()
        self.line = nn.Conv3d(2, n_classes, 1)

    def forward(self, image):
        return {
            "phantom8": self.line(image),
            "age_weeks": 30 + 10 * image[:, 0].mean(dim=(1, 2, 3)),
        }


def test_a_network_that_tells_ages_is_exported_and_says_the_same(tmp_path):
    torch.manual_seed(0)
    protocol = load_protocol("phantom8")
    export = Export(
        TellsAge(protocol.n_classes),
        {"phantom8": protocol},
        GridRule(spacing_mm=6.0, multiple=2, field_mm=(120, 132, 120)),
        channels=2,
        modalities=("T1w", "T2w"),
        any_modality=True,
        ages_weeks=(28.0, 44.0),
    )
    card = ModelCard(
        name="toy",
        version="1.0",
        description="A toy.",
        input="Toys.",
        license="Apache-2.0",
        heads=dict(export.heads),
        grid=export.grid,
        intensity=export.intensity,
        modalities=export.modalities,
        any_modality=export.any_modality,
        age=AgeCard(low_weeks=28, high_weeks=44, error_weeks=2.0),
    )

    done = write_export(tmp_path / "toy", export, card)

    assert done.difference < 1e-4
    outputs = [output.name for output in onnx.load(done.model.onnx).graph.output]
    assert outputs == ["logits_phantom8", "age_weeks"]
    assert read_model(tmp_path / "toy").card.age == card.age
    scan, _ = phantom(0, 0, spacing_mm=6.0)
    found = Segmenter(done.model, EXACT)({"T1w": scan})
    assert 30 < found.age.weeks < 40
    assert found.record["age"]["high_weeks"] == pytest.approx(found.age.weeks + 2, abs=0.01)


ROWS = [
    ("train", 10, AGE_ERROR, 3.0),
    ("train", 10, "validation score", 0.5),
    ("train", 20, AGE_ERROR, 1.0),
    ("train", 20, "validation score", 0.8),
    ("train", 30, AGE_ERROR, 2.0),
    ("train", 30, "validation score", 0.7),
    ("other", 90, AGE_ERROR, 9.0),
    ("other", 90, "validation score", 0.9),
]


@pytest.mark.parametrize(("weights", "mean"), [("final", 1.0), ("best", 1.0), ("last", 2.0)])
def test_the_error_is_that_of_the_weights_that_were_chosen(weights, mean):
    found = error_weeks(ROWS, "train", Choice(weights=weights))

    # a normal distribution with standard deviation s has mean absolute error 0.798 s, and 90 %
    # of it within 1.645 s
    assert found == pytest.approx(mean * 1.645 / 0.798)


def test_an_error_that_was_not_validated_is_unknown():
    assert error_weeks(ROWS, "elsewhere", Choice()) is None
