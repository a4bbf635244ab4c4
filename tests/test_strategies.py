"""Which weights move under each strategy."""

import pytest

from fewlabel.errors import ConfigError
from fewlabel.nets.unet import UNet
from fewlabel.recipes.finetune import Config
from fewlabel.settings import check_settings
from fewlabel.strategies import PAPER, counts, record, trained_by
from fewlabel.train.weights import weights_under


def net_of(levels=5, **more):
    return UNet({"brain": 3}, channels=(2,) * levels, **more)


def names_of(net, trains):
    moving = {id(weight) for weight in weights_under({"net": net}, trains)}
    return [name for name, weight in net.named_parameters() if id(weight) in moving]


def parts_of(net, trains):
    """Levels, up-blocks and outputs that move wholly."""
    names = names_of(net, trains)
    levels = {int(n.split(".")[2]) for n in names if n.startswith("encoder.levels.")}
    ups = {int(n.split(".")[3]) for n in names if ".ups." in n}
    outs = {int(n.split(".")[3]) for n in names if ".outs." in n}
    return sorted(levels), sorted(ups), sorted(outs)


@pytest.mark.parametrize(
    ("strategy", "levels", "ups", "outs"),
    [
        ("inner-1", [3, 4], [0], [1, 2]),
        ("inner-2", [2, 3, 4], [0, 1], [1, 2]),
        ("inner-all", [1, 2, 3, 4], [0, 1, 2], [1, 2]),
        ("full", [0, 1, 2, 3, 4], [0, 1, 2, 3], [0, 1, 2]),
        ("scratch", [0, 1, 2, 3, 4], [0, 1, 2, 3], [0, 1, 2]),
    ],
)
def test_each_strategy_trains_the_blocks_of_the_papers_table(strategy, levels, ups, outs):
    net = net_of(depths=3, residual=True)

    assert parts_of(net, trained_by(strategy, net)) == (levels, ups, outs)


def test_nothing_moves_when_frozen():
    assert trained_by("frozen", net_of()) == ()


def test_the_list_and_count_of_trained_weights_are_those_worked_out_by_hand(tmp_path):
    net = UNet({"brain": 3}, channels=(2, 4, 8), depths=2)

    said = record(tmp_path, net, trained_by("inner-1", net))

    # A level has two convolutions and two norms: 4 * 2 * 27 + 4 * 4 * 27 + 4 * 4 = 664 numbers in
    # the middle, 8 * 4 * 27 + 8 * 8 * 27 + 4 * 8 = 2624 in the bottleneck. The first up-block has
    # 8 * 4 * 8 + 4 * 8 * 27 + 4 * 4 * 27 + 4 * 4 = 1568, the deep output 3 * 4 + 3 = 15.
    assert counts(tmp_path) == (6 + 6 + 7 + 2, 664 + 2624 + 1568 + 15)
    assert "21 of 36 weights move, 4,871 of " in said
    lines = (tmp_path / "trained_weights.tsv").read_text().splitlines()
    assert lines[0] == "weight\tshape\tnumbers\tnew"
    assert lines[1] == "encoder.levels.1.conv1.conv.weight\t4x2x3x3x3\t216\tFalse"
    assert lines[-1] == "decoders.brain.outs.1.conv.conv.bias\t3\t3\tFalse"


def test_an_inner_strategy_is_part_of_the_next_in_small_networks_too():
    for levels in (2, 3, 4):
        net = net_of(levels)
        moved = [
            set(names_of(net, trained_by(s, net))) for s in ("inner-1", "inner-2", "inner-all")
        ]
        assert moved[0]
        assert moved[0] <= moved[1] <= moved[2]
        assert not any(name.startswith("encoder.levels.0") for name in moved[2])


def test_levels_whose_numbers_begin_alike_are_told_apart():
    net = UNet({"brain": 2}, channels=(1,) * 12)

    assert parts_of(net, trained_by("inner-1", net))[0] == [10, 11]
    assert parts_of(net, ("net.encoder.levels.1",))[0] == [1]


def test_the_age_head_moves_with_the_bottleneck():
    net = net_of(age=True)

    assert "age.out.bias" in names_of(net, trained_by("inner-1", net))


def test_every_head_moves_alike():
    net = UNet({"brain": 3, "tissue": 4}, channels=(2, 2, 2))

    names = names_of(net, trained_by("inner-1", net))

    assert {name.split(".")[1] for name in names if ".ups.0." in name} == {"brain", "tissue"}


def test_new_weights_move_whatever_the_strategy():
    net = net_of(depths=2)
    fresh = ("decoders.brain.outs.0.conv.conv.bias", "decoders.brain.outs.1.conv.conv.bias")

    trains = trained_by("inner-1", net, fresh)

    assert f"net.{fresh[0]}" in trains
    assert f"net.{fresh[1]}" not in trains, "its block moves anyway"
    assert trained_by("frozen", net, fresh) == ()


@pytest.mark.parametrize("own", PAPER)
def test_the_papers_names_are_understood(own):
    config = {"source": "x", "data": {"cohort": "x.tsv"}, "strategy": PAPER[own].title()}

    assert Config.model_validate(config).strategy == own


def test_the_papers_deep_is_most_of_the_network_unlike_in_its_code():
    net = net_of(depths=2)
    numbers = {
        paper: sum(w.numel() for w in weights_under({"net": net}, trained_by(own, net)))
        for own, paper in PAPER.items()
        if own.startswith("inner")
    }

    assert numbers["shallow"] < numbers["medium"] < numbers["deep"]


def test_another_strategy_is_refused_with_what_there_is():
    config = {"source": "x", "data": {"cohort": "x.tsv"}, "strategy": "inner-3"}

    with pytest.raises(ConfigError, match="'frozen', 'inner-1', 'inner-2', 'inner-all', 'full'"):
        check_settings(config, Config, "my.yaml")


def test_a_record_that_says_the_same_is_left_alone(tmp_path):
    net = net_of()
    record(tmp_path, net, ("net",))
    before = (tmp_path / "trained_weights.tsv").stat().st_mtime_ns

    record(tmp_path, net, ("net",))

    assert (tmp_path / "trained_weights.tsv").stat().st_mtime_ns == before
