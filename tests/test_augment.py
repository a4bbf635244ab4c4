import pytest
import torch

from fewlabel.augment import NOTHING, AugmentConfig, augment, mirrored, repainted
from fewlabel.losses import dice_and_cross_entropy
from fewlabel.objective import supervise

EVERYTHING = AugmentConfig(move=1, chance=1)
MOVED = AugmentConfig(move=1, chance=0)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def patch():
    """A bright box labeled 1 in a dark surround labeled 0."""
    image = torch.zeros(1, 24, 24, 24)
    image[:, 6:18, 6:18, 6:18] = 1.0
    return image, (image[0] > 0).short()


def test_the_same_generator_gives_the_same_patch(patch):
    first = augment(*patch, (16, 16, 16), EVERYTHING, seeded(3))
    again = augment(*patch, (16, 16, 16), EVERYTHING, seeded(3))
    other = augment(*patch, (16, 16, 16), EVERYTHING, seeded(4))

    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_global_generators_are_left_alone(patch):
    before = torch.get_rng_state()

    augment(*patch, (16, 16, 16), EVERYTHING, seeded())

    assert torch.equal(torch.get_rng_state(), before)


def test_without_any_change_the_middle_of_the_patch_comes_back(patch):
    image, classes, _ = augment(*patch, (16, 16, 16), NOTHING, seeded())

    assert torch.equal(image, patch[0][:, 4:20, 4:20, 4:20])
    assert torch.equal(classes, patch[1][4:20, 4:20, 4:20])


def test_a_move_of_nothing_leaves_voxels_in_place(patch):
    still = AugmentConfig(move=1, chance=0, rotation_deg=0, scaling=0, elastic_voxels=0)

    image, classes, _ = augment(*patch, (16, 16, 16), still, seeded())

    torch.testing.assert_close(image, patch[0][:, 4:20, 4:20, 4:20], rtol=0, atol=1e-4)
    assert torch.equal(classes, patch[1][4:20, 4:20, 4:20])


@pytest.mark.parametrize("seed", range(5))
def test_labels_move_with_the_image(patch, seed):
    image, classes, _ = augment(*patch, (16, 16, 16), MOVED, seeded(seed))

    assert (image[0][classes == 1] >= 0.5 - 1e-3).float().mean() > 0.97
    assert (image[0][classes == 0] <= 0.5 + 1e-3).float().mean() > 0.97


@pytest.mark.parametrize("seed", range(5))
def test_what_comes_from_beyond_the_patch_is_unlabeled(patch, seed):
    image, classes = patch
    far = AugmentConfig(move=1, chance=0, rotation_deg=45, scaling=0.5)

    _, moved, _ = augment(image, torch.ones_like(classes), (24, 24, 24), far, seeded(seed))

    assert set(moved.unique().tolist()) <= {-1, 1}
    assert (moved == -1).any()


@pytest.mark.parametrize("config", [MOVED, EVERYTHING, NOTHING], ids=["moved", "all", "none"])
def test_unlabeled_voxels_stay_unlabeled_and_no_label_is_invented(config):
    classes = torch.full((24, 24, 24), -1, dtype=torch.int16)
    classes[:, :, 12] = 138

    _, moved, _ = augment(torch.rand(1, 24, 24, 24), classes, (16, 16, 16), config, seeded(1))

    assert moved.dtype == torch.int16
    assert set(moved.unique().tolist()) == {-1, 138}


@pytest.mark.parametrize("seed", range(8))
def test_intensities_stay_finite_and_every_modality_sees_the_same_move(seed):
    image = torch.rand(2, 20, 20, 20)
    image[1] = image[0]

    moved, *_ = augment(image, torch.zeros(20, 20, 20).short(), (16, 16, 16), MOVED, seeded(seed))
    spoiled, *_ = augment(
        image, torch.zeros(20, 20, 20).short(), (16, 16, 16), EVERYTHING, seeded(seed)
    )

    assert torch.equal(moved[0], moved[1])
    assert not torch.equal(spoiled[0], spoiled[1])
    assert spoiled.isfinite().all()


FAR = AugmentConfig(move=1, rotation_deg=40, scaling=0.3, elastic_voxels=5, flip_others=0.5)


def both(logits, classes, merge):
    return torch.stack(dice_and_cross_entropy(logits, classes, merge))


