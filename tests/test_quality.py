"""Norms from scans with a truth, and the rules that use them on scans without one."""

from dataclasses import replace

import numpy as np
import pytest

from fewlabel.circumstances import Circumstances
from fewlabel.errors import ModelFolderError
from fewlabel.grid import Grid
from fewlabel.norms import place_fit, read_norms
from fewlabel.norms_fit import About, Known, fit_lines, fit_norms
from fewlabel.people import Age
from fewlabel.quality import judge
from fewlabel.traits import measure_traits
from fewlabel.volume import LabelMap
from tests.brains import TOY, toy_classes, toy_field, toy_image, toy_shares, toy_traits

ABOUT = About("ten toys", spacing_mm=2.0, ages_years=(20.0, 60.0))


def known_toys():
    """Ten people, two scans each: a sure one with a Dice of 0.9, an unsure one with 0.7."""
    found = []
    for person in range(10):
        grow = person % 3 - 1
        for sure, dice in ((255, 0.9), (204, 0.7)):
            traits = toy_traits(grow, sure, seed=person)
            off = 0.01 * (person % 2 * 2 - 1)
            known = {name: dice + off for name in TOY.names if name != "Stem"}
            found.append(Known(f"p{person}", traits, known, intact=sure == 255))
    return found


@pytest.fixture(scope="module")
def norms():
    return fit_norms(known_toys(), ABOUT)


def judged(norms, classes, image=None, about=None):
    image = toy_image(np.maximum(classes, 0)) if image is None else image
    traits = measure_traits(toy_shares(classes), toy_field(), TOY, image)
    return judge(LabelMap(classes, toy_field(), TOY), traits, norms, about)


def rules(quality):
    return {finding.rule for finding in quality.findings}


def test_a_usual_brain_breaks_no_rule_and_gets_an_expected_dice(norms):
    quality = judged(norms, toy_classes())

    assert quality.findings == ()
    expected = quality.expected_dice["Left-Core"]
    assert expected.dice == pytest.approx(0.9, abs=0.005)
    assert expected.low < 0.89
    assert expected.high > 0.91
    assert "Stem" not in quality.expected_dice  # no truth drew it


def test_doubt_of_the_network_lowers_the_expected_dice_along_the_line(norms):
    # Overlaps are 1 and 1.6 / 1.8 at Dice 0.9 and 0.7; halfway lies a Dice of 0.8.
    middle = (1 + 1.6 / 1.8) / 2

    dice, low, high = norms.interval("Right-Core", middle)

    assert dice == pytest.approx(0.8, abs=0.005)
    assert high - dice == pytest.approx(dice - low)


def test_intervals_hold_what_was_left_out(norms):
    held = [
        low <= dice <= high
        for one in known_toys()
        for name, dice in one.dice.items()
        for _, low, high in [
            norms.interval(name, float(one.traits.overlap[TOY.class_of(name) - 1]))
        ]
    ]

    assert np.mean(held) >= 0.9


def test_people_are_left_out_together_when_intervals_are_made():
    # Each person has an error of their own; scans of the same person must not hide it.
    rng = np.random.default_rng(0)
    known = [
        replace(one, dice={name: dice + shift for name, dice in one.dice.items()})
        for one, shift in zip(known_toys(), np.repeat(rng.normal(0, 0.05, 10), 2), strict=True)
    ]

    lines, quantile = fit_lines(known)

    assert quantile * lines["Left-Core"].spread > 0.05


def test_too_few_people_are_refused():
    with pytest.raises(ValueError, match="intact scans of 2 people; needed are 3"):
        fit_norms(known_toys()[:4], ABOUT)


def test_what_few_scans_cannot_tell_is_not_judged_by():
    few = fit_norms(known_toys()[:14], ABOUT)
    classes = toy_classes()
    classes[15:17, 0:32, 0:10] = 5

    assert not few.usual
    assert fit_norms(known_toys()[:16], ABOUT).usual
    quality = judged(few, classes)
    assert quality.findings == ()
    assert quality.expected_dice["Left-Core"].dice == pytest.approx(0.9, abs=0.01)


def test_a_structure_that_is_not_always_found_has_an_expected_dice_and_is_not_called_empty():
    known = known_toys()
    for one in known[:6]:  # of two people: what the network missed, it has no overlap with
        n = one.traits.names.index("Right-Core")
        for values, nothing in (
            (one.traits.volume_mm3, 0),
            (one.traits.overlap, 0),
            (one.traits.center_mm, np.nan),
            (one.traits.brightness, np.nan),
        ):
            values[n] = nothing  # fmt: skip
        one.dice["Right-Core"] = 0.0
    norms = fit_norms(known, ABOUT)
    without = toy_classes()
    number = TOY.names.index("Right-Core") + 1
    without[without == number] = 0

    quality = judged(norms, without)
    assert "Right-Core" not in [name for one in quality.findings if one.rule == "empty"
                                for name in one.structures]  # fmt: skip
    assert quality.expected_dice["Right-Core"].dice < 0.1
    whole = judged(norms, toy_classes()).expected_dice["Right-Core"]
    assert whole.dice == pytest.approx(0.9, abs=0.05)
    assert norms.structures["Right-Core"].off_mm < 1e6


