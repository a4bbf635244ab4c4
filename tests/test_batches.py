import nibabel
import numpy as np
import pytest
import torch

from fewlabel.augment import NOTHING, AugmentConfig
from fewlabel.batches import PatchConfig, Patches
from fewlabel.cache import Cache
from fewlabel.cohort import Case
from fewlabel.conform import GridRule, conform
from fewlabel.conformed import WorkingRule, conform_cases
from fewlabel.errors import CohortError, ProtocolError
from fewlabel.examples import (
    drawn_in_vain,
    make_examples,
    require_every_class,
    require_labels,
)
from fewlabel.field import first_look
from fewlabel.held_out import HeldOut, confusion_by_contract, dice_by_contract
from fewlabel.intensity import robust_scale
from fewlabel.io import read_scan
from fewlabel.labels import Label, LabelProtocol, load_protocol
from fewlabel.train.stage import Workplace

PHANTOM = load_protocol("phantom8")
HEADS = {"phantom8": PHANTOM}
PATCH = PatchConfig(size=(8, 8, 8), batch=2)
FIELD = GridRule(spacing_mm=1.0, field_mm=(16, 16, 16))


@pytest.fixture
def conformed(tmp_path):
    """Conforms cases of 12 voxels a side; each structure fills a slice, background the rest."""

    def build(*kinds):
        cases = []
        for number, kind in enumerate(kinds):
            name = f"c{number}"
            labels = np.zeros((12, 12, 12), np.int16)
            for n in range(1, 9):
                labels[:, :, n] = n
            labels[6:][labels[6:] == 1] = 2
            image = nibabel.Nifti1Image(labels + number * 10 + 1, np.eye(4))
            nibabel.save(image, tmp_path / f"{name}_T1w.nii")
            case = Case(name, name, name, {"T1w": tmp_path / f"{name}_T1w.nii"})
            if kind is not None:
                path = tmp_path / f"{name}_dseg.nii"
                nibabel.save(
                    nibabel.Nifti1Image(kind.pop("draw", lambda x: x)(labels), np.eye(4)), path
                )
                case = Case(
                    name, name, name, case.scans, path, kind.pop("protocol", "phantom8"), **kind
                )
            cases.append(case)
        return conform_cases(cases, WorkingRule(spacing_mm=1.0), Cache(tmp_path / "cache"))

    return build


def patches(scans, chance=NOTHING, config=PATCH):
    return Patches(make_examples(scans, HEADS), HEADS, config, chance, seed=7)


def test_a_batch_follows_from_the_seed_and_its_number(conformed):
    draw = patches(conformed({}, {}, {}), AugmentConfig(margin_voxels=2))

    first, again, other = draw(5), draw(5), draw(6)

    assert set(first) == {"image", "age_weeks", "classes/phantom8", "merge/phantom8"}
    for key, value in first.items():
        torch.testing.assert_close(value, again[key], rtol=0, atol=0, equal_nan=True)
    assert not torch.equal(first["image"], other["image"])


def test_shapes_are_those_that_the_losses_take(conformed):
    batch = patches(conformed({}))(0)

    assert batch["image"].shape == (2, 1, 8, 8, 8)
    assert batch["classes/phantom8"].shape == (2, 8, 8, 8)
    assert batch["merge/phantom8"].tolist() == [list(range(9))] * 2


def in_fields(scans, chance=NOTHING, size=(4, 4, 4)):
    config = PatchConfig(size=size, batch=1, foreground=1.0)
    return Patches(make_examples(scans, HEADS), HEADS, config, chance, 7, FIELD)


