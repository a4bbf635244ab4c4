import numpy as np
import pytest
import torch

from fewlabel.errors import ConfigError
from fewlabel.intensity import robust_scale
from fewlabel.labels import UNLABELED, load_protocol
from fewlabel.palette import load_palette
from fewlabel.sampling import scale_robustly
from fewlabel.synthesis import SynthesisConfig, synthesize

ASEG = load_protocol("aseg32")
PALETTE = load_palette("aseg", ASEG)
STILL = SynthesisConfig(
    rotation_deg=0, scaling=0, shear=0, translation_mm=0, elastic=(), flip=0, strip=0, cut=0,
    texture=(0, 0), noise=(0, 0), bias=(0, 0), gamma=0, blur_mm=(0, 0), thick=0,
    contrasts={"t1": 1.0},
)  # fmt: skip


def row(value):
    return int(np.flatnonzero(PALETTE.values == value)[0])


def head(size=24):
    """White matter left and right of the middle, a thalamus on the left, scalp around."""
    rows = torch.full((size,) * 3, row(511), dtype=torch.uint8)
    rows[4:12, 4:20, 4:20] = row(2)
    rows[12:20, 4:20, 4:20] = row(41)
    rows[6:10, 8:14, 8:14] = row(10)
    return rows


def paint(rows, config, *, seed=0, shape=(24, 24, 24), spacing=1.0, source=1.0):
    rng = torch.Generator().manual_seed(seed)
    return synthesize(rows, PALETTE, config, (shape, spacing, source), rng)


def test_without_chance_labels_stay_where_they_are():
    _, classes = paint(head(), STILL)

    expected = torch.from_numpy(PALETTE.learn)[head().long()]
    assert torch.equal(classes[0], expected)


def test_t1_like_images_show_white_matter_brighter_than_thalamus():
    for seed in range(5):
        image, classes = paint(head(), STILL, seed=seed)
        white = image[0, 0][classes[0] == ASEG.class_of("Right-Cerebral-White-Matter")].median()
        thalamus = image[0, 0][classes[0] == ASEG.class_of("Left-Thalamus")].median()
        assert white > thalamus


def test_a_mirrored_head_has_its_left_structures_named_right():
    _, classes = paint(head(), STILL.model_copy(update={"flip": 1.0}))

    where = (classes[0] == ASEG.class_of("Right-Thalamus")).nonzero()
    assert where[:, 0].min() == 14  # i = 6..9 of 24 voxels, mirrored
    assert where[:, 0].max() == 17
    assert not (classes == ASEG.class_of("Left-Thalamus")).any()


def test_left_structures_stay_on_the_left_of_the_image_whatever_is_drawn():
    config = SynthesisConfig(cut=0, translation_mm=2.0)
    for seed in range(6):
        _, classes = paint(head(48), config, seed=seed, shape=(48, 48, 48))
        left = (classes[0] == ASEG.class_of("Left-Cerebral-White-Matter")).nonzero()[:, 0]
        right = (classes[0] == ASEG.class_of("Right-Cerebral-White-Matter")).nonzero()[:, 0]
        assert left.float().mean() < right.float().mean()


def test_extraction_leaves_nothing_outside_the_brain():
    image, classes = paint(head(), STILL.model_copy(update={"strip": 1.0}), seed=3)

    assert (image[0, 0][:2] == 0).all()  # two voxels into the scalp
    assert (classes[0][:4] == 0).all()


def test_what_the_field_of_view_cuts_off_is_not_learned():
    image, classes = paint(head(), STILL.model_copy(update={"cut": 1.0}))

    gone = classes[0] == UNLABELED
    assert 0.05 < gone.float().mean() < 0.45
    assert (image[0, 0][gone] == 0).all()


def test_the_same_number_paints_the_same_image():
    config = SynthesisConfig()
    first, second = paint(head(), config, seed=7), paint(head(), config, seed=7)
    other = paint(head(), config, seed=8)

    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], other[0])


