import os
import threading
from pathlib import Path

import pytest

from fewlabel.cache import Cache, default_cache
from fewlabel.errors import OutputError


def filled(content="x"):
    return lambda folder: (folder / "file").write_text(content)


def use_at(cache, key, second):
    os.utime(cache.folder / key, (second, second))


def test_an_entry_is_made_once(tmp_path):
    cache, made = Cache(tmp_path), []

    for _ in range(2):
        place = cache.entry("a", lambda folder: made.append((folder / "file").write_text("x")))

    assert len(made) == 1
    assert (place / "file").read_text() == "x"


def test_what_was_unused_for_longest_goes_when_room_is_needed(tmp_path):
    cache = Cache(tmp_path, most_gb=25e-9)
    for number, key in enumerate("abc"):
        cache.entry(key, filled("0123456789"))
        use_at(cache, key, number) if key != "c" else None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "c"]

    cache.entry("b", filled())
    use_at(cache, "c", 1)
    cache.entry("d", filled("0123456789"))

    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "d"]


def test_a_new_entry_stays_even_if_it_alone_is_too_large(tmp_path):
    cache = Cache(tmp_path, most_gb=1e-9)

    assert (cache.entry("a", filled("0123456789")) / "file").is_file()


def test_an_entry_whose_making_fails_leaves_nothing(tmp_path):
    def fail(folder):
        (folder / "half").write_text("x")
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        Cache(tmp_path).entry("a", fail)

    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path):
    def fill_up(folder):
        raise OSError(28, "No space left on device", str(folder / "file"))

    with pytest.raises(OutputError, match=r"Cannot write to the cache .*No space left"):
        Cache(tmp_path).entry("a", fill_up)

    assert list(tmp_path.iterdir()) == []


def test_two_runs_that_make_the_same_entry_both_get_it(tmp_path):
    cache, ready, places = Cache(tmp_path), threading.Barrier(2), []

    def make(folder):
        (folder / "file").write_text("x")
        ready.wait(timeout=300)

    runs = [threading.Thread(target=lambda: places.append(cache.entry("a", make))) for _ in "ab"]
    for run in runs:
        run.start()
    for run in runs:
        run.join()

    assert places == [tmp_path / "a"] * 2
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_without_a_home_the_place_must_be_said(monkeypatch, tmp_path):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(OutputError, match="has no home folder") as refusal:
        default_cache()
    assert "XDG_CACHE_HOME" in refusal.value.fix

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "fewlabel"