def test_a_field_lies_about_where_segmenting_looks_and_says_where_the_patch_is(conformed):
    scans = conformed({})
    draw, start = in_fields(scans), np.array(scans[0].start_of(FIELD))
    at = int(np.argwhere(np.asarray(scans[0].classes) == 5)[0, 2])  # structures are slices

    for number in range(6):
        batch = draw(number)
        image, classes = batch["image"][0, 0], batch["classes/phantom8"][0]
        ends = batch["window"][0]
        fifth = torch.nonzero(classes == 5)[:, 2].unique()

        assert image.shape == (16, 16, 16)
        assert image[classes == 5].unique().numel() == 1, "labels lie where the image does"
        assert ((fifth - (at - start[2])).abs() <= 4).all()
        assert (ends[:, 1] - ends[:, 0] == 4).all()
        assert (ends[:, 0] % 2 == 0).all()
        assert (ends >= 0).all()
        assert (ends <= 16).all()


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_patches_in_a_field_show_the_structure_they_were_drawn_around(conformed, flip):
    def only_a_corner(labels):
        labels[:] = 0
        labels[9:, 9:, 9:] = 3
        return labels

    draw = in_fields(
        conformed({"draw": only_a_corner}), NOTHING.model_copy(update={"flip": flip}), (8, 8, 8)
    )

    for number in range(6):
        batch = draw(number)
        cut = tuple(slice(int(a), int(b)) for a, b in batch["window"][0])
        assert (batch["classes/phantom8"][0][cut] > 0).any()


def test_every_case_is_seen_before_any_comes_again(conformed):
    draw = patches(conformed({}, {}, {}, {}), config=PatchConfig(size=(8, 8, 8), batch=4))
    seen = [draw._turn_of(number).scan.case.id for number in range(12)]

    for lap in range(3):
        assert sorted(seen[4 * lap : 4 * lap + 4]) == ["c0", "c1", "c2", "c3"]


def test_a_case_without_labels_gives_images_and_no_labels(conformed):
    batch = patches(conformed(None))(0)

    assert (batch["classes/phantom8"] == -1).all()


def test_a_case_that_lacks_structures_hands_over_its_merge_table(conformed):
    batch = patches(conformed({"looked_for": ("Ventricle",)}))(0)

    assert batch["merge/phantom8"][0].tolist() == [0, 0, 0, 0, 0, 0, 0, 7, 0]
    assert set(batch["classes/phantom8"].unique().tolist()) <= {0, 7}


def test_slices_that_nobody_looked_at_stay_unlabeled(conformed):
    def every_third_slice(labels):
        drawn = np.full_like(labels, -1)
        drawn[::3] = labels[::3]
        return drawn

    batch = patches(conformed({"draw": every_third_slice}))(0)

    for classes in batch["classes/phantom8"]:
        looked_at = (classes >= 0).all(dim=2).all(dim=1)
        assert (classes >= 0).any(dim=2).any(dim=1).tolist() == looked_at.tolist()
        assert 2 <= looked_at.sum() <= 3


def test_mirroring_exchanges_left_and_right_labels(conformed):
    always = AugmentConfig(flip=1, move=0, chance=0, margin_voxels=0)
    whole = PatchConfig(size=(12, 12, 12), batch=1)

    plain = patches(conformed({}), config=whole)(0)
    flipped = patches(conformed({}), always, whole)(0)

    assert torch.equal(flipped["image"], plain["image"].flip(2))
    swap = torch.from_numpy(PHANTOM.mirrored()).long()
    expected = swap[plain["classes/phantom8"].long()].flip(1)
    assert torch.equal(flipped["classes/phantom8"].long(), expected)
    assert flipped["merge/phantom8"].tolist() == [list(range(9))]


def test_a_scan_smaller_than_the_patch_is_padded_with_unlabeled_voxels(conformed):
    batch = patches(conformed({}), config=PatchConfig(size=(16, 16, 16), batch=1))(0)

    assert (batch["classes/phantom8"] >= 0).sum() == 12**3
    assert (batch["image"][0, 0][batch["classes/phantom8"][0] < 0] == 0).all()


def test_labels_that_say_nothing_about_the_network_are_refused_by_case(conformed):
    def tissues(labels):
        return np.minimum(labels, 3)

    scans = conformed({}, {"draw": tissues, "protocol": "tissue3"})

    with pytest.raises(CohortError, match="c1: protocol 'tissue3' has nothing in common"):
        make_examples(scans, HEADS)


def test_structures_that_no_training_case_has_are_refused_by_name(conformed):
    def without_two(labels):
        return np.where(np.isin(labels, (5, 8)), 0, labels)

    examples = make_examples(conformed({"draw": without_two}), HEADS)

    with pytest.raises(CohortError, match="no training case has Left-Nucleus, Brain-Stem"):
        require_every_class(examples, HEADS)


def test_a_structure_that_was_only_looked_for_elsewhere_is_no_empty_class(conformed):
    first = {"looked_for": PHANTOM.names[:4]}
    second = {"looked_for": PHANTOM.names[4:]}

    require_every_class(make_examples(conformed(first, second), HEADS), HEADS)


