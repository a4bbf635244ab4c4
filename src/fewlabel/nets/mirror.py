"""A network that looks at each image twice: as it is, and in a mirror."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Int16
from torch import Tensor, nn


class Mirrored(nn.Module):
    """Logits averaged with those of the mirrored image, left and right exchanged back.

    Costs twice the time. What it says of a mirrored head is the mirror image of what it says
    of the head, exactly.

    Args:
        network: Gives logits by head; axis i of its input leads to the subject's right or left.
        tables: Head to `LabelProtocol.mirrored()`: the class on the other side, per class.
    """

    def __init__(
        self, network: nn.Module, tables: Mapping[str, Int16[np.ndarray, "entries"]]
    ) -> None:
        super().__init__()
        self.network = network
        for head, table in tables.items():
            partners = torch.from_numpy(table[:-1].astype(np.int64))  # without the entry for -1
            self.register_buffer(f"partners_{head}", partners, persistent=False)

    def forward(self, image: Float[Tensor, "b c i j k"]) -> dict[str, Tensor]:
        """Logits per head, shape (b, classes, i, j, k)."""
        straight = self.network(image)
        turned = self.network(image.flip(2))
        return {
            head: (logits + self._back(head, turned[head])) / 2 for head, logits in straight.items()
        }

    def _back(self, head: str, logits: Tensor) -> Tensor:
        partners: Tensor = getattr(self, f"partners_{head}")
        return logits.flip(2).index_select(1, partners)
