"""Settings files, and what a slip in them says."""

import pytest
from pydantic import Field

from fewlabel.errors import ConfigError
from fewlabel.recipes import RECIPES, read_plan
from fewlabel.settings import Settings, read_settings


class Net(Settings):
    channels: int = Field(default=8, gt=0)
    """Feature maps of the first level."""
    depth: int = 4


class Example(Settings):
    steps: int = Field(default=100, gt=0)
    """Optimizer steps."""
    net: Net = Net(depth=6)
    rate: float = 0.5


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "example.yaml"
        path.write_text(text)
        return path

    return write


def test_what_is_left_out_keeps_the_default_of_the_whole_not_of_the_part(written):
    found = read_settings(written("net: {channels: 16}"), Example)

    assert found.net == Net(channels=16, depth=6)


def test_changes_win_over_the_file_and_are_read_as_yaml(written):
    changes = ("net.channels=32", "rate=3e-4", "net.depth=2")

    found = read_settings(written("steps: 5\nrate: 1.0"), Example, changes)

    assert (found.steps, found.rate, found.net) == (5, 3e-4, Net(channels=32, depth=2))


def test_a_slip_suggests_the_nearest_setting(written):
    with pytest.raises(ConfigError) as refusal:
        read_settings(written("net: {chanels: 16}"), Example)

    assert refusal.value.what == "example.yaml: there is no setting 'net.chanels'."
    assert refusal.value.fix == "write 'net.channels'."


def test_every_mistake_is_named_at_once(written):
    with pytest.raises(ConfigError) as refusal:
        read_settings(written("stps: 3\nsteps: -1\nnet: {channels: many}\nfoo: 1"), Example)

    lines = refusal.value.what.splitlines()
    assert lines[0] == "example.yaml has 4 mistakes:"
    assert "  - steps is -1. Input should be greater than 0." in lines
    assert "  - there is no setting 'stps'." in lines
    assert "  - there is no setting 'foo'." in lines
    assert any(line.startswith("  - net.channels is 'many'.") for line in lines)
    assert "steps (default 100) means: Optimizer steps" in refusal.value.fix
    assert "write 'steps'" in refusal.value.fix
    assert "use one of steps, net, rate" in refusal.value.fix


@pytest.mark.parametrize("text", ["- 1\n- 2", "just words", "a: [1", "1: 2"])
def test_a_file_that_is_no_mapping_is_refused(written, text):
    with pytest.raises(ConfigError, match=r"example\.yaml"):
        read_settings(written(text), Example)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"Cannot read the settings .*nowhere"):
        read_settings(tmp_path / "nowhere.yaml", Example)


@pytest.mark.parametrize("change", ["steps", "=3", "net..depth=2"])
def test_a_change_that_is_not_key_and_value_is_refused(written, change):
    with pytest.raises(ConfigError, match="Cannot read the change"):
        read_settings(written(""), Example, (change,))


def test_a_plan_names_the_nearest_recipe(written, monkeypatch):
    monkeypatch.setitem(RECIPES, "tiny", "tests.train.tiny")
    with pytest.raises(ConfigError) as refusal:
        read_plan(written("recipe: tny"))

    assert refusal.value.what == "There is no recipe 'tny'."
    assert refusal.value.fix == "write 'tiny'."


def test_a_plan_must_say_which_recipe(written):
    with pytest.raises(ConfigError, match=r"example\.yaml does not say which recipe to follow"):
        read_plan(written("seed: 1"))


def test_mistakes_in_the_header_and_in_the_rest_are_named_together(written, monkeypatch):
    monkeypatch.setitem(RECIPES, "tiny", "tests.train.tiny")
    with pytest.raises(ConfigError) as refusal:
        read_plan(written("recipe: tiny\nsed: 1\nprecision: 16\noptimizer: {clip: 0}"))

    assert "has 3 mistakes" in refusal.value.what
    assert "write 'seed'" in refusal.value.fix


def test_a_precision_of_32_need_not_be_quoted(written, monkeypatch):
    monkeypatch.setitem(RECIPES, "tiny", "tests.train.tiny")

    assert read_plan(written("recipe: tiny\nprecision: 32")).header.precision == "32"
