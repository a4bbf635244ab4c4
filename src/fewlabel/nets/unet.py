"""A 3D U-Net with one encoder and any number of decoders."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from monai.networks.blocks.dynunet_block import (
    UnetBasicBlock,
    UnetOutBlock,
    UnetResBlock,
    UnetUpBlock,
    get_conv_layer,
)
from torch import Tensor, nn
from torch.nn import functional as F

from fewlabel.labels import UNLABELED
from fewlabel.nets.age import AgeHead

AGE = "age_weeks"
"""Key of the age among the outputs, beside the names of heads."""

Window = tuple[slice, slice, slice]

_NORM = ("INSTANCE", {"affine": True})
_ACT = ("leakyrelu", {"inplace": True, "negative_slope": 0.01})


def stride_of(channels: Sequence[int], fine: int = 0) -> int:
    """What the size of an image must be divisible by for a `UNet` of these arguments.

    >>> stride_of((4, 8, 8)), stride_of((4, 8, 8), fine=2)
    (4, 8)
    """
    halvings: int = len(channels) - 1 + bool(fine)
    return int(2**halvings)


def last_layer(head: str, depth: int = 0) -> str:
    """Name of the layer that gives a head's logits, at full resolution or another depth."""
    return f"decoders.{head}.outs.{depth}.conv.conv"


class Encoder(nn.Module):
    """Features at full resolution, half of it, a quarter, and so on.

    Args:
        in_channels: Modalities.
        channels: Feature maps per level; each level halves the resolution of the one before.
        residual: Whether each block adds its input to its output.
        begin: 2 if the first level halves the resolution of the image already.
        first: Edge of the first convolution's kernel, odd.
    """

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int],
        *,
        residual: bool,
        begin: int = 1,
        first: int = 3,
    ) -> None:
        super().__init__()
        block = UnetResBlock if residual else UnetBasicBlock
        sizes = zip((in_channels, *channels[:-1]), channels, strict=True)
        self.levels = nn.ModuleList(
            block(3, before, after, 3, begin if n == 0 else 2, _NORM, _ACT)
            for n, (before, after) in enumerate(sizes)
        )
        if first != 3:
            self.levels[0].conv1 = get_conv_layer(3, in_channels, channels[0], first, begin)
            if residual:  # what is added is all of a block of voxels too, not one of them
                self.levels[0].conv3 = get_conv_layer(3, in_channels, channels[0], begin, begin)

    def forward(self, x: Float[Tensor, "b c i j k"]) -> list[Tensor]:
        """Features of every level, finest first; the last is the bottleneck."""
        features = []
        for level in self.levels:
            x = level(x)
            features.append(x)
        return features


def inside(classes: Int[Tensor, "b i j k"], window: Window | None) -> Int[Tensor, "b x y z"]:
    """Labels of a window, its rim left out, as logits there lack the voxels beyond."""
    if window is None:
        return classes
    kept = classes[(slice(None), *window)][:, 1:-1, 1:-1, 1:-1]
    return F.pad(kept, (1,) * 6, value=UNLABELED)


class Finest(nn.Module):
    """From features at half the resolution, and the image itself, to features at all of it.

    A block of two convolutions on either side of a U-Net costs more at full resolution than all
    else together. One, over maps whose upsampling has weights for each of the eight places in a
    coarse voxel, is a quarter of that.

    Args:
        in_channels: Modalities.
        before: Feature maps at half the resolution.
        after: Feature maps at full resolution.
        norm: Whether its maps are normalized. Without it a part of the image can be computed by
            itself, and comes out the same.
    """

    def __init__(self, in_channels: int, before: int, after: int, *, norm: bool) -> None:
        super().__init__()
        self.up = get_conv_layer(3, before, after, 2, 2, is_transposed=True)
        self.conv = get_conv_layer(
            3, after + in_channels, after, 3, 1, _ACT, _NORM if norm else None, conv_only=False
        )

    def forward(
        self, features: Float[Tensor, "b c i j k"], image: Float[Tensor, "b m x y z"]
    ) -> Float[Tensor, "b d x y z"]:
        """Features where the image has voxels."""
        found: Tensor = self.conv(torch.cat((self.up(features), image), dim=1))
        return found


class Decoder(nn.Module):
    """From an encoder's features to the logits of one protocol.

    Args:
        channels: The encoder's feature maps per level.
        n_classes: Classes, background included.
        depths: Resolutions that get logits: 1 for the finest only, more for deep supervision.
        finest: A last step to twice the resolution of the encoder, if there is one, and how many
            maps it gives.
    """

    def __init__(
        self,
        channels: Sequence[int],
        n_classes: int,
        *,
        depths: int = 1,
        finest: tuple[Finest, int] | None = None,
    ) -> None:
        super().__init__()
        self.ups = nn.ModuleList(
            UnetUpBlock(3, channels[n + 1], channels[n], 3, 2, 2, _NORM, _ACT)
            for n in reversed(range(len(channels) - 1))
        )
        self.finest = finest[0] if finest else None
        maps = (finest[1], *channels) if finest else channels
        self.outs = nn.ModuleList(UnetOutBlock(3, maps[n], n_classes) for n in range(depths))

    def forward(
        self, features: list[Tensor], image: Tensor, window: Window | None = None
    ) -> list[Tensor]:
        """Logits per supervised resolution, finest first; the finest in a window only, if any."""
        maps = self.maps(features, image, window)
        return [out(maps[n]) for n, out in enumerate(self.outs)]

    def maps(
        self, features: list[Tensor], image: Tensor, window: Window | None = None
    ) -> list[Tensor]:
        """What the logits of each resolution are made of, finest first."""
        x = features[-1]
        finest_first: list[Tensor] = []
        for up, skip in zip(self.ups, reversed(features[:-1]), strict=True):
            x = up(x, skip)
            finest_first.insert(0, x)
        if self.finest is not None:
            finest_first.insert(0, _in_window(self.finest, x, image, window))
        return finest_first


