"""A network that was compiled before is read, says the same, and is never missed."""

import numpy as np
import pytest

from fewlabel import engine_compiled, engine_stream
from fewlabel.conform import GridRule
from fewlabel.engine import Compute
from tests.test_engine_fine import image_of, written
from tests.whole_engine import EXACT, dense

SIZE = (40, 16, 12)
RULE = GridRule(spacing_mm=1, multiple=4, field_mm=SIZE)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(engine_compiled, "_WORTH_BYTES", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fewlabel"


@pytest.fixture
def compilations(monkeypatch):
    """Counts them."""
    done, really = [], engine_stream.compile_parts

    def compile_parts(*args):
        done.append(args)
        return really(*args)

    monkeypatch.setattr(engine_stream, "compile_parts", compile_parts)
    return done


def opened(onnx, compute=EXACT, offsets=None):
    return engine_stream.stream_engine(onnx, "phantom8", RULE, compute, offsets)


@pytest.mark.parametrize(
    "shape", [{"mirrored": True, "residual": True, "age": True}, {"fine": 0, "first": 3}],
    ids=["in planes, with an age", "at once"],
)  # fmt: skip
def test_the_second_time_it_is_read_and_says_the_same(tmp_path, cache, compilations, shape):
    onnx = written(tmp_path, **shape)
    first, second = opened(onnx), opened(onnx)

    assert len(compilations) == 1
    assert len(list(cache.iterdir())) == 1
    a, b = (engine.run(image_of(SIZE)) for engine in (first, second))
    np.testing.assert_array_equal(dense(a), dense(b))
    assert a.age_weeks == b.age_weeks
    assert (first.means, first.channels, first.tells_age) == (
        second.means, second.channels, second.tells_age,
    )  # fmt: skip


@pytest.mark.usefixtures("cache")
def test_what_is_asked_otherwise_is_compiled(tmp_path, compilations):
    onnx = written(tmp_path)
    offsets = np.zeros(9, np.float32)

    opened(onnx)
    opened(onnx, Compute(threads=2, precision="exact"))
    opened(onnx, EXACT, offsets)
    opened(onnx, EXACT, offsets + np.arange(9, dtype=np.float32))
    opened(written(tmp_path, channels=[4, 16]))

    assert len(compilations) == 5


@pytest.mark.parametrize("name", ["body", "head", "planes", "about.json"])
@pytest.mark.parametrize("how", ["cut", "changed", "gone"])
def test_what_is_damaged_is_compiled_again(tmp_path, cache, compilations, name, how):
    onnx = written(tmp_path)
    expected = dense(opened(onnx).run(image_of(SIZE)))
    (file,) = cache.glob(f"*/{name}")
    content = file.read_bytes()
    if how == "gone":
        file.unlink()
    else:
        half = content[: len(content) // 2]
        file.write_bytes(half if how == "cut" else half + b"\0" + content[len(half) + 1 :])

    found = dense(opened(onnx).run(image_of(SIZE)))
    opened(onnx), opened(onnx)

    np.testing.assert_array_equal(found, expected)
    assert len(compilations) == 3, "at first, now, and once more to be kept"


def test_a_cache_that_cannot_be_written_to_is_not_needed(tmp_path, monkeypatch, compilations):
    monkeypatch.setattr(engine_compiled, "_WORTH_BYTES", 0)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))

    assert opened(written(tmp_path)).channels == 1
    assert len(compilations) == 1


def test_small_networks_are_not_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    opened(written(tmp_path))

    assert not (tmp_path / "cache").exists()
