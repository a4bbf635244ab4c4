"""Networks that go on at half the voxel size."""

import pytest
import torch
from torch.nn import functional as F

from fewlabel.errors import ConfigError
from fewlabel.finer import begin_finer
from fewlabel.nets.unet import UNet

FINER = {"fine": 4, "fine_norm": False, "first": 7, "depths": 2}


@pytest.mark.parametrize("residual", [False, True])
def test_at_first_it_says_what_the_coarse_network_says_of_means(residual):
    torch.manual_seed(0)
    shape = {"in_channels": 2, "channels": (4, 8), "residual": residual}
    coarse, finer = UNet({"a": 3}, **shape).eval(), UNet({"a": 3}, **shape, **FINER).eval()
    image = torch.rand(1, 2, 16, 16, 16)

    begin_finer(finer, coarse.state_dict())
    with torch.no_grad():
        fine, half = finer.deep(image)["a"]
        expected = coarse(F.avg_pool3d(image, 2))["a"]

    torch.testing.assert_close(half, expected, atol=1e-4, rtol=1e-4)
    within = slice(4, -4)  # features are interpolated before the last layer and its activation
    spread = F.interpolate(expected, scale_factor=2, mode="trilinear")
    close = (fine - spread)[..., within, within, within].abs().median()
    assert close < 0.1 * spread.std()


@pytest.mark.parametrize("changes", [{"fine": 6}, {"channels": (4, 6)}, {"depths": 1}])
def test_networks_that_do_not_go_together_are_refused(changes):
    coarse = UNet({"a": 3}, channels=(4, 8))
    finer = UNet({"a": 3}, **({"channels": (4, 8)} | FINER | changes))

    with pytest.raises(ConfigError, match="cannot go on from"):
        begin_finer(finer, coarse.state_dict())