def _in_window(finest: Finest, x: Tensor, image: Tensor, window: Window | None) -> Tensor:
    """The finest features of a window. A voxel at its rim sees zeros beyond, as at the image's."""
    if window is not None:
        i, j, k = (slice(part.start // 2, part.stop // 2) for part in window)
        x, image = x[..., i, j, k], image[(..., *window)]
    found: Tensor = finest(x, image)
    return found


class UNet(nn.Module):
    """One encoder, one decoder per head.

    The size of the input must be divisible by `stride`. With `in_windows` its finest logits can be
    had of a part of the image, at the price of that part.

    Args:
        heads: Head name to number of classes, background included.
        in_channels: Modalities.
        channels: Feature maps per level, finest first.
        residual: Residual instead of plain blocks.
        depths: Resolutions with logits while training; see `deep`.
        age: Whether it tells the age at scan too.
        fine: 0: the levels begin at full resolution. Else they begin at half of it, and the full
            resolution has one layer of so many feature maps, which sees the image; see `Finest`.
        fine_norm: Whether that layer has a norm; without it, it can be trained in windows.
        first: Edge of the first convolution's kernel. With `fine`, 7 is what 3 is to a network
            that begins at half the resolution.

    Source:
        Two convolutions a level, strided, instance norm, LeakyReLU 0.01 as in dai2019 (section
        3.2); residual blocks and deep supervision as in richter2022. `fine` is ours.
    """

    def __init__(  # noqa: PLR0913  (what there is to choose)
        self,
        heads: Mapping[str, int],
        *,
        in_channels: int = 1,
        channels: Sequence[int] = (16, 32, 64, 128, 160),
        residual: bool = False,
        depths: int = 1,
        age: bool = False,
        fine: int = 0,
        fine_norm: bool = True,
        first: int = 3,
    ) -> None:
        super().__init__()
        begin = 2 if fine else 1
        self.encoder = Encoder(in_channels, channels, residual=residual, begin=begin, first=first)

        def decoder(n_classes: int) -> Decoder:
            layer = Finest(in_channels, channels[0], fine, norm=fine_norm) if fine else None
            finest = (layer, fine) if layer else None
            return Decoder(channels, n_classes, depths=depths, finest=finest)

        self.decoders = nn.ModuleDict({name: decoder(n) for name, n in heads.items()})
        self.age = AgeHead(channels[-1]) if age else None
        self.tells_age = age
        self.stride = stride_of(channels, fine)
        self.in_windows = bool(fine) and not fine_norm

    def forward(self, x: Float[Tensor, "b c i j k"]) -> dict[str, Tensor]:
        """Logits at full resolution per head, shape (b, classes, i, j, k).

        A network that tells the age adds "age_weeks", shape (b,).
        """
        found = self.deep(x)
        return {name: value if name == AGE else value[0] for name, value in found.items()}

    def features(self, x: Float[Tensor, "b c i j k"]) -> dict[str, Tensor]:
        """What the logits at full resolution are made of, per head, shape (b, maps, i, j, k).

        A network that tells the age adds "age_weeks", shape (b,).
        """
        seen = self.encoder(x)
        heads = {name: cast("Decoder", head) for name, head in self.decoders.items()}
        return {name: head.maps(seen, x)[0] for name, head in heads.items()} | self._told(seen)

    def last_of(self, head: str) -> tuple[Tensor, Tensor]:
        """Weights and biases that make logits of them."""
        weight, bias = self.get_submodule(last_layer(head)).parameters()
        return weight, bias

    def deep(self, x: Float[Tensor, "b c i j k"], window: Window | None = None) -> dict[str, Any]:
        """Logits of every supervised resolution per head, finest first; and "age_weeks".

        Args:
            x: The image.
            window: Voxels, in even numbers, whose finest logits are wanted; the levels below, which
                have norms, see the whole image. Needs `in_windows`.
        """
        features = self.encoder(x)
        found: dict[str, Any] = {
            name: head(features, x, window) for name, head in self.decoders.items()
        }
        return found | self._told(features)

    def _told(self, features: list[Tensor]) -> dict[str, Tensor]:
        """The age, if it tells one."""
        return {} if self.age is None else {AGE: self.age(features[-1])}
