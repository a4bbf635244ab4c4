"""Which weights move, how, and their running mean."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fewlabel.errors import ConfigError
from fewlabel.train.config import OptimizerConfig
from fewlabel.train.stage import Networks

State = dict[str, dict[str, Tensor]]
"""Weights and buffers by name, by network."""


def weights_under(networks: Networks, prefixes: tuple[str, ...]) -> list[nn.Parameter]:
    """The weights whose names start with any of `prefixes`, each once.

    Args:
        networks: By name, which is the first part of each weight's name.
        prefixes: Such as "net" or "net.decoders"; whole parts of a name only.

    Raises:
        ConfigError: If a prefix names nothing, as a typing slip would.
    """
    named = {
        f"{key}.{name}": weight
        for key, net in networks.items()
        for name, weight in net.named_parameters()
    }
    for prefix in prefixes:
        if not any(_within(name, prefix) for name in named):
            raise ConfigError(
                f"No weight is called {prefix!r}; the networks are {', '.join(networks)}.",
                fix="use names as in `dict(network.named_parameters())`, the network's name first.",
            )
    chosen = (weight for name, weight in named.items() if any(_within(name, p) for p in prefixes))
    return list({id(weight): weight for weight in chosen}.values())


def move_only(networks: Networks, prefixes: tuple[str, ...]) -> list[nn.Parameter]:
    """Let the weights under `prefixes` move and hold everything else still.

    Modules that neither hold nor contain moving weights are put in evaluation mode, so
    that running statistics of norm layers do not drift and dropout is off in them.

    Returns:
        The weights that move.

    Raises:
        ConfigError: If a prefix names nothing.
    """
    moving = weights_under(networks, prefixes)
    for key, net in networks.items():
        net.requires_grad_(False)
        for name, module in net.named_modules():
            full = f"{key}.{name}" if name else key
            module.training = any(_within(full, p) or _within(p, full) for p in prefixes)
    for weight in moving:
        weight.requires_grad_(True)
    return moving


def _within(name: str, prefix: str) -> bool:
    return f"{name}.".startswith(f"{prefix}.")


def make_optimizer(weights: list[nn.Parameter], config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer that `config` describes."""
    rate, decay = config.learning_rate, config.weight_decay
    if config.kind == "sgd":
        return torch.optim.SGD(
            weights,
            rate,
            momentum=config.momentum,
            weight_decay=decay,
            nesterov=config.momentum > 0,
        )
    kind = torch.optim.Adam if config.kind == "adam" else torch.optim.AdamW
    return kind(weights, rate, weight_decay=decay)


def gradients(weights: list[nn.Parameter]) -> list[Tensor]:
    """The gradient of each weight; zeros where a loss did not depend on it."""
    for weight in weights:
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
    return [weight.grad for weight in weights if weight.grad is not None]


def moving_statistics(networks: Networks) -> list[Tensor]:
    """Running means and the like of the layers that are trained."""
    modules = (module for net in networks.values() for module in net.modules() if module.training)
    buffers = {id(b): b for module in modules for b in module.buffers(recurse=False)}
    return [buffer for buffer in buffers.values() if buffer.is_floating_point()]


def state_of(networks: Networks) -> State:
    """Weights and buffers of every network; the tensors themselves, not copies."""
    return {name: net.state_dict() for name, net in networks.items()}


def load_state(networks: Networks, state: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Copy weights and buffers into the networks."""
    for name, net in networks.items():
        net.load_state_dict(state[name])


class RunningMean:
    """Exponential moving average of weights; buffers are taken as they are.

    Args:
        networks: Followed by `update`.
        keep: Share of the past in each update. The first steps forget faster, so that the
            mean does not remember the weights that training began with.
    """

    def __init__(self, networks: Networks, keep: float) -> None:
        self._live = state_of(networks)
        self._keep = keep
        self.state = _copy(self._live)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights as they are after `step`."""
        keep = min(self._keep, (1 + step) / (10 + step))
        for name, live in self._live.items():
            for key, value in live.items():
                mean = self.state[name][key]
                if value.is_floating_point():
                    mean.lerp_(value, 1 - keep)
                else:
                    mean.copy_(value)


def _copy(state: State) -> State:
    return {
        name: {key: value.detach().clone() for key, value in part.items()}
        for name, part in state.items()
    }


@contextmanager
def swapped_in(networks: Networks, state: State | None) -> Iterator[None]:
    """For a while, the networks hold other weights, in evaluation mode; then their own again."""
    own = _copy(state_of(networks))
    modes = [(m, m.training) for net in networks.values() for m in net.modules()]
    try:
        if state is not None:
            load_state(networks, state)
        for net in networks.values():
            net.eval()
        yield
    finally:
        load_state(networks, own)
        for module, mode in modes:
            module.training = mode
