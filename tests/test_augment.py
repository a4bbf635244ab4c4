import pytest
import torch

from fewlabel.augment import NOTHING, AugmentConfig, augment, mirrored

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
    image, classes = augment(*patch, (16, 16, 16), NOTHING, seeded())

    assert torch.equal(image, patch[0][:, 4:20, 4:20, 4:20])
    assert torch.equal(classes, patch[1][4:20, 4:20, 4:20])


def test_a_move_of_nothing_leaves_voxels_in_place(patch):
    still = AugmentConfig(move=1, chance=0, rotation_deg=0, scaling=0, elastic_voxels=0)

    image, classes = augment(*patch, (16, 16, 16), still, seeded())

    torch.testing.assert_close(image, patch[0][:, 4:20, 4:20, 4:20], rtol=0, atol=1e-4)
    assert torch.equal(classes, patch[1][4:20, 4:20, 4:20])


@pytest.mark.parametrize("seed", range(5))
def test_labels_move_with_the_image(patch, seed):
    image, classes = augment(*patch, (16, 16, 16), MOVED, seeded(seed))

    assert (image[0][classes == 1] >= 0.5 - 1e-3).float().mean() > 0.97
    assert (image[0][classes == 0] <= 0.5 + 1e-3).float().mean() > 0.97


@pytest.mark.parametrize("seed", range(5))
def test_what_comes_from_beyond_the_patch_is_unlabeled(patch, seed):
    image, classes = patch
    far = AugmentConfig(move=1, chance=0, rotation_deg=45, scaling=0.5)

    _, moved = augment(image, torch.ones_like(classes), (24, 24, 24), far, seeded(seed))

    assert set(moved.unique().tolist()) <= {-1, 1}
    assert (moved == -1).any()


@pytest.mark.parametrize("config", [MOVED, EVERYTHING, NOTHING], ids=["moved", "all", "none"])
def test_unlabeled_voxels_stay_unlabeled_and_no_label_is_invented(config):
    classes = torch.full((24, 24, 24), -1, dtype=torch.int16)
    classes[:, :, 12] = 138

    _, moved = augment(torch.rand(1, 24, 24, 24), classes, (16, 16, 16), config, seeded(1))

    assert moved.dtype == torch.int16
    assert set(moved.unique().tolist()) == {-1, 138}


@pytest.mark.parametrize("seed", range(8))
def test_intensities_stay_finite_and_every_modality_sees_the_same_move(seed):
    image = torch.rand(2, 20, 20, 20)
    image[1] = image[0]

    moved, _ = augment(image, torch.zeros(20, 20, 20).short(), (16, 16, 16), MOVED, seeded(seed))
    spoiled, _ = augment(
        image, torch.zeros(20, 20, 20).short(), (16, 16, 16), EVERYTHING, seeded(seed)
    )

    assert torch.equal(moved[0], moved[1])
    assert not torch.equal(spoiled[0], spoiled[1])
    assert spoiled.isfinite().all()


def test_an_empty_image_stays_finite():
    image, _ = augment(
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