def test_held_out_dice_leaves_out_what_the_labels_cannot_judge(conformed):
    scans = conformed({"looked_for": ("Ventricle", "Brain-Stem")})
    terms = make_examples(scans, HEADS)[0].contracts["phantom8"][0]
    drawn = np.array([7, 7, 8, 0, -1]).reshape(5, 1, 1).astype(np.int16)
    found = np.array([7, 1, 2, 3, 8]).reshape(5, 1, 1).astype(np.int16)

    scores = dict(dice_by_contract(found, drawn, terms, PHANTOM))

    assert scores == {"Ventricle": pytest.approx(2 / 3), "Brain-Stem": 0.0}


def test_held_out_scans_are_seen_as_segmenting_looks_at_them_first(conformed, tmp_path):
    examples = make_examples(conformed({}), HEADS)
    held_out = HeldOut(examples, HEADS, (16, 16, 16), Workplace(tmp_path, tmp_path), FIELD)
    scan, path = examples[0].scan, examples[0].scan.case.scans["T1w"]
    field = first_look(read_scan(path), FIELD)

    image, classes = held_out._seen(scan)

    np.testing.assert_allclose(
        image[0], robust_scale(conform(read_scan(path), field).data), atol=1e-6
    )
    assert np.unique(image[0][classes == 5]).size == 1, "labels lie where the image does"
    assert (classes == -1).any(), "beyond the scan nobody has looked"


def test_held_out_confusions_name_what_was_taken_for_what(conformed):
    terms = make_examples(conformed({}), HEADS)[0].contracts["phantom8"][0]
    drawn = np.array([7, 7, 8, 0, -1, 0]).reshape(6, 1, 1).astype(np.int16)
    found = np.array([7, 8, 8, 7, 8, 0]).reshape(6, 1, 1).astype(np.int16)

    taken = confusion_by_contract(found, drawn, terms, PHANTOM)

    seventh, eighth = PHANTOM.names[6:8]
    assert taken == {
        (seventh, seventh): 1,
        (seventh, eighth): 1,
        (eighth, eighth): 1,
        ("background", seventh): 1,
    }


def test_cases_can_be_drawn_in_proportion_to_what_their_labels_tell_apart(conformed):
    half = {"looked_for": PHANTOM.names[:4]}
    config = PatchConfig(size=(8, 8, 8), batch=4, balance=1.0)
    draw = patches(conformed({}, half, half, None), config=config)

    assert draw._shares.tolist() == [0.5, 0.25, 0.25, 0.0]
    assert {draw._turn_of(number).scan.case.id for number in range(40)} == {"c0", "c1", "c2"}
    assert draw._turn_of(7) is draw._turn_of(7)


@pytest.fixture
def sessions(tmp_path):
    """Conforms sessions, given by their age and modalities, to channels T1w and T2w."""

    def build(*found):
        cases = []
        for number, (age_weeks, modalities) in enumerate(found):
            rng = np.random.default_rng(number)
            scans = {name: tmp_path / f"{number}_{name}.nii" for name in modalities}
            for path in scans.values():
                image = rng.integers(1, 100, (12, 12, 12)).astype(np.int16)
                nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), path)
            name, labels = f"c{number}", tmp_path / f"{number}_dseg.nii"
            drawn = np.broadcast_to(np.arange(12), (12, 12, 12)) % 9
            nibabel.save(nibabel.Nifti1Image(drawn.astype(np.int16), np.eye(4)), labels)
            cases.append(Case(name, name, name, scans, labels, "phantom8", age_weeks=age_weeks))
        rule = WorkingRule(spacing_mm=1.0, modalities=("T1w", "T2w"), any_modality=True)
        return conform_cases(cases, rule, Cache(tmp_path / "cache"))

    return build


def test_batches_tell_the_age_where_it_is_known(sessions):
    scans = sessions((31.5, ["T1w", "T2w"]), (None, ["T1w", "T2w"]))
    batch = patches(scans)(0)

    assert batch["age_weeks"].dtype == torch.float32
    assert sorted(batch["age_weeks"].nan_to_num(-1).tolist()) == [-1.0, 31.5]


