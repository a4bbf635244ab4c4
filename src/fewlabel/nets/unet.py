"""A 3D U-Net with one encoder and any number of decoders."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Float
from monai.networks.blocks.dynunet_block import (
    UnetBasicBlock,
    UnetOutBlock,
    UnetResBlock,
    UnetUpBlock,
)
from torch import Tensor, nn

from fewlabel.nets.age import AgeHead

AGE = "age_weeks"
"""Key of the age among the outputs, beside the names of heads."""

_NORM = ("INSTANCE", {"affine": True})
_ACT = ("leakyrelu", {"inplace": True, "negative_slope": 0.01})


class Encoder(nn.Module):
    """Features at full resolution, half of it, a quarter, and so on.

    Args:
        in_channels: Modalities.
        channels: Feature maps per level; each level halves the resolution of the one before.
        residual: Whether each block adds its input to its output.
    """

    def __init__(self, in_channels: int, channels: Sequence[int], *, residual: bool) -> None:
        super().__init__()
        block = UnetResBlock if residual else UnetBasicBlock
        sizes = zip((in_channels, *channels[:-1]), channels, strict=True)
        self.levels = nn.ModuleList(
            block(3, before, after, 3, 1 if n == 0 else 2, _NORM, _ACT)
            for n, (before, after) in enumerate(sizes)
        )

    def forward(self, x: Float[Tensor, "b c i j k"]) -> list[Tensor]:
        """Features of every level, finest first; the last is the bottleneck."""
        features = []
        for level in self.levels:
            x = level(x)
            features.append(x)
        return features


class Decoder(nn.Module):
    """From an encoder's features to the logits of one protocol.

    Args:
        channels: The encoder's feature maps per level.
        n_classes: Classes, background included.
        depths: Resolutions that get logits: 1 for the finest only, more for deep supervision.
    """

    def __init__(self, channels: Sequence[int], n_classes: int, *, depths: int = 1) -> None:
        super().__init__()
        self.ups = nn.ModuleList(
            UnetUpBlock(3, channels[n + 1], channels[n], 3, 2, 2, _NORM, _ACT)
            for n in reversed(range(len(channels) - 1))
        )
        self.outs = nn.ModuleList(UnetOutBlock(3, channels[n], n_classes) for n in range(depths))

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Logits per supervised resolution, finest first."""
        x = features[-1]
        finest_first: list[Tensor] = []
        for up, skip in zip(self.ups, reversed(features[:-1]), strict=True):
            x = up(x, skip)
            finest_first.insert(0, x)
        return [out(finest_first[n]) for n, out in enumerate(self.outs)]


class UNet(nn.Module):
    """One encoder, one decoder per head.

    The size of the input must be divisible by `stride`.

    Args:
        heads: Head name to number of classes, background included.
        in_channels: Modalities.
        channels: Feature maps per level, finest first.
        residual: Residual instead of plain blocks.
        depths: Resolutions with logits while training; see `deep`.
        age: Whether it tells the age at scan too.

    Source:
        Two convolutions a level, strided, instance norm, LeakyReLU 0.01 as in dai2019 (section
        3.2); residual blocks and deep supervision as in richter2022.
    """

    def __init__(
        self,
        heads: Mapping[str, int],
        *,
        in_channels: int = 1,
        channels: Sequence[int] = (16, 32, 64, 128, 160),
        residual: bool = False,
        depths: int = 1,
        age: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(in_channels, channels, residual=residual)
        self.decoders = nn.ModuleDict(
            {name: Decoder(channels, n, depths=depths) for name, n in heads.items()}
        )
        self.age = AgeHead(channels[-1]) if age else None
        self.stride = 2 ** (len(channels) - 1)

    def forward(self, x: Float[Tensor, "b c i j k"]) -> dict[str, Tensor]:
        """Logits at full resolution per head, shape (b, classes, i, j, k).

        A network that tells the age adds "age_weeks", shape (b,).
        """
        found = self.deep(x)
        return {name: value if name == AGE else value[0] for name, value in found.items()}

    def deep(self, x: Float[Tensor, "b c i j k"]) -> dict[str, Any]:
        """Logits of every supervised resolution per head, finest first; and "age_weeks"."""
        features = self.encoder(x)
        found: dict[str, Any] = {name: head(features) for name, head in self.decoders.items()}
        if self.age is not None:
            found[AGE] = self.age(features[-1])
        return found