def test_a_structure_that_is_missing_is_named(norms):
    classes = toy_classes()
    classes[classes == 5] = 0

    quality = judged(norms, classes)

    (finding,) = [one for one in quality.findings if one.rule == "empty"]
    assert finding.structures == ("Stem",)
    assert finding.value == 0
    assert "Empty or nearly empty: Stem" in finding.says


def test_a_volume_far_from_usual_is_told_with_its_limit(norms):
    classes = toy_classes()
    classes[15:17, 0:32, 0:10] = 5

    (finding,) = [one for one in judged(norms, classes).findings if one.rule == "volume"]

    assert finding.structures == ("Stem",)
    assert finding.value > finding.limit
    assert finding.limit == pytest.approx(norms.structures["Stem"].volume_mm3[1])


def test_one_half_that_shrinks_is_an_asymmetry(norms):
    classes = toy_classes()
    classes[8:14, 6:12, 14:22] = 1

    found = {one.rule: one for one in judged(norms, classes).findings}

    assert "Left-Core" in found["asymmetry"].structures
    assert "larger on the right" in found["asymmetry"].says


def test_exchanged_sides_are_found_without_any_norms():
    classes = TOY.mirrored()[toy_classes()]

    quality = judged(None, classes)

    assert rules(quality) == {"left and right"}
    assert "2 of 2 paired structures lie on the wrong side" in quality.findings[0].says
    assert quality.expected_dice == {}


def test_exchanged_sides_are_a_mirror_image_to_the_norms(norms):
    assert place_fit(norms.structures, toy_traits()).mirrored is False
    assert "mirrored" in rules(judged(norms, TOY.mirrored()[toy_classes()]))


def test_a_head_that_lies_on_its_side_is_turned(norms):
    classes = np.ascontiguousarray(np.rot90(toy_classes(), axes=(0, 1)))

    assert "turned" in rules(judged(norms, classes))


def test_a_blank_half_makes_the_brain_too_low(norms):
    classes = toy_classes()
    classes[:, :, 18:] = 0

    found = {one.rule: one for one in judged(norms, classes).findings}

    assert found["size"].value == 28.0  # slices 4 to 17 of 2 mm
    assert "The brain is 28 mm high" in found["size"].says


def test_a_brain_that_ends_at_once_ends_abruptly(norms):
    traits = toy_traits()
    ends = traits.ends_mm2.copy()
    ends[5] = 4000.0
    labels = LabelMap(toy_classes(), toy_field(), TOY)

    (finding,) = judge(labels, replace(traits, ends_mm2=ends), norms).findings

    assert finding.rule == "abrupt end"
    assert "(top: 40 cm2 at once" in finding.says


def test_a_scan_that_ends_inside_the_brain_is_told_with_the_sides():
    classes = toy_classes()[:, 6:]
    grid = Grid(classes.shape, toy_field().affine)

    quality = judge(LabelMap(classes, grid, TOY), toy_traits(), None)

    assert rules(quality) == {"field of view"}
    assert "(back)" in quality.findings[0].says


def test_a_contrast_turned_over_is_not_what_the_model_was_checked_on(norms):
    classes = toy_classes()
    image = np.where(classes > 0, 1.2 - toy_image(classes), 0).astype(np.float32)

    quality = judged(norms, classes, image)
    assert rules(quality) == {"contrast"}
    assert quality.expected_dice
    assert quality.mean_dice is None  # it does not hold


def test_noise_beyond_that_of_all_checked_scans_is_told(norms):
    classes = toy_classes()

    assert "noise" in rules(judged(norms, classes, toy_image(classes, noise=0.3)))


def test_age_and_resolution_unlike_the_checked_scans_are_told(norms):
    child = Circumstances((2.0, 2.0, 2.0), Age(years=4.0))
    thick = Circumstances((2.0, 2.0, 8.0), Age(years=40.0))

    assert rules(judged(norms, toy_classes(), about=child)) == {"age"}
    assert rules(judged(norms, toy_classes(), about=thick)) == {"resolution"}


def test_nothing_found_is_one_sentence(norms):
    quality = judged(norms, np.zeros((32, 32, 32), np.int16))

    assert [one.says for one in quality.findings] == ["No brain was found in this scan."]


def test_a_quality_file_that_makes_no_sense_is_refused(tmp_path, norms):
    path = tmp_path / "quality.json"
    path.write_text(norms.model_dump_json())
    assert read_norms(path) == norms
    path.write_text('{"format": 2}')

    with pytest.raises(ModelFolderError, match="does not make sense"):
        read_norms(path)


def test_the_record_holds_rules_values_and_limits(norms):
    classes = toy_classes()
    classes[classes == 5] = 0

    said = judged(norms, classes).as_json()

    assert {"rule", "value", "limit", "says", "structures"} == set(said["findings"][0])
    assert said["calibrated_on"] == "ten toys"
    assert set(said["expected_dice"]["Left-Core"]) == {"dice", "low", "high"}