@pytest.mark.parametrize("upsampled", [False, True], ids=["labels down", "logits up"])
@pytest.mark.parametrize("seed", range(3))
def test_hidden_slices_give_zero_gradient_at_every_depth_after_bends_and_flips(seed, upsampled):
    rng = seeded(seed)
    classes = torch.full((32, 32, 32), -1, dtype=torch.int16)
    shown = torch.randperm(32, generator=rng)[:10]
    classes[:, shown] = torch.randint(0, 3, (32, 10, 32), generator=rng).short()
    image, classes = mirrored(torch.rand(2, 32, 32, 32), classes)
    _, moved, _ = augment(image, classes, (24, 24, 24), FAR, rng)
    levels = [torch.randn(1, 3, 24 // n, 24 // n, 24 // n, requires_grad=True) for n in (1, 2, 4)]

    supervise(levels, moved[None], None, both, upsampled=upsampled).sum().backward()

    for n, logits in zip((1, 2, 4), levels, strict=True):
        hidden = moved[::n, ::n, ::n] == -1
        if upsampled:  # a coarse voxel is judged by all that it covers
            hidden = (moved.unfold(0, n, n).unfold(1, n, n).unfold(2, n, n) == -1).flatten(3).all(3)
        assert hidden.any()
        assert (logits.grad[0, :, hidden] == 0).all()
        assert (logits.grad[0, :, ~hidden] != 0).all()


def test_other_flips_move_image_and_labels_alike_and_rename_nothing():
    image, classes = torch.rand(1, 4, 4, 4), torch.arange(64).reshape(4, 4, 4).short()
    always = NOTHING.model_copy(update={"flip_others": 1.0})

    flipped, labels, _ = augment(image, classes, (4, 4, 4), always, seeded())

    assert torch.equal(flipped[0], image[0].flip(1, 2))
    assert torch.equal(labels, classes.flip(1, 2))


def test_intensities_are_scaled_and_shifted_as_far_as_allowed(patch):
    change = {"chance": 1.0, "bias": 0, "gamma": 0, "noise": 0, "blur_voxels": 0}
    config = AugmentConfig(move=0, low_resolution=1, **change)
    more = config.model_copy(update={"scale_intensity": 0.1, "shift_intensity": 0.2})

    still, *_ = augment(*patch, (16, 16, 16), config, seeded(2))
    changed, *_ = augment(*patch, (16, 16, 16), more, seeded(2))

    shift, bright = float(changed.min()), float(changed.max())
    torch.testing.assert_close(still, patch[0][:, 4:20, 4:20, 4:20])
    assert 0 < abs(shift) <= 0.2
    assert 0 < abs(bright - shift - 1) <= 0.1


@pytest.mark.parametrize("seed", range(4))
def test_repainted_structures_have_new_intensities_and_both_sides_the_same(seed):
    classes = torch.zeros(16, 16, 16, dtype=torch.int16)
    classes[:8], classes[8:], classes[4:12, 4:12] = 1, 2, 3
    image = torch.rand(2, 16, 16, 16, generator=seeded(seed)) * 0.1 + classes * 0.3

    painted = repainted(image, classes, torch.tensor([0, 2, 1, 3]), seeded(seed))

    left, right = painted[:, :3, :3].mean((1, 2, 3)), painted[:, 13:, :3].mean((1, 2, 3))
    torch.testing.assert_close(left, right, rtol=0, atol=0.02)
    assert ((left - 0.35).abs() > 0.02).any()
    assert not torch.allclose(left[0], left[1], atol=1e-3)
    assert painted.min() >= 0
    assert painted.max() <= 1
    assert torch.equal(painted, repainted(image, classes, torch.tensor([0, 2, 1, 3]), seeded(seed)))


@pytest.mark.parametrize("seed", range(4))
def test_growth_tells_how_much_larger_things_have_become(seed):
    i, j, k = torch.meshgrid(*[torch.arange(24.0) - 11.5] * 3, indexing="ij")
    ball = (i**2 + j**2 + k**2 < 49).float()
    sized = MOVED.model_copy(update={"scaling": 0.3, "elastic_voxels": 0.0})

    moved, _, growth = augment(ball[None], ball.short(), (24, 24, 24), sized, seeded(seed))

    assert growth == pytest.approx(float(moved.sum() / ball.sum()) ** (1 / 3), rel=0.02)
    assert augment(ball[None], ball.short(), (24, 24, 24), NOTHING, seeded(seed)).growth == 1


def test_an_empty_image_stays_finite():
    image, *_ = augment(
        torch.zeros(1, 16, 16, 16), torch.zeros(16, 16, 16).short(), (16, 16, 16), EVERYTHING,
        seeded(),
    )  # fmt: skip

    assert image.isfinite().all()


def test_mirroring_exchanges_the_ends_of_the_first_axis():
    image, classes = torch.zeros(1, 3, 1, 1), torch.tensor([1, 0, 2])[:, None, None]
    image[0, 0] = 5

    flipped, labels = mirrored(image, classes)

    assert flipped.flatten().tolist() == [0, 0, 5]
    assert labels.flatten().tolist() == [2, 0, 1]
