"""A network that looks at two scans and says how one is bent into the other."""

from collections.abc import Sequence
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewlabel.nets.spatial import Field, integrate, resized
from fewlabel.nets.unet import UNet

_HEAD = "motion"
Scans = Float[Tensor, "b 1 i j k"]


class RegistrationNet(nn.Module):
    """A U-Net over both scans at half their resolution; it says a displacement or a velocity.

    Each 2 x 2 x 2 voxels enter as eight channels, so no detail is lost, and the work is an
    eighth. Sizes must be divisible by `stride`. The last layer starts near zero, so that
    training begins with scans that stay where they are.

    Args:
        channels: Feature maps per level, finest first.
        velocity: Whether the output is a velocity: the displacement is then free of folds, up
            to how finely it is integrated, and can be reversed.
        consistent: Whether the scans are looked at both ways round and the difference counts,
            so that exchanging them reverses the motion exactly; twice the work.

    Source:
        xu2019, registration network; velocities by Dalca et al. 2019, Medical Image Analysis
        57. Departs from it: motion at half resolution; `consistent` makes a pair's two motions
        opposites by construction.
    """

    def __init__(
        self,
        *,
        channels: Sequence[int] = (16, 32, 32, 32),
        velocity: bool = True,
        consistent: bool = False,
    ) -> None:
        super().__init__()
        self.net = UNet({_HEAD: 3}, in_channels=16, channels=channels)
        self.velocity, self.consistent = velocity, consistent
        self.stride = 2 * self.net.stride
        for weight in self.net.decoders[_HEAD].outs.parameters():  # type: ignore[union-attr]
            nn.init.normal_(weight, std=1e-5)

    def forward(self, fixed: Scans, moving: Scans) -> Field:
        """Where to look the moving scan up for each voxel of the fixed one, in voxels."""
        return resized(self.coarse(fixed, moving), fixed.shape[2:])

    def coarse(self, fixed: Scans, moving: Scans) -> Float[Tensor, "b 3 x y z"]:
        """The same at half resolution, in voxels of that."""
        motion = self.motion(fixed, moving)
        return integrate(motion) if self.velocity else motion

    def motion(self, fixed: Scans, moving: Scans) -> Float[Tensor, "b 3 x y z"]:
        """What the U-Net says: a velocity or a displacement, in voxels of half resolution."""
        one, other = _eighths(fixed), _eighths(moving)
        there: Tensor = self.net(torch.cat([one, other], dim=1))[_HEAD].float()
        if not self.consistent:
            return there
        back: Tensor = self.net(torch.cat([other, one], dim=1))[_HEAD].float()
        return (there - back) / 2


def _eighths(image: Scans) -> Float[Tensor, "b 8 x y z"]:
    """Each 2 x 2 x 2 voxels as the channels of one."""
    starts = product((0, 1), repeat=3)
    return torch.cat([image[:, :, a::2, b::2, c::2] for a, b, c in starts], dim=1)
