"""Streaming gives the answers of all classes in memory at once, voxel for voxel."""

from itertools import product

import numpy as np
import pytest

from fewlabel.conform import GridRule, restore
from fewlabel.engine import Compute
from fewlabel.engine_stream import stream_engine
from fewlabel.errors import ConfigError
from fewlabel.field import main_body
from fewlabel.grid import Grid
from fewlabel.labels import Label, LabelProtocol
from fewlabel.resample import resample
from fewlabel.shares import Shares, box_of, every
from tests.band_model import band_onnx
from tests.whole_engine import EXACT, answer_of, blend, dense

FIELD = (12, 16, 10)


def protocol_of(n_classes):
    return LabelProtocol("many", tuple(Label(n, f"s{n}") for n in range(1, n_classes)))


def blobs(n_classes, shape=FIELD):
    """Smooth probabilities with a box for each class, as networks give."""
    rng = np.random.default_rng(0)
    at = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    centers = rng.uniform(2, np.array(shape) - 2, (n_classes, 3))
    far = np.linalg.norm(at[None] - centers[:, None, None, None], axis=-1)
    share = np.exp(-(far**2) / 2) * rng.uniform(0.5, 1, (n_classes, 1, 1, 1))
    share[0] = 0.05
    return np.rint(255 * share / share.sum(axis=0)).astype(np.uint8)


def stored(dense, planes, most_bytes=np.inf):
    shares = Shares(len(dense), dense.shape[1:], most_bytes)
    for first in range(0, dense.shape[1], planes):
        shares.add(first, dense[:, first : first + planes])
    return shares


@pytest.fixture
def onnx_of(tmp_path):
    def write(n_classes):
        path = tmp_path / "model.onnx"
        path.write_bytes(band_onnx(tuple(np.linspace(0, 1, n_classes))))
        return path

    return write


@pytest.mark.parametrize("most_bytes", [np.inf, 500.0], ids=["memory", "disk"])
@pytest.mark.parametrize("planes", [1, 5, 12])
def test_what_is_stored_in_slabs_comes_back(planes, most_bytes):
    dense = blobs(9)

    shares = stored(dense, planes, most_bytes)

    assert np.array_equal(np.stack([*every(shares, 1)]), dense)
    assert np.array_equal(np.stack([*every(shares, 2)]), dense[:, ::2, ::2, ::2])
    assert np.array_equal(shares.cut(4, (3, 2, 1), (4, 7, 8)), dense[4, 3:7, 2:9, 1:9])


@pytest.mark.parametrize(
    ("n_classes", "spacing"),
    [
        *product([2, 33], [(1.0, 1.0, 1.0), (0.5, 0.5, 2.5), (1.7, 0.8, 1.1), (3.0, 2.0, 4.0)]),
        (300, (1.7, 0.8, 1.1)),
    ],
    ids=str,
)
def test_labels_on_any_grid_equal_those_from_memory(n_classes, spacing):
    dense, working = blobs(n_classes), Grid(FIELD, np.eye(4))
    affine = np.diag([*spacing, 1.0]) @ np.diag([-1, 1, 1, 1])
    affine[:3, 3] = [FIELD[0] - 1.3, -0.4, 0.2]
    native = Grid(tuple(int(n / mm) + 2 for n, mm in zip(FIELD, spacing, strict=True)), affine)
    protocol = protocol_of(n_classes)

    found = restore(stored(dense, 3, 700.0), working, native, protocol).data

    assert np.array_equal(found, restore(dense, working, native, protocol).data)
    assert found.any()


def test_islands_are_taken_away_from_every_class():
    dense = np.zeros((3, *FIELD), dtype=np.uint8)
    dense[1, 2:6, 2:6, 2:6] = 200
    dense[2, 9:11, 9:11, 7:9] = 255  # off the main body
    dense[0] = 255 - dense[1] - dense[2]
    shares = stored(dense, 4)

    assert np.array_equal(np.stack([*every(main_body(shares), 1)]), main_body(dense.copy()))


