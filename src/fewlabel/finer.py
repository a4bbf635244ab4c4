"""A trained U-Net as the part at half resolution of one that looks at voxels half as large."""

from collections.abc import Mapping

import torch
from torch import Tensor

from fewlabel.errors import ConfigError
from fewlabel.nets.unet import UNet, last_layer
from fewlabel.surgery import heads_of, shape_of

_FIRST = "encoder.levels.0.conv1.conv.weight"
_AROUND = "encoder.levels.0.conv3.conv.weight"  # of a residual block: past its convolutions


@torch.no_grad()
def begin_finer(net: UNet, weights: Mapping[str, Tensor]) -> None:
    """Give a network with a layer at full resolution the weights of one without.

    It then says of an image what the other says of the means of its blocks of 2 x 2 x 2 voxels,
    interpolated linearly before the last layer: nothing is lost, and all that full resolution can
    tell is yet to be learned.

    Args:
        net: Network to fill, with `fine` as many maps as its first level, `fine_norm` off, `first`
            7, and 2 depths.
        weights: Of a network with the same channels and heads, which begins at full resolution.

    Raises:
        ConfigError: If the two do not go together.
    """
    own = net.state_dict()
    filled = {key: value.float() for key, value in weights.items() if not _is_output(key)}
    filled[_FIRST] = _spread(filled[_FIRST])
    if _AROUND in filled:
        filled[_AROUND] = filled[_AROUND].repeat(1, 1, 2, 2, 2) / 8
    for head in heads_of(weights):
        for depth in range(2):
            for part in ("weight", "bias"):
                filled[f"{last_layer(head, depth)}.{part}"] = weights[f"{last_layer(head)}.{part}"]
        maps, modalities = weights[f"{last_layer(head)}.weight"].shape[1], filled[_FIRST].shape[1]
        finest = f"decoders.{head}.finest"
        filled[f"{finest}.up.conv.weight"] = _copying(maps)
        filled[f"{finest}.conv.conv.weight"] = _interpolating(maps, modalities)
    theirs = {key: tuple(value.shape) for key, value in filled.items()}
    if theirs != {key: tuple(value.shape) for key, value in own.items()}:
        raise ConfigError(
            f"A network of {shape_of(own)} cannot go on from one of {shape_of(weights)}.",
            fix="use the same `channels` and protocol, and as many maps in `fine` as in the"
            " first of `channels`.",
        )
    net.load_state_dict(filled)


def _is_output(key: str) -> bool:
    return key.startswith("decoders.") and key.split(".")[2] == "outs"


def _spread(kernel: Tensor) -> Tensor:
    """A kernel of 3 x 3 x 3 for means of 2 x 2 x 2 voxels, as one of 7 x 7 x 7 for the voxels."""
    wide = kernel.new_zeros(*kernel.shape[:2], 7, 7, 7)
    for axis in (2, 3, 4):
        kernel = kernel.repeat_interleave(2, dim=axis) / 2
    wide[:, :, 1:, 1:, 1:] = kernel
    return wide


def _copying(maps: int) -> Tensor:
    """A transposed convolution that repeats each voxel 2 x 2 x 2 times."""
    return torch.eye(maps)[..., None, None, None].repeat(1, 1, 2, 2, 2)


def _interpolating(maps: int, modalities: int) -> Tensor:
    """A convolution that turns repeated voxels into linear interpolation, blind to the image."""
    row = torch.tensor([0.25, 0.5, 0.25])
    kernel = torch.einsum("i,j,k->ijk", row, row, row)
    weight = torch.zeros(maps, maps + modalities, 3, 3, 3)
    weight[range(maps), range(maps)] = kernel
    return weight
