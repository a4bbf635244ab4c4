"""How a process that trains on a CPU is set up."""

import ctypes
import platform
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # names of mallopt's settings in malloc.h


def keep_memory() -> bool:
    """Make malloc keep freed blocks instead of handing them back to the system.

    It holds for the whole process. Measured in CPU seconds a step, one thread, on a U-Net with
    139 classes and a patch of 96 x 96 x 96 (torch 2.13, AMD Zen 4): a float32 step went from 8.0
    to 6.0 and a bfloat16 step from 4.1 to 3.7; peak memory rose from 2.6 to between 3.0 and 4.3 GB.

    Returns:
        Whether it could: this is a feature of glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, -1))


@contextmanager
def thin_in_32_bits(networks: Iterable[nn.Module]) -> Iterator[None]:
    """Let convolutions of images with fewer planes than their kernel compute in 32 bits.

    In 16 bits oneDNN, which torch calls on CPUs, gets the gradients of their weights wrong: of
    Conv3d(64, 64, 3) and 2 x 4 x 4 voxels they are off by more than their own size, or no numbers
    at all (torch 2.13, AMD Zen 4; right from 3 planes on, and with one). The deepest level of a
    U-Net often has two.
    """
    layers = [layer for net in networks for layer in net.modules() if isinstance(layer, nn.Conv3d)]
    entered: dict[nn.Module, ExitStack] = {}

    def before(layer: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
        (image,) = inputs
        if image.device.type != "cpu" or image.shape[2] >= cast("nn.Conv3d", layer).kernel_size[0]:
            return None
        entered[layer] = ExitStack()
        entered[layer].enter_context(torch.autocast("cpu", enabled=False))
        return (image.float(),)

    def after(layer: nn.Module, *_: Any) -> None:
        if layer in entered:
            entered.pop(layer).close()

    hooks = [layer.register_forward_pre_hook(before) for layer in layers]
    hooks += [layer.register_forward_hook(after, always_call=True) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