@pytest.mark.parametrize("n_classes", [2, 10, 139])
def test_a_network_in_two_parts_says_what_it_says_in_one(onnx_of, n_classes):
    image = np.random.default_rng(0).random(FIELD, dtype=np.float32)
    path, rule = onnx_of(n_classes), GridRule(spacing_mm=1, multiple=2, field_mm=FIELD)

    found = dense(stream_engine(path, "bands", rule, EXACT).run(image[None]))

    assert np.array_equal(found, answer_of(path, "bands", image[None]).shares)


@pytest.mark.parametrize("window", [(12, 16, 10), (8, 16, 10), (4, 8, 10), (4, 4, 4)], ids=str)
@pytest.mark.parametrize("n_classes", [3, 40])
def test_windows_a_few_planes_at_a_time_equal_windows_at_once(
    onnx_of, window, n_classes, monkeypatch
):
    image = np.random.default_rng(1).random(FIELD, dtype=np.float32)
    path = onnx_of(n_classes)
    rule = GridRule(spacing_mm=1, multiple=2, field_mm=FIELD, window=window)
    blended = blend(lambda part: part, image[None], window)  # its features are the intensities
    expected = answer_of(path, "bands", blended).shares
    three_planes = (n_classes + 128) * 16 * 10 * 3
    monkeypatch.setattr("fewlabel.engine_windows._AT_ONCE_BYTES", three_planes)

    found = dense(stream_engine(path, "bands", rule, EXACT).run(image[None]))

    assert np.array_equal(found, expected)


def test_a_limit_of_memory_halves_the_window_until_it_fits(onnx_of):
    rule = GridRule(spacing_mm=1, multiple=16, field_mm=(64, 128, 64))
    path = onnx_of(3)

    assert stream_engine(path, "bands", rule, Compute(threads=1)).window == (64, 128, 64)
    tight = Compute(threads=1, max_memory_gb=0.443)
    i, j, k = stream_engine(path, "bands", rule, tight).window
    assert i * j * k < 64 * 128 * 64
    with pytest.raises(ConfigError, match=r"limit of memory is 0\.1 GB; this model needs 0\.44 GB"):
        stream_engine(path, "bands", rule, Compute(threads=1, max_memory_gb=0.1))


@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.parametrize("planes", [1, 5, 12])
def test_boxes_of_what_is_stored_are_those_of_the_whole(planes, gone):
    dense = blobs(9)
    shares = stored(dense, planes, 500.0)
    if gone:
        islands = np.random.default_rng(0).random(FIELD) < 0.7
        shares.remove(islands)
        dense[1:, islands] = 0

    for number in range(1, 9):
        for least in (1.0, 60.0, 255.5):
            found, expected = shares.box(number, least), box_of(dense[number], least)
            assert (found is None) == (expected is None)
            assert found is None or np.array_equal(found, expected)


def test_structures_that_lie_outside_of_the_scan_do_no_harm():
    """The field reaches beyond a scan whose view ends early, and boxes may lie beyond it, too."""
    dense, working = blobs(33), Grid(FIELD, np.eye(4))
    whole = restore(dense, working, working, protocol_of(33)).data
    for axis, low, high in product(range(3), (0, 5), (6, 10)):
        first, shape = [0, 0, 0], list(FIELD)
        first[axis], shape[axis] = low, high - low
        affine = np.eye(4)
        affine[:3, 3] = first
        part = Grid(tuple(shape), affine)

        found = restore(stored(dense, 3), working, part, protocol_of(33)).data

        cut = tuple(slice(a, a + n) for a, n in zip(first, shape, strict=True))
        assert np.array_equal(found, whole[cut])


@pytest.mark.parametrize("start", [-30, -12, 20, 40])
def test_a_grid_that_sees_nothing_gets_what_lies_outside(start):
    data = np.ones((9, 9, 9), dtype=np.float32)
    for count in (0, 5):
        affine = np.eye(4)
        affine[0, 3] = start
        found = resample(data, Grid(data.shape, np.eye(4)), Grid((count, 9, 9), affine), 7.0)
        assert found.shape == (count, 9, 9)
        assert (found == 7).all()


def test_what_is_nowhere_is_outside_everywhere():
    nothing = np.zeros((0, 9, 9), dtype=np.uint8)
    found = resample(nothing, Grid(nothing.shape, np.eye(4)), Grid((2, 3, 4), np.eye(4)), 7.0)

    assert found.shape == (2, 3, 4)
    assert (found == 7).all()
