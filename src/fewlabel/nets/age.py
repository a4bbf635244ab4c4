"""Age at scan, told from the deepest features of a U-Net."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

Ages = tuple[float, float]
_DHCP: Ages = (26.0, 45.0)


class AgeHead(nn.Module):
    """From the bottleneck to an age in weeks.

    An untrained head says the middle of the ages that it expects, give or take little: so the
    loss is well scaled from the first step on. What it expects is kept with the weights.

    Args:
        channels: Feature maps of the bottleneck.

    Source:
        richter2022, AgeU-Net. Departs from it: the published head is two convolutions of 512 and
        1024 maps without padding, flattened into a linear layer, so it fits fields of one size
        only. Ours are as wide as the bottleneck, and a weighted mean over the field goes into the
        linear layer, with weights that are learned: any field will do, and how much empty space
        surrounds the brain in it matters little.
    """

    ages_weeks: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv3d(channels, channels, 3, padding=1)
        self.second = nn.Conv3d(channels, channels, 3, padding=1)
        self.weight = nn.Conv3d(channels, 1, 1)
        self.out = nn.Linear(channels, 1)
        self.register_buffer("ages_weeks", torch.tensor(_DHCP))

    @property
    def range_weeks(self) -> Ages:
        """Youngest and oldest that it expects."""
        youngest, oldest = self.ages_weeks.tolist()
        return youngest, oldest

    def expect(self, range_weeks: Ages) -> None:
        """Say around what ages to begin: the youngest and the oldest to learn from."""
        self.ages_weeks.copy_(torch.tensor(range_weeks))

    def forward(self, bottleneck: Float[Tensor, "b c i j k"]) -> Float[Tensor, "b"]:
        """Age of each sample in weeks."""
        x = F.leaky_relu(self.first(bottleneck), 0.01)
        x = F.leaky_relu(self.second(x), 0.01)
        share = self.weight(x).flatten(2).softmax(2)
        place = self.out((x.flatten(2) * share).sum(2))[:, 0].float()
        youngest, oldest = self.ages_weeks[0], self.ages_weeks[1]
        spread = ((oldest - youngest) / 2).clamp(min=1.0)
        weeks: Tensor = (youngest + oldest) / 2 + spread * place
        return weeks
