"""What is measured on a result without a truth, counted by hand on a brain of boxes."""

import json

import numpy as np
import pytest

from fewlabel.traits import Traits, measure_traits
from tests.brains import TOY, toy_classes, toy_field, toy_image, toy_shares, toy_traits


def test_volumes_and_centers_are_those_of_the_boxes():
    traits = toy_traits()

    cortex, core, stem = 12 * 24 * 16 - 6 * 12 * 8, 6 * 12 * 8, 4 * 6 * 6
    voxels = [cortex, cortex, core, core, stem]
    assert traits.volume_mm3 == pytest.approx([8 * n for n in voxels])
    assert traits.center_mm[2].tolist() == [-10.0, -8.0, 4.0]
    assert traits.center_mm[3].tolist() == [10.0, -8.0, 4.0]
    # 22 slices, but the lowest holds 24 of 9360 voxels, less than half a percent.
    assert traits.size_mm.tolist() == [48.0, 48.0, 42.0]


def test_a_sure_network_expects_a_dice_of_1_and_an_unsure_one_less():
    assert toy_traits().overlap.tolist() == [1.0] * 5
    # Inside, p = 204 / 255 = 0.8 for each of n voxels: 2 * 0.8 n / (n + 0.8 n).
    assert toy_traits(sure=204).overlap == pytest.approx([1.6 / 1.8] * 5)


def test_probability_outside_of_a_structure_lowers_its_overlap():
    classes = toy_classes()
    shares = toy_shares(classes)
    shares[5, :2] = 51  # 2 * 32 * 32 voxels of background with p = 0.2 of the stem
    shares[0, :2] = 204

    overlap = measure_traits(shares, toy_field(), TOY).overlap

    assert overlap[4] == pytest.approx(2 * 144 / (144 + 144 + 0.2 * 2048))


def test_what_lies_apart_from_the_largest_piece_is_counted():
    classes = toy_classes()
    classes[29:31, 29:31, 29:31] = 5

    loose = measure_traits(toy_shares(classes), toy_field(), TOY).pieces_mm3

    assert loose == pytest.approx([0, 0, 0, 0, 64])


def test_a_hole_within_the_brain_is_enclosed_but_a_dent_is_not():
    classes = toy_classes()
    classes[10:12, 15:17, 17:19] = 0
    classes[20:22, 15:17, 24:26] = 0

    traits = measure_traits(toy_shares(classes), toy_field(), TOY)

    assert traits.enclosed_mm3 == pytest.approx(64)


def test_asymmetry_is_left_less_right_over_their_mean():
    classes = toy_classes()
    classes[8:14, 6:12, 14:22] = 1  # half of the left core goes to the cortex

    index = measure_traits(toy_shares(classes), toy_field(), TOY).asymmetry()

    assert index["Left-Core"] == pytest.approx((0.5 - 1) / 0.75)
    assert set(index) == {"Left-Cortex", "Left-Core"}


def test_noise_is_measured_over_the_contrast_between_structures():
    quiet, loud = toy_traits(noise=0.02), toy_traits(noise=0.08)

    assert loud.noise == pytest.approx(4 * quiet.noise, rel=0.1)


def test_air_tells_an_inverted_image():
    classes = toy_classes()
    image = toy_image(classes)

    straight = measure_traits(toy_shares(classes), toy_field(), TOY, image)
    inverted = measure_traits(toy_shares(classes), toy_field(), TOY, 1 - image)

    assert straight.air == 0.0
    assert inverted.air == pytest.approx(1.0)


def test_an_empty_result_has_traits_too():
    empty = toy_shares(np.zeros((32, 32, 32), np.int16))

    traits = measure_traits(empty, toy_field(), TOY, np.zeros((32, 32, 32), np.float32))

    assert traits.brain_mm3 == 0
    assert traits.overlap.tolist() == [0.0] * 5
    assert traits.asymmetry() == {}


def test_of_a_large_field_only_every_second_voxel_is_looked_at():
    classes = toy_classes().repeat(6, 0).repeat(6, 1).repeat(6, 2)[:, :, :100]
    field = toy_field()
    large = type(field)(classes.shape, field.affine)

    traits = measure_traits(toy_shares(classes), large, TOY)

    whole = np.bincount(classes.ravel(), minlength=6)[1:] * 8.0
    assert traits.volume_mm3 == pytest.approx(whole, rel=0.05)


def test_traits_travel_as_json():
    traits = toy_traits()

    back = Traits.from_json(json.loads(json.dumps(traits.as_json())))

    assert back.names == traits.names
    assert back.center_mm == pytest.approx(traits.center_mm, rel=1e-4)
    assert back.noise == pytest.approx(traits.noise, rel=1e-4)
