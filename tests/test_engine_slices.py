from itertools import permutations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from fewlabel.engine import Compute
from fewlabel.errors import ConfigError, ModelFolderError
from fewlabel.model import read_model, write_model
from fewlabel.segmenter import Segmenter
from fewlabel.slices import SliceRule
from fewlabel.volume import Scan
from tests.band_model import band_card, box_grid, head_at, turned_scan

EXACT = Compute(threads=1, precision="exact")
CENTERS = np.array([0.0, 20.0, 205.0, 250.0], dtype=np.float32)
"""Shade of background, then of each structure."""


def slice_onnx(weights_rgb=(0.0, 1.0, 0.0)):
    """Logits -k (x - center)^2, less the common -k x^2, of a mix x of the three channels."""
    sharpness = 0.01
    mix = np.array(weights_rgb, dtype=np.float32).reshape(1, 3, 1, 1)
    weight = 2 * sharpness * CENTERS.reshape(-1, 1, 1, 1) * mix
    bias = -sharpness * CENTERS**2
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "w", "b"], ["logits_bands"], kernel_shape=[1, 1])],
        "bands",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("logits_bands", TensorProto.FLOAT, ["n", 4, "h", "w"])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=9).SerializeToString()


def slice_model(folder, rule, onnx=None):
    card = band_card(name="slices", grid=rule, intensity="equalize")
    return write_model(folder, card, onnx=onnx or slice_onnx())


def segmented(model, scan):
    return Segmenter(model, EXACT)(scan).labels.data


@pytest.fixture(scope="module")
def scan():
    soft = head_at(box_grid((3.0, 3.5, 6.0), 180.0))
    return Scan(np.where(soft.data < 20, 0, soft.data), soft.grid)


def test_a_scan_comes_back_on_its_own_grid_with_all_structures(tmp_path, scan):
    done = Segmenter(slice_model(tmp_path / "m", SliceRule()), EXACT)(scan)

    assert done.labels.grid.matches(scan.grid)
    assert sorted(np.unique(done.labels.data)) == [0, 1, 2, 3]
    assert done.record["spacing_mm"] == [3.0, 3.5, 6.0]
    assert done.record["engine"].endswith("f32")
    assert done.labels.data[0, 0, 0] == 0


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal", "acquired"])
def test_every_axis_labels_the_same_voxels_when_only_the_middle_slice_counts(tmp_path, scan, axis):
    axial = segmented(slice_model(tmp_path / "a", SliceRule()), scan)

    along = segmented(slice_model(tmp_path / "b", SliceRule(axes=(axis,))), scan)

    assert (along == axial).mean() > 0.999


@pytest.mark.parametrize(("color", "shift"), [(0, 1), (2, -1)])
def test_red_is_the_slice_below_and_blue_the_slice_above(tmp_path, scan, color, shift):
    weights = np.eye(3, dtype=np.float32)[color]
    here = segmented(slice_model(tmp_path / "a", SliceRule()), scan)

    moved = segmented(slice_model(tmp_path / "b", SliceRule(), slice_onnx(tuple(weights))), scan)

    inner = slice(8, -8)
    assert np.array_equal(np.roll(here, shift, axis=2)[:, :, inner], moved[:, :, inner])


def test_a_scan_stored_in_any_orientation_gets_the_same_labels(tmp_path, scan):
    model = slice_model(tmp_path / "m", SliceRule(axes=("coronal",)))
    segmenter = Segmenter(model, EXACT)
    expected = segmenter(scan).labels

    for order in permutations(range(3)):
        signs = tuple((-1) ** (n + order[0]) for n in order)
        turned = segmenter(turned_scan(scan, order, signs)).labels
        as_scan = Scan(expected.data.astype(np.float32), expected.grid)
        assert np.array_equal(turned.data, turned_scan(as_scan, order, signs).data)


def test_several_axes_are_averaged(tmp_path, scan):
    one = SliceRule(spacing_mm=4, slice_mm=4)
    three = SliceRule(axes=("axial", "coronal", "sagittal"), spacing_mm=4, slice_mm=4)
    alone = segmented(slice_model(tmp_path / "a", one), scan)

    together = segmented(slice_model(tmp_path / "b", three), scan)

    assert (alone == together).mean() > 0.97  # the lattices of 4 mm are not the same
    assert sorted(np.unique(together)) == [0, 1, 2, 3]


def test_images_of_two_modalities_are_looked_at_together(tmp_path, scan):
    rule = SliceRule(channels=("T1w", "FLAIR", "FLAIR"))
    both = Segmenter(slice_model(tmp_path / "a", rule), EXACT)  # only its green channel counts
    alone = segmented(slice_model(tmp_path / "b", SliceRule()), scan)
    nothing = Scan(np.zeros_like(scan.data), scan.grid)

    assert np.array_equal(both({"T1w": scan, "FLAIR": scan}).labels.data, alone)
    assert not both({"T1w": scan, "FLAIR": nothing}).labels.data.any()
    with pytest.raises(ConfigError, match="T1w and FLAIR together; FLAIR of the same head is lac"):
        both({"T1w": scan})


def test_the_card_says_how_the_model_looks(tmp_path):
    rule = SliceRule(axes=("coronal",), spacing_mm=0.9)
    slice_model(tmp_path / "m", rule)

    read = read_model(tmp_path / "m")

    assert read.card.grid == rule
    assert "works at coronal slices with 0.9 mm" in read.as_text()


def test_models_that_cannot_run_here_say_why(tmp_path, scan):
    one = slice_model(tmp_path / "b", SliceRule())
    with pytest.raises(ModelFolderError, match="on the CPU only"):
        Segmenter(one, Compute(device="cuda"))(scan)

    foreign = write_model(
        tmp_path / "c", band_card(name="slices", grid=SliceRule()), onnx=b"nothing"
    )
    with pytest.raises(ModelFolderError, match="is not a network of slices"):
        Segmenter(foreign, EXACT)(scan)
