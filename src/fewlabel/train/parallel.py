"""Training on several devices or machines, through Lightning Fabric.

Gradients are averaged by hand rather than by a wrapper round each network, so that a turn may
move any part of any network, networks may share weights, and a loss may call whatever method
of a network it likes.
"""

from collections.abc import Iterable
from datetime import timedelta
from typing import TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor

T = TypeVar("T")

_LONGEST_WAIT = timedelta(days=1)
"""For another process, the first of which also scores what was trained."""


class Together:
    """This process among those that Fabric has started.

    Args:
        device: "cpu" or "cuda".
        devices: Processes on each machine, one per device.
        nodes: Machines.
    """

    def __init__(self, device: str, devices: int, nodes: int) -> None:
        strategy = DDPStrategy(timeout=_LONGEST_WAIT)
        self._fabric = Fabric(
            accelerator=device, devices=devices, num_nodes=nodes, strategy=strategy
        )
        self._fabric.launch()

    @property
    def device(self) -> str:
        """Device of this process, as torch names it."""
        return str(self._fabric.device)

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        return int(self._fabric.global_rank)

    @property
    def world(self) -> int:
        """Processes in all."""
        return int(self._fabric.world_size)

    @torch.no_grad()
    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its mean over all processes, in one exchange."""
        own = list(tensors)
        if not own:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in own])
        mean = self._fabric.all_reduce(flat, reduce_op="mean")
        assert isinstance(mean, Tensor)
        parts = torch.split(mean, [tensor.numel() for tensor in own])
        for tensor, part in zip(own, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def agree(self, value: T) -> T:
        """The value that rank 0 has."""
        agreed: T = self._fabric.broadcast(value, src=0)
        return agreed
