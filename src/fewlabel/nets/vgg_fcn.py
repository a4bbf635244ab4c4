"""VGG-16 made to label every pixel: side layers on each stage, combined linearly."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Channels of the convolutions of each stage."""


class VggFcn(nn.Module):
    """The convolutions of VGG-16, a side layer on each stage, one linear combination per head.

    Args:
        heads: Head name to number of classes, background included.
        side_maps: K, the feature maps of each side layer.
        stages: How many stages are used, finest first; 4 leaves out the coarsest.
        mean: Taken off the shades of the three channels.

    Source:
        xu2017, section 3 and figure 2; the names of the convolutions' weights are torchvision's.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        heads: Mapping[str, int],
        *,
        side_maps: int = 16,
        stages: int = 5,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self.ends: list[int] = []
        before = 3
        for number, channels in enumerate(STAGES[:stages]):
            layers += [nn.MaxPool2d(2)] if number else []
            for after in channels:
                layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(inplace=True)]
                before = after
            self.ends.append(len(layers))
        self.features = nn.Sequential(*layers)
        self.sides = nn.ModuleList(
            nn.Conv2d(channels[-1], side_maps, 3, padding=1) for channels in STAGES[:stages]
        )
        self.combine = nn.ModuleDict(
            {name: nn.Conv2d(side_maps * stages, n, 1) for name, n in heads.items()}
        )
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.ones(stages))
        self.stride: int = 2 ** (stages - 1)
        self.reset()

    def reset(self) -> None:
        """Random weights everywhere, from torch's generator; the mean and the scale stay."""
        for layer in self.features:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        for layer in (*self.sides, *self.combine.values()):
            assert isinstance(layer, nn.Conv2d)
            nn.init.normal_(layer.weight, std=layer.weight[0].numel() ** -0.5)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def stages(self, x: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """What each stage of VGG-16 makes of shades from 0 to 255, before it is pooled."""
        x = x - self.mean
        found, start = [], 0
        for end in self.ends:
            x = self.features[start:end](x)
            found.append(x)
            start = end
        return found

    @torch.no_grad()
    def even_out(self, x: Float[Tensor, "b 3 h w"]) -> None:
        """Set the scale so that the maps of each stage have a root mean square of 1.

        For photographs they range over a factor of a thousand between stages, and one learning
        rate then cannot suit the side layers of all.

        Args:
            x: Some images of the kind that will be learned from.
        """
        squares = [maps.square().mean() for maps in self.stages(x)]
        self.scale.copy_(torch.stack(squares).clamp(min=1e-12).rsqrt())

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> dict[str, Tensor]:
        """Logits per head, shape (b, classes, h, w), from shades 0 to 255.

        Side layers are combined before they are enlarged: both are linear, so the order does
        not matter, and there are fewer classes than side maps to enlarge.
        """
        maps = [
            side(found * scale)
            for side, found, scale in zip(self.sides, self.stages(x), self.scale, strict=True)
        ]
        return {name: self._combined(layer, maps) for name, layer in self.combine.items()}

    def _combined(self, layer: nn.Module, maps: list[Tensor]) -> Tensor:
        assert isinstance(layer, nn.Conv2d)
        parts = torch.split(layer.weight, maps[0].shape[1], dim=1)
        total = F.conv2d(maps[0], parts[0], layer.bias)
        size = maps[0].shape[2:]
        for weight, coarse in zip(parts[1:], maps[1:], strict=True):
            small = F.conv2d(coarse, weight)
            total = total + F.interpolate(small, size, mode="bilinear", align_corners=False)
        return total
