"""The loop: what moves, what stays, what is kept."""

import pytest
import torch
from torch import nn

from fewlabel.errors import ConfigError
from fewlabel.train import OptimizerConfig, Run, Stage, Turn, Workplace, train
from fewlabel.train.checkpoint import load_weights
from fewlabel.train.history import History
from fewlabel.train.ranks import Alone, batch_number
from tests.train import tiny

SGD = OptimizerConfig(kind="sgd", learning_rate=0.1, momentum=0.0, clip=1e9)


def number(n):
    return {"x": torch.tensor(float(n))}


def pull(networks, batch):
    """Its gradient is the batch's number."""
    return {"total": (networks["net"].weight * batch["x"]).sum()}


@pytest.fixture
def net():
    """One weight, which starts at 0."""
    net = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(net.weight)
    return net


def stage_of(net, *turns, steps, optimizer=SGD, **more):
    return Stage("only", {"net": net}, turns, optimizer, steps, **more)


def test_a_step_goes_against_the_mean_gradient_of_its_batches(net, tmp_path):
    turn = Turn(("net",), number, pull)
    twice = SGD.model_copy(update={"accumulate": 2})

    train([stage_of(net, turn, steps=2, optimizer=twice)], Run(tmp_path))

    assert net.weight.item() == pytest.approx(-0.1 * ((0 + 1) / 2 + (2 + 3) / 2))


def test_long_gradients_are_shortened_to_clip(net, tmp_path):
    turn = Turn(("net",), lambda _: number(100), pull)
    clipped = SGD.model_copy(update={"clip": 2.0})

    train([stage_of(net, turn, steps=1, optimizer=clipped)], Run(tmp_path))

    assert net.weight.item() == pytest.approx(-0.1 * 2)


class RankOf(Alone):
    """One of several processes, as far as numbers go."""

    def __init__(self, rank, world):
        self.rank, self.world = rank, world


def test_two_ranks_are_dealt_what_one_gets_with_twice_the_accumulation():
    for step in range(3):
        dealt = {batch_number(step, 0, 1, RankOf(rank, 2)) for rank in (0, 1)}
        assert dealt == {batch_number(step, part, 2, Alone()) for part in (0, 1)}


def test_turns_take_their_steps_in_a_row_and_hold_the_rest_still(tmp_path):
    net = nn.Sequential(nn.BatchNorm1d(1), nn.Dropout(0.5), nn.Linear(1, 1))
    seen = []

    def turn(name, part, times):
        def loss(networks, batch):
            modes = [module.training for module in networks["net"]]
            seen.append((name, modes, [w.requires_grad for w in networks["net"].parameters()]))
            return {"total": networks["net"](batch["x"]).mean()}

        return Turn((part,), lambda _: {"x": torch.ones(2, 1)}, loss, times)

    train([stage_of(net, turn("norm", "net.0", 2), turn("line", "net.2", 1), steps=6)],
          Run(tmp_path))  # fmt: skip

    assert [name for name, _, _ in seen] == ["norm", "norm", "line"] * 2
    assert seen[0][1:] == ([True, False, False], [True, True, False, False])
    assert seen[2][1:] == ([False, False, True], [False, False, True, True])
    assert int(net[0].num_batches_tracked) == 4, "statistics moved in its own turns only"


def test_the_weights_kept_are_the_running_mean_if_one_is_asked_for(net, tmp_path):
    turn = Turn(("net",), lambda _: number(1), pull)
    slow = SGD.model_copy(update={"ema": 0.999})

    train([stage_of(net, turn, steps=2, optimizer=slow)], Run(tmp_path))

    first = 0.1 * 0 + 0.9 * -0.1  # keeps (1 + 0) / (10 + 0) of the past after the first step
    second = 2 / 11 * first + 9 / 11 * -0.2
    assert net.weight.item() == pytest.approx(second)


def test_the_best_validated_weights_win_and_patience_ends_the_stage(net, tmp_path):
    turn = Turn(("net",), lambda _: number(1), pull)
    scores = iter([0.5, 0.9, 0.7, 0.8])
    stage = stage_of(
        net,
        turn,
        steps=100,
        validate=lambda _: {"score": next(scores)},
        validate_every=1,
        patience=2,
    )

    train([stage], Run(tmp_path))

    assert net.weight.item() == pytest.approx(-0.2), "the weights after the second step"
    rows = History(tmp_path / "history.csv").rows()
    found = [(step, value) for _, step, name, value in rows if name == "validation score"]
    assert found == [(1, 0.5), (2, 0.9), (3, 0.7), (4, 0.8)]


def test_a_stage_without_steps_is_validated_once_and_kept(net, tmp_path):
    with torch.no_grad():
        net.weight.fill_(3)
    stage = stage_of(net, steps=0, validate=lambda nets: {"score": nets["net"].weight.item()})

    train([stage], Run(tmp_path))
    train([stage], Run(tmp_path))

    assert History(tmp_path / "history.csv").rows() == [("only", 0, "validation score", 3.0)]
    assert load_weights(tmp_path / "only" / "final.safetensors")["net"]["weight"].item() == 3


def test_validation_sees_networks_at_rest_and_leaves_them_as_they_were(tmp_path):
    net = nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.5))
    modes = []

    def loss(networks, batch):
        modes.append(networks["net"].training)
        return {"total": networks["net"](batch["x"].view(1, 1)).sum()}

    def validate(networks):
        modes.append(networks["net"].training or torch.is_grad_enabled())
        return {"score": 0.0}

    stage = stage_of(net, Turn(("net",), number, loss), steps=2, validate=validate,
                     validate_every=1)  # fmt: skip
    train([stage], Run(tmp_path))

    assert modes == [True, False, True, False]


def test_a_loss_that_is_no_number_ends_the_run_and_spares_the_checkpoint(net, tmp_path):
    def loss(networks, batch):
        value = pull(networks, batch)["total"]
        return {"total": value * float("nan") if batch["x"] >= 5 else value}

    stage = stage_of(net, Turn(("net",), number, loss), steps=10)
    with pytest.raises(ConfigError, match="loss 'total' of stage 'only' became nan before step 6"):
        train([stage], Run(tmp_path, checkpoint_every=1))

    last = torch.load(tmp_path / "only" / "last.pt", weights_only=True)
    assert last["step"] == 5
    assert torch.isfinite(last["networks"]["net"]["weight"]).all()


def test_a_weight_prefix_that_names_nothing_is_refused(net, tmp_path):
    stage = stage_of(net, Turn(("net.weigth",), number, pull), steps=1)

    with pytest.raises(ConfigError, match=r"No weight is called 'net\.weigth'; the networks are"):
        train([stage], Run(tmp_path))


def test_bfloat16_is_used_for_the_network_and_float32_for_its_weights(tmp_path):
    net = nn.Linear(1, 1)
    seen = []

    def loss(networks, batch):
        out = networks["net"](batch["x"].view(1, 1))
        seen.append(out.dtype)
        return {"total": out.float().sum()}

    train([stage_of(net, Turn(("net",), number, loss), steps=1)], Run(tmp_path, precision="bf16"))

    assert seen == [torch.bfloat16]
    assert load_weights(tmp_path / "only" / "final.safetensors")["net"]["weight"].dtype == (
        torch.float32
    )


def test_the_tiny_problem_is_learned(tmp_path):
    config = tiny.Config(first_steps=40)
    networks = train(tiny.stages(config, 0, Workplace(tmp_path, tmp_path)), Run(tmp_path))

    assert tiny.score(networks)["score"] > 0.9
