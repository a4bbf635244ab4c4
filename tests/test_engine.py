"""The network on the CPU, and with torch."""

import importlib.util
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from fewlabel.engine import Answer, Compute, cpu_engine, in_windows
from fewlabel.errors import ModelFolderError
from tests.band_model import band_onnx

FIELD = (4, 5, 6)


@pytest.fixture
def onnx(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(band_onnx((0.0, 0.5, 1.0)))
    return path


@pytest.mark.parametrize("precision", ["fast", "exact"])
def test_each_intensity_gets_the_class_of_its_band(onnx, precision):
    engine = cpu_engine(onnx, "bands", FIELD, Compute(threads=1, precision=precision))
    image = np.zeros(FIELD, dtype=np.float32)
    image[1], image[2], image[3] = 0.5, 1.0, 0.55

    shares = engine.run(image[None]).shares

    assert shares.dtype == np.uint8
    assert shares.shape == (3, *FIELD)
    assert shares.argmax(axis=0)[:, 0, 0].tolist() == [0, 1, 2, 1]


def test_half_way_between_two_bands_both_get_half(onnx):
    engine = cpu_engine(onnx, "bands", FIELD, Compute(threads=1, precision="exact"))

    shares = engine.run(np.full((1, *FIELD), 0.25, dtype=np.float32)).shares

    assert set(shares[:2].ravel().tolist()) <= {127, 128}
    assert not shares[2].any()


def test_a_second_run_leaves_the_first_result_alone(onnx):
    engine = cpu_engine(onnx, "bands", FIELD, Compute(threads=1))
    first = engine.run(np.zeros((1, *FIELD), dtype=np.float32)).shares

    engine.run(np.ones((1, *FIELD), dtype=np.float32))

    assert (first[0] == 255).all()


def test_exact_means_32_bit_and_the_record_says_so(onnx):
    engine = cpu_engine(onnx, "bands", FIELD, Compute(threads=1, precision="exact"))

    assert engine.means.startswith("OpenVINO ")
    assert engine.means.endswith("f32")


def half_and_half(image):
    """Two classes that share each voxel by its intensity."""
    bright = np.rint(255 * image[0]).astype(np.uint8)
    return Answer(np.stack([255 - bright, bright]))


def test_windows_are_all_of_the_size_that_was_trained_on():
    seen = []

    def run(image):
        seen.append(image.shape[1:])
        return half_and_half(image)

    in_windows(run, (4, 4, 6))(np.zeros((1, 7, 4, 6), dtype=np.float32))

    assert seen == [(4, 4, 6)] * 2


def test_windows_are_put_together_to_what_each_of_them_says():
    image = np.random.default_rng(0).random((19, 16, 21), dtype=np.float32)
    image[:2], image[-2:] = 1.0, 0.0  # 255 of 255 must not run over

    found = in_windows(half_and_half, (8, 16, 10))(image[None]).shares

    assert found.dtype == np.uint8
    off = np.abs(found.astype(int) - half_and_half(image[None]).shares)
    assert off.max() <= 3, "one rounding for each of up to 6 windows"


def test_of_two_windows_the_one_counts_more_that_has_a_voxel_in_its_middle():
    def run(image):  # says nothing but which window it saw
        return Answer(np.full((1, *image.shape[1:]), 200 * image[0, 0, 0, 0], dtype=np.uint8))

    image = np.zeros((6, 4, 4), dtype=np.float32)
    image[2, 0, 0] = 1  # where the second of two windows begins

    line = in_windows(run, (4, 4, 4))(image[None]).shares[0, :, 1, 1]

    assert line[:2].tolist() == [0, 0]
    assert 0 < line[2] < 100 < line[3] < 200
    assert line[4:].tolist() == [200, 200]


def test_a_file_that_is_no_network_is_refused(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a network")

    with pytest.raises(ModelFolderError, match=r"model\.onnx is not a network with the input"):
        cpu_engine(path, "bands", FIELD, Compute())


def test_a_network_without_the_head_is_refused(onnx):
    with pytest.raises(ModelFolderError, match="the output 'logits_other'"):
        cpu_engine(onnx, "other", FIELD, Compute())


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
    engine = cpu_engine(onnx, "bands", size, Compute(threads=1))
    image, allowed = np.zeros((1, *size), np.float32), set()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(lambda: [engine.run(image) for _ in range(50)])
        while not running.done():
            for task in Path("/proc/self/task").iterdir():
                with suppress(ProcessLookupError):
                    allowed.add(frozenset(os.sched_getaffinity(int(task.name))))

    assert len(allowed) == 1
