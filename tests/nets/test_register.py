import torch
from torch import nn

from fewlabel.losses_registration import anatomy_loss, bending_energy, local_correlation_loss
from fewlabel.nets.register import RegistrationNet
from fewlabel.nets.spatial import (
    compose,
    folded_share,
    integrate,
    resized,
    warp,
    warp_classes,
)


def scans(shape=(8, 8, 8), seed=0):
    return torch.rand((1, 1, *shape), generator=torch.Generator().manual_seed(seed))


def moved_by(i, j, k, shape=(8, 8, 8)):
    return torch.tensor([i, j, k]).view(1, 3, 1, 1, 1).float().expand(1, 3, *shape).clone()


def wave(shape=(8, 8, 8)):
    places = torch.stack(torch.meshgrid(*map(torch.arange, shape), indexing="ij"))[None].float()
    return torch.sin(places.flip(1) * 0.7)


def test_a_voxel_shows_what_lies_its_displacement_away():
    image = torch.arange(8.0).view(1, 1, 8, 1, 1).expand(1, 1, 8, 8, 8)
    found = warp(image, moved_by(1.5, 0, 0))[0, 0, :, 3, 3]
    assert torch.allclose(found, torch.tensor([1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7, 7]))


def test_a_constant_flow_takes_as_far_as_it_is_fast_and_its_reverse_takes_back():
    assert torch.allclose(integrate(moved_by(1, -2, 0.5)), moved_by(1, -2, 0.5), atol=1e-5)
    there, back = integrate(wave()), integrate(-wave())
    inner = compose(there, back)[..., 2:-2, 2:-2, 2:-2]
    assert inner.abs().max() < 0.12 < there.abs().max()


def test_a_displacement_has_half_as_many_voxels_of_twice_the_size():
    assert torch.allclose(resized(moved_by(2, 4, 6), (4, 4, 16))[0, :, 1, 1, 1],
                          torch.tensor([1.0, 2, 12]))  # fmt: skip


def test_folds_are_seen():
    assert folded_share(wave() * 0.1) == 0
    turned_over = torch.zeros(1, 3, 8, 8, 8)
    turned_over[:, 0] = -2 * torch.arange(8.0).view(8, 1, 1)
    assert folded_share(turned_over) == 1


def test_an_untrained_network_leaves_scans_where_they_are():
    torch.manual_seed(0)
    net = RegistrationNet(channels=(4, 8)).eval()
    assert net(scans(), scans(seed=1)).abs().max() < 1e-2


def test_exchanging_scans_reverses_a_consistent_network():
    torch.manual_seed(0)
    net = RegistrationNet(channels=(4, 8), consistent=True).eval()
    nn.init.normal_(net.net.decoders["motion"].outs[0].conv.conv.weight, std=0.3)
    one, other = scans(), scans(seed=1)
    with torch.no_grad():
        assert torch.allclose(net.motion(one, other), -net.motion(other, one))
        assert net.motion(one, other).abs().max() > 0.01


def test_correlation_ignores_brightness_and_contrast():
    image = scans()
    assert local_correlation_loss(0.5 * image + 0.2, image) < 0.01
    assert local_correlation_loss(scans(seed=1), image) > 0.5


def test_bending_counts_only_what_is_not_affine():
    places = torch.arange(8.0).view(8, 1, 1).expand(1, 3, 8, 8, 8).clone()
    assert bending_energy(places) < 1e-10
    assert bending_energy(places**2).item() > 1


def test_anatomy_is_scored_by_hand():
    """Structure 1 lies in row 1; half a voxel of it is seen in row 0 and in row 1.

    In the fixed scan it is in row 1: both agree on 1/2, sizes are 1/2 + 1/2 and 1, so Dice is
    2 * 1/2 / 2 = 1/2, times four voxels a row everywhere. Structure 2 is absent.
    """
    moving = torch.zeros(1, 4, 2, 2, dtype=torch.int16)
    moving[0, 1] = 1
    fixed = torch.zeros(1, 3, 4, 2, 2)
    fixed[0, 0], fixed[0, 0, 1], fixed[0, 1, 1] = 1, 0, 1
    displacement = moved_by(0.5, 0, 0, (4, 2, 2)).requires_grad_()
    loss = anatomy_loss(displacement, moving, fixed)
    assert abs(loss.item() - 1 / 2) < 1e-6
    loss.backward()
    assert displacement.grad[0, 0, 1].min() > 0  # back to 0 is where it fits
    moving[:] = -1
    assert anatomy_loss(displacement, moving, fixed).item() == 0


def test_anatomy_of_every_second_voxel_is_that_of_a_coarse_copy():
    torch.manual_seed(0)
    moving, fixed = torch.zeros(1, 8, 8, 8, dtype=torch.int16), torch.zeros(1, 2, 8, 8, 8)
    moving[:, :4], fixed[:, 1, 2:6], fixed[:, 0, :2], fixed[:, 0, 6:] = 1, 1, 1, 1
    assert abs(anatomy_loss(moved_by(0, 0, 0), moving, fixed, every=2).item() - 0.5) < 1e-6


def test_labels_are_never_interpolated():
    classes = torch.tensor([0, 0, 9, 9, 0, 0, -1, -1]).view(1, 8, 1, 1).expand(1, 8, 8, 8)
    found = warp_classes(classes, moved_by(0.7, 0, 0))
    assert found[0, :, 3, 3].tolist() == [0, 9, 9, 0, 0, -1, -1, -1]
    assert warp_classes(classes, moved_by(-0.4, 0, 0)).equal(classes)
