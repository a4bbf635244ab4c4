"""A U-Net that looks at each image twice: as it is, and in a mirror."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Int16
from torch import Tensor, nn

from fewlabel.labels import LabelProtocol
from fewlabel.nets.unet import AGE, UNet


class Mirrored(nn.Module):
    """Logits averaged with those of the mirrored image, left and right exchanged back; ages too.

    Costs twice the time. What it says of a mirrored head is the mirror image of what it says
    of the head, exactly. The mean is taken by one last layer that sees the features of both
    images, so that an engine can compute it for few voxels at a time, as for any U-Net.

    Args:
        network: As it is; its last layers are copied. Axis i of its input leads to the subject's
            right or left.
        heads: Protocol of each head, which tells the classes of either side.
    """

    def __init__(self, network: UNet, heads: Mapping[str, LabelProtocol]) -> None:
        super().__init__()
        self.network = network
        self.tells_age = network.tells_age
        self.last = nn.ModuleDict(
            {
                name: _for_both(*network.last_of(name), head.mirrored())
                for name, head in heads.items()
            }
        )

    def forward(self, image: Float[Tensor, "b c i j k"]) -> dict[str, Tensor]:
        """Logits per head, shape (b, classes, i, j, k); "age_weeks", shape (b,), if it is told."""
        found = self.features(image)
        return found | {head: last(found[head]) for head, last in self.last.items()}

    def features(self, image: Float[Tensor, "b c i j k"]) -> dict[str, Tensor]:
        """What the logits are made of, per head, shape (b, maps, i, j, k); and the age."""
        straight = self.network.features(image)
        turned = self.network.features(image.flip(2))
        found = {
            head: torch.cat((straight[head], turned[head].flip(2)), dim=1) for head in self.last
        }
        if AGE in straight:
            found[AGE] = (straight[AGE] + turned[AGE]) / 2
        return found

    def last_of(self, head: str) -> tuple[Tensor, Tensor]:
        """Weights and biases that make logits of them."""
        weight, bias = self.last[head].parameters()
        return weight, bias


@torch.no_grad()
def _for_both(weight: Tensor, bias: Tensor, table: Int16[np.ndarray, "entries"]) -> nn.Conv3d:
    """Half of a last layer for each of two images; for the second, classes change sides."""
    partners = torch.from_numpy(table[:-1].astype(np.int64))  # without the entry for -1
    layer = nn.Conv3d(2 * weight.shape[1], len(weight), 1)
    layer.weight.copy_(torch.cat((weight, weight[partners]), dim=1) / 2)
    assert layer.bias is not None
    layer.bias.copy_((bias + bias[partners]) / 2)
    return layer


def last_of_one(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The last layer that `Mirrored` copied: its weights, and the mean of its biases of both sides.

    A network with these, mirrored again, is the same.
    """
    return 2 * weight[:, : weight.shape[1] // 2], bias