def test_a_coarse_image_covers_the_same_millimeters_as_a_fine_one():
    _, fine = paint(head(48), STILL, shape=(48, 48, 48))
    _, coarse = paint(head(48), STILL, shape=(24, 24, 24), spacing=2.0)

    share = (coarse == 1).float().mean() / (fine == 1).float().mean()
    assert share == pytest.approx(1.0, abs=0.15)


def test_intensities_are_scaled_as_at_prediction():
    image = torch.rand((20, 21, 22), generator=torch.Generator().manual_seed(0)) ** 2 * 300

    ours, theirs = scale_robustly(image).numpy(), robust_scale(image.numpy())
    assert np.allclose(ours, theirs, atol=2e-3)


def test_an_image_of_one_intensity_becomes_zeros():
    assert (scale_robustly(torch.full((4, 4, 4), 3.0)) == 0).all()


def test_every_row_of_the_palette_has_its_partner_on_the_other_side():
    partner = PALETTE.partner
    assert np.array_equal(partner[partner], np.arange(len(partner)))
    swapped = ASEG.mirrored()[PALETTE.learn]
    assert np.array_equal(PALETTE.learn[partner], swapped)


def test_an_unknown_palette_is_refused_with_those_that_exist():
    with pytest.raises(ConfigError, match=r"no palette 'aseq'(.|\n)*use one of .*aseg"):
        load_palette("aseq", ASEG)


def test_kin_tissues_are_bright_or_dark_together():
    def hippocampus_less_amygdala(kinship, seed):
        rows = head()
        rows[6:10, 8:14, 8:11] = row(17)
        rows[6:10, 8:14, 11:14] = row(18)
        image, classes = paint(rows, STILL.model_copy(update={"kinship": kinship}), seed=seed)
        means = [
            image[0, 0][classes[0] == ASEG.class_of(name)].mean()
            for name in ("Left-Hippocampus", "Left-Amygdala")
        ]
        return abs(float(means[0] - means[1]))

    kin = [hippocampus_less_amygdala(1.0, seed) for seed in range(8)]
    strangers = [hippocampus_less_amygdala(0.0, seed) for seed in range(8)]
    assert np.mean(kin) < 0.6 * np.mean(strangers)


def test_inverted_images_show_white_matter_darker_than_thalamus_and_air_still_black():
    rows = head()
    rows[:2] = 0  # air
    config = STILL.model_copy(update={"invert": 1.0, "contrasts": {"t1": 1.0}})
    for seed in range(5):
        image, classes = paint(rows, config, seed=seed)
        white = image[0, 0][classes[0] == ASEG.class_of("Right-Cerebral-White-Matter")].median()
        thalamus = image[0, 0][classes[0] == ASEG.class_of("Left-Thalamus")].median()
        assert white < thalamus
        assert image[0, 0][:2].max() < 0.3


def test_what_is_left_after_a_cut_moves_to_the_middle():
    config = STILL.model_copy(update={"cut": 1.0, "cut_share": (0.5, 0.5), "recenter": 1.0})
    moved = set()
    for seed in range(8):
        _, classes = paint(head(), config, seed=seed)
        gone = classes[0] == UNLABELED
        planes = [gone.all(dim=tuple(b for b in range(3) if b != a)).sum() for a in range(3)]
        moved.add(int(max(planes)))
        kept = (classes[0] > 0).nonzero()
        if len(kept):
            axis = planes.index(max(planes))
            assert abs(float(kept[:, axis].float().mean()) - 11.5) <= 6.5
    assert min(moved) >= 6  # of 12 planes, at most half went out of sight
    assert len(moved) > 2


def test_a_cut_brings_planes_from_beyond_the_field_and_labels_stay_with_the_image():
    config = STILL.model_copy(update={"cut": 1.0, "cut_share": (0.4, 0.4), "recenter": 1.0})
    for seed in range(6):
        image, classes = paint(head(), config, seed=seed)
        seen = classes[0] >= 0
        white = classes[0] == ASEG.class_of("Right-Cerebral-White-Matter")
        left = classes[0] == ASEG.class_of("Left-Thalamus")
        if white.any() and left.any():
            assert image[0, 0][white].median() > image[0, 0][left].median()
        assert (image[0, 0][~seen] == 0).all()
