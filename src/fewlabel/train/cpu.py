"""How a process that trains on a CPU is set up."""

import ctypes
import platform
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import cast

import torch
from torch import Tensor, nn

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # names of mallopt's settings in malloc.h
_TORCHS_OWN = 20_480  # channels times planes times rows, in `use_mkldnn` of its Convolution.cpp


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
def convolving_well(networks: Iterable[nn.Module]) -> Iterator[None]:
    """Let convolutions on the CPU compute what they should, and no slower than they could.

    torch calls oneDNN for them, with two exceptions to be made (torch 2.13):

    - In 16 bits oneDNN gets the gradients of weights wrong where images have fewer planes than
      the kernel: of Conv3d(64, 64, 3) and 2 x 4 x 4 voxels they are off by more than their own
      size, or no numbers at all (AMD Zen 4; right from 3 planes on, and with one). The deepest
      level of a U-Net often has two. These are computed in 32 bits.
    - In 32 bits torch computes a single small image by itself, and takes two to six times as long
      (one thread, AMD Zen 3); a step of a U-Net of 8 to 80 channels on 48 x 48 x 48 voxels took
      3.4 times as long. An image that comes in oneDNN's own wrapping goes there.
    """
    layers = [layer for net in networks for layer in net.modules() if isinstance(layer, nn.Conv3d)]
    entered: dict[nn.Module, ExitStack] = {}
    # Not on every processor.
    has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]

    def before(layer: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
        (image,), (edge, *_) = inputs, cast("nn.Conv3d", layer).kernel_size
        if image.device.type != "cpu":
            return None
        if image.shape[2] < edge:
            entered[layer] = ExitStack()
            entered[layer].enter_context(torch.autocast("cpu", enabled=False))
            return (image.float(),)
        in_32_bits = image.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        small = len(image) == 1 and image[0, ..., 0].numel() <= _TORCHS_OWN
        return (image.to_mkldnn(),) if has_onednn and in_32_bits and small and edge > 1 else None

    def after(layer: nn.Module, _: object, found: Tensor | None) -> Tensor | None:
        if layer in entered:
            entered.pop(layer).close()
        return found.to_dense() if found is not None and found.is_mkldnn else None

    hooks = [layer.register_forward_pre_hook(before) for layer in layers]
    hooks += [layer.register_forward_hook(after, always_call=True) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