def test_a_head_that_was_made_much_larger_or_smaller_has_no_age(sessions):
    scans = sessions((31.5, ["T1w"]))
    sized = AugmentConfig(move=1, chance=0, rotation_deg=0, elastic_voxels=0, margin_voxels=0)

    def ages(scaling):
        draw = patches(scans, sized.model_copy(update={"scaling": scaling}))
        return torch.cat([draw(n)["age_weeks"] for n in range(10)])

    assert (ages(0.04) == 31.5).all()
    assert 0 < ages(0.3).isnan().sum() < 20


SPOILED = AugmentConfig(move=1, chance=1, shift_intensity=0.2, margin_voxels=2)


def test_a_modality_that_a_case_lacks_stays_zero_whatever_happens_to_the_patch(sessions):
    draw = patches(sessions((None, ["T2w"])), SPOILED)

    for n in range(3):
        image = draw(n)["image"]
        assert (image[:, 0] == 0).all()
        assert image[:, 1].std() > 0


def test_hiding_modalities_leaves_one_of_those_that_are_there(sessions):
    always = SPOILED.model_copy(update={"drop_modality": 1.0})
    draw = patches(sessions((None, ["T1w", "T2w"]), (None, ["T2w"])), always)

    shown = [tuple((one != 0).flatten(1).any(1).tolist())
             for n in range(8) for one in draw(n)["image"]]  # fmt: skip

    assert set(shown) == {(True, False), (False, True)}
    assert torch.equal(draw(3)["image"], draw(3)["image"])


def test_hiding_modalities_changes_nothing_else(sessions):
    scans = sessions((None, ["T1w", "T2w"]))
    usual, hiding = (
        patches(scans, SPOILED.model_copy(update={"drop_modality": share}))(0)
        for share in (0.0, 1.0)
    )

    there = hiding["image"] != 0
    assert 0 < there.sum() < there.numel()
    assert torch.equal(hiding["image"][there], usual["image"][there])
    assert torch.equal(hiding["classes/phantom8"], usual["classes/phantom8"])


def test_images_are_painted_anew_where_label_maps_are_complete(sessions, conformed):
    def some(labels):
        drawn = np.full_like(labels, -1)
        drawn[::3] = labels[::3]
        return drawn

    always = AugmentConfig(flip=0, move=0, chance=0, margin_voxels=0, synthetic=1)
    whole, part = sessions((None, ["T1w", "T2w"])), conformed({"draw": some})

    assert not torch.equal(patches(whole)(0)["image"], patches(whole, always)(0)["image"])
    assert torch.equal(patches(part)(0)["image"], patches(part, always)(0)["image"])
    for key in ("classes/phantom8", "merge/phantom8"):
        assert torch.equal(patches(whole)(0)[key], patches(whole, always)(0)[key])


def test_cases_without_labels_have_nothing_to_teach(conformed):
    require_labels(make_examples(conformed({}, None), HEADS))
    with pytest.raises(CohortError, match="None of the 2 training cases has labels"):
        require_labels(make_examples(conformed(None, None), HEADS))


def test_one_side_alone_is_learned_where_nothing_is_mirrored(conformed):
    alone = {"left": LabelProtocol("left", (Label(5, "Left-Nucleus"),))}
    scans = conformed({})

    assert make_examples(scans, alone, flips=False)[0].contracts
    with pytest.raises(ProtocolError, match="no structure 'Right-Nucleus'"):
        make_examples(scans, alone)


def test_structures_that_are_drawn_in_vain_are_told_with_what_they_may_be():
    drawn = LabelProtocol("mine", tuple(map(Label, (1, 2), ("Left-Nucleus-Proper", "Ventricle"))))

    (said,) = drawn_in_vain([drawn, None, drawn], HEADS)

    assert "none of these structures of 'mine'" in said
    assert said.endswith("Left-Nucleus-Proper (Left-Nucleus?).")
    assert drawn_in_vain([load_protocol("fsl15")], {"aseg32": load_protocol("aseg32")}) == []


def test_held_out_scans_without_labels_are_told(conformed, tmp_path):
    said = []
    HeldOut(
        make_examples(conformed(None), HEADS), HEADS, (16, 16, 16),
        Workplace(tmp_path, tmp_path, tell=said.append),
    )  # fmt: skip

    assert said[0].startswith("None of the 1 scans of the split val has labels")
