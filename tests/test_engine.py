"""The network on the CPU, and with torch."""

import importlib.util
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from onnx import helper, numpy_helper

from fewlabel.conform import GridRule
from fewlabel.engine import Compute
from fewlabel.engine_stream import stream_engine
from fewlabel.engine_windows import Parts, in_windows
from fewlabel.errors import ModelFolderError
from tests.band_model import band_onnx
from tests.whole_engine import EXACT, answer_in_windows, answer_of, dense

FIELD = (4, 5, 6)
RULE = GridRule(spacing_mm=1, multiple=1, field_mm=FIELD)


@pytest.fixture
def onnx(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(band_onnx((0.0, 0.5, 1.0)))
    return path


@pytest.mark.parametrize("precision", ["fast", "exact"])
def test_each_intensity_gets_the_class_of_its_band(onnx, precision):
    engine = stream_engine(onnx, "bands", RULE, Compute(threads=1, precision=precision))
    image = np.zeros(FIELD, dtype=np.float32)
    image[1], image[2], image[3] = 0.5, 1.0, 0.55

    shares = dense(engine.run(image[None]))

    assert shares.dtype == np.uint8
    assert shares.shape == (3, *FIELD)
    assert shares.argmax(axis=0)[:, 0, 0].tolist() == [0, 1, 2, 1]


def test_half_way_between_two_bands_both_get_half(onnx):
    engine = stream_engine(onnx, "bands", RULE, EXACT)

    shares = dense(engine.run(np.full((1, *FIELD), 0.25, dtype=np.float32)))

    assert set(shares[:2].ravel().tolist()) <= {127, 128}
    assert not shares[2].any()


def test_a_second_run_leaves_the_first_result_alone(onnx):
    engine = stream_engine(onnx, "bands", RULE, Compute(threads=1))
    first = engine.run(np.zeros((1, *FIELD), dtype=np.float32))

    engine.run(np.ones((1, *FIELD), dtype=np.float32))

    assert (dense(first)[0] == 255).all()


def test_exact_means_32_bit_and_the_record_says_so(onnx):
    engine = stream_engine(onnx, "bands", RULE, EXACT)

    assert engine.means.startswith("OpenVINO ")
    assert engine.means.endswith("f32")


def parts_of(body):
    """A network whose features are two probabilities, and that tells no age."""

    def features(image):
        maps = body(image)
        return lambda begin, end: maps[:, begin:end], None

    return Parts(features, lambda maps: np.rint(255 * maps).astype(np.uint8), 2, "a test")


def half_and_half(image):
    """Two classes that share each voxel by its intensity."""
    return np.stack([1 - image[0], image[0]])


def test_windows_are_all_of_the_size_that_was_trained_on():
    seen = []

    def body(image):
        seen.append(image.shape[1:])
        return half_and_half(image)

    in_windows(parts_of(body), (4, 4, 6))(np.zeros((1, 7, 4, 6), dtype=np.float32))

    assert seen == [(4, 4, 6)] * 2


def test_windows_are_put_together_to_what_each_of_them_says():
    image = np.random.default_rng(0).random((19, 16, 21), dtype=np.float32)
    image[:2], image[-2:] = 1.0, 0.0  # 255 of 255 must not run over

    found = dense(in_windows(parts_of(half_and_half), (8, 16, 10))(image[None]))

    assert found.dtype == np.uint8
    expected = np.rint(255 * half_and_half(image[None]))
    assert np.abs(found - expected).max() <= 1


def test_of_two_windows_the_one_counts_more_that_has_a_voxel_in_its_middle():
    def body(image):  # says nothing but which window it saw
        return np.full((2, *image.shape[1:]), image[0, 0, 0, 0])

    image = np.zeros((6, 4, 4), dtype=np.float32)
    image[2, 0, 0] = 1  # where the second of two windows begins

    line = dense(in_windows(parts_of(body), (4, 4, 4))(image[None]))[0, :, 1, 1]

    assert line[:2].tolist() == [0, 0]
    assert 0 < line[2] < 128 < line[3] < 255
    assert line[4:].tolist() == [255, 255]


def wide_onnx(path):
    """A network whose last layer sees more than a voxel, which no engine can do voxel by voxel."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(3, 1, 3, 3, 3)).astype(np.float32)
    node = helper.make_node("Conv", ["image", "w"], ["logits_bands"], pads=[1] * 6)
    shapes = [("image", [1, 1, "i", "j", "k"]), ("logits_bands", [1, 3, "i", "j", "k"])]
    given, gives = (helper.make_tensor_value_info(name, 1, shape) for name, shape in shapes)
    graph = helper.make_graph(
        [node], "wide", [given], [gives], [numpy_helper.from_array(weight, "w")]
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(made.SerializeToString())
    return path


@pytest.mark.parametrize("window", [None, (8, 16, 10)], ids=["whole", "windows"])
@pytest.mark.parametrize("offsets", [None, np.array([0.0, 1.0, -1.0], np.float32)])
def test_a_network_that_cannot_be_cut_says_what_it_says_in_one(tmp_path, window, offsets):
    onnx, size = wide_onnx(tmp_path / "wide.onnx"), (12, 16, 10)
    rule = GridRule(spacing_mm=1, multiple=2, field_mm=size, window=window)
    image = np.random.default_rng(0).random((1, *size), dtype=np.float32)

    found = dense(stream_engine(onnx, "bands", rule, EXACT, offsets).run(image))

    expected = answer_in_windows(onnx, "bands", image, window or size, offsets).shares
    assert np.abs(found.astype(int) - expected).max() <= 1
    if window is None:
        whole = answer_of(onnx, "bands", image, offsets).shares
        assert np.abs(found.astype(int) - whole).max() <= 1


def test_a_file_that_is_no_network_is_refused(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a network")

    with pytest.raises(ModelFolderError, match=r"model\.onnx is not a network with the input"):
        stream_engine(path, "bands", RULE, Compute())


def test_a_network_without_the_head_is_refused(onnx):
    with pytest.raises(ModelFolderError, match="the output 'logits_other'"):
        stream_engine(onnx, "other", RULE, Compute())


@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="torch is not installed")
class TestWithTorch:
    @pytest.fixture
    def small(self):
        import torch

        from fewlabel.nets.unet import UNet

        torch.manual_seed(0)
        return UNet({"x": 3, "y": 2}, channels=[4, 8])

    def test_the_same_shares_come_out_as_from_the_network_itself(self, small):
        import torch

        from fewlabel.engine_torch import torch_engine

        image = np.random.default_rng(0).random((8, 8, 8), dtype=np.float32)
        compute = Compute(precision="exact")

        engine = torch_engine(small, "x", 1, compute)
        shares = engine.run(image[None]).shares

        with torch.inference_mode():
            expected = small(torch.from_numpy(image)[None, None])["x"][0].softmax(0) * 255
        assert np.abs(shares - expected.numpy()).max() <= 0.51

    @pytest.mark.parametrize("fine", [0, 4])
    def test_windows_say_what_they_say_on_the_cpu(self, tmp_path, fine):
        import torch

        from fewlabel.engine_torch import torch_engine
        from fewlabel.nets.unet import UNet
        from tests.test_model_weights import exported

        torch.manual_seed(0)
        shape = {"fine": fine, "fine_norm": not fine, "first": 7 if fine else 3}
        network = UNet({"phantom8": 9}, channels=[4, 8], age=True, **shape).eval()
        onnx = exported(tmp_path / "m", network, tmp_path, ages_weeks=(28.0, 44.0)).onnx
        size, window = (24, 16, 12), (16, 16, 8)
        rule = GridRule(spacing_mm=1, multiple=4, field_mm=size, window=window)
        image = np.random.default_rng(0).random((1, *size), dtype=np.float32)

        engine = torch_engine(network, "phantom8", 1, EXACT, None, window)

        on_cpu, found = stream_engine(onnx, "phantom8", rule, EXACT).run(image), engine.run(image)
        assert engine.window == window
        assert np.abs(dense(found).astype(int) - dense(on_cpu)).max() <= 1
        assert found.age_weeks == pytest.approx(on_cpu.age_weeks, abs=1e-3)

    def test_a_missing_gpu_is_said_so(self, small):
        import torch

        from fewlabel.engine_torch import torch_engine
        from fewlabel.errors import ConfigError

        if torch.cuda.is_available():
            pytest.skip("this machine has a GPU")
        with pytest.raises(ConfigError, match="torch finds no GPU"):
            torch_engine(small, "x", 1, Compute(device="cuda"))


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="threads can be asked on Linux")
def test_no_thread_is_tied_to_a_core(onnx):
    """Those of two processes would be tied to the same core, and each take twice the time."""
    size = (64, 64, 64)
    rule = GridRule(spacing_mm=1, multiple=1, field_mm=size)
    engine = stream_engine(onnx, "bands", rule, Compute(threads=1))
    image, allowed = np.zeros((1, *size), np.float32), set()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(lambda: [engine.run(image) for _ in range(50)])
        while not running.done():
            for task in Path("/proc/self/task").iterdir():
                with suppress(ProcessLookupError):
                    allowed.add(frozenset(os.sched_getaffinity(int(task.name))))

    assert len(allowed) == 1
