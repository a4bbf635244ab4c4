"""Weights that go on in a network for other structures, modalities and ages."""

import pytest
import torch

from fewlabel.errors import ConfigError
from fewlabel.labels import Label, LabelProtocol, load_protocol
from fewlabel.nets.unet import UNet
from fewlabel.surgery import Sees, origins, shape_of, transplant

SHAPE = {"channels": (3, 4, 5), "residual": True, "depths": 2}


def protocol(name, *structures):
    return LabelProtocol(name, tuple(Label(n, s) for n, s in enumerate(structures, start=1)))


OLD = protocol("old", "Left-Hippocampus", "Right-Hippocampus", "Ventricle")
NEW = protocol("new", "Ventricle", "Brain-Stem", "Right-Hippocampus")


def net_of(*heads, modalities=("T1w",), seed=0, **more):
    torch.manual_seed(seed)
    classes = {head.name: head.n_classes for head in heads}
    net = UNet(classes, in_channels=len(modalities), **(SHAPE | more))
    return net.eval(), Sees({head.name: head for head in heads}, modalities)


def weights_of(net):
    return {key: value.clone() for key, value in net.state_dict().items()}


def test_rows_of_shared_structures_and_of_the_background_are_kept():
    source, known = net_of(OLD)
    net, wanted = net_of(NEW, seed=1)
    own = weights_of(net)

    done = transplant(net, wanted, weights_of(source), known)

    for part in ("outs.0.conv.conv.weight", "outs.1.conv.conv.weight", "outs.0.conv.conv.bias"):
        found = net.state_dict()[f"decoders.new.{part}"]
        old = source.state_dict()[f"decoders.old.{part}"]
        assert torch.equal(found[[0, 1, 3]], old[[0, 3, 2]]), part
        assert torch.equal(found[2], own[f"decoders.new.{part}"][2]), "Brain-Stem begins anew"
    assert set(done.fresh) == {n for n, _ in net.named_parameters() if ".outs." in n}
    assert done.notes == ("2 of 3 structures of new keep their rows from old; new are Brain-Stem.",)


def test_all_inner_weights_are_copied_bit_by_bit():
    source, known = net_of(OLD)
    net, wanted = net_of(NEW, seed=1)

    transplant(net, wanted, weights_of(source), known)

    for key, value in source.state_dict().items():
        if ".outs." not in key:
            assert torch.equal(net.state_dict()[key.replace(".old.", ".new.")], value), key


def test_the_same_structures_and_modalities_are_copied_whole():
    source, known = net_of(OLD)
    net, wanted = net_of(OLD, seed=1)

    done = transplant(net, wanted, weights_of(source), known)

    assert (done.fresh, done.notes) == ((), ())
    assert all(torch.equal(net.state_dict()[k], v) for k, v in source.state_dict().items())


def test_a_side_is_never_taken_for_the_other():
    left = protocol("left", "Left-Hippocampus")
    right = protocol("right", "Right-Hippocampus")

    assert origins(left, right) == {0: 0}
    assert origins(OLD, right) == {0: 0, 1: 2}


def test_structures_meet_by_the_shipped_tables():
    fine, coarse = load_protocol("neuromorphometrics138"), load_protocol("fsl15")

    down, up = origins(fine, coarse), origins(coarse, fine)

    right = coarse.class_of("Right-Accumbens-area")
    assert down[right] == fine.class_of("Right Accumbens Area")
    assert down == dict(sorted((there, here) for here, there in up.items()))


def test_parts_come_from_the_whole_but_no_whole_from_a_part():
    fine, coarse = load_protocol("neuromorphometrics138"), load_protocol("aseg32")

    rows = origins(coarse, fine)

    cortex = coarse.class_of("Left-Cerebral-Cortex")
    parts = [fine.names[number - 1] for number, row in rows.items() if row == cortex]
    assert len(parts) == 49
    assert all(name.startswith("Left") for name in parts)
    assert cortex not in origins(fine, coarse)


def test_parts_are_equally_likely_at_first_and_together_as_likely_as_the_whole():
    whole, parts = load_protocol("tissue3"), load_protocol("aseg32")
    source, known = net_of(whole)
    net, wanted = net_of(parts, seed=1)
    rows = origins(whole, parts)
    there = whole.class_of("white matter")
    here = [number for number, row in rows.items() if row == there]

    done = transplant(net, wanted, weights_of(source), known)

    image = torch.rand((1, 1, 8, 8, 8), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        odds = (net(image)["aseg32"][0, here] - net(image)["aseg32"][0, :1]).exp()
        before = source(image)["tissue3"][0]
    assert len(here) > 1
    torch.testing.assert_close(odds, odds[:1].expand_as(odds))
    torch.testing.assert_close(odds.sum(0), (before[there] - before[0]).exp())
    assert "decoders.aseg32.outs.0.conv.conv.bias" in done.fresh
    assert "begin as equal parts of a structure there" in done.notes[0]


def test_a_structure_that_was_drawn_in_parts_is_another_structure():
    sides, tissue = load_protocol("aseg32"), load_protocol("tissue3")

    assert tissue.class_of("white matter") not in origins(sides, tissue)


def test_a_new_modality_changes_nothing_at_first():
    source, known = net_of(OLD)
    net, wanted = net_of(OLD, modalities=("T2w", "T1w"), seed=1)

    done = transplant(net, wanted, weights_of(source), known)

    image = torch.rand((1, 2, 8, 8, 8), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        torch.testing.assert_close(net(image)["old"], source(image[:, 1:])["old"])
    assert set(done.fresh) == {"encoder.levels.0.conv1.conv.weight",
                               "encoder.levels.0.conv3.conv.weight"}  # fmt: skip
    assert done.notes == ("The filters for T2w begin as zeros.",)


def test_a_lone_new_modality_is_looked_at_with_the_filters_of_the_old_one():
    source, known = net_of(OLD)
    net, wanted = net_of(OLD, modalities=("T2w",), seed=1)

    done = transplant(net, wanted, weights_of(source), known)

    assert all(torch.equal(net.state_dict()[k], v) for k, v in source.state_dict().items())
    assert done.notes == ("The filters for T2w begin as those for T1w.",)
    assert "encoder.levels.0.conv1.conv.weight" in done.fresh


def test_a_modality_that_is_no_longer_there_is_left_out_by_name():
    source, known = net_of(OLD, modalities=("T1w", "T2w"))
    net, wanted = net_of(OLD, modalities=("T2w",), seed=1)

    done = transplant(net, wanted, weights_of(source), known)

    key = "encoder.levels.0.conv1.conv.weight"
    assert torch.equal(net.state_dict()[key][:, 0], source.state_dict()[key][:, 1])
    assert done.fresh == ()


def test_deeper_supervision_than_the_sources_begins_anew():
    source, known = net_of(OLD, depths=1)
    net, wanted = net_of(OLD, seed=1)

    done = transplant(net, wanted, weights_of(source), known)

    assert set(done.fresh) == {f"decoders.old.outs.1.conv.conv.{w}" for w in ("weight", "bias")}


def test_a_head_of_another_name_goes_on_from_the_one_that_shares_most():
    other = protocol("other", "Skull")
    source, known = net_of(other, OLD)
    net, wanted = net_of(NEW, seed=1)

    transplant(net, wanted, weights_of(source), known)

    key = "ups.0.transp_conv.conv.weight"
    found = net.state_dict()[f"decoders.new.{key}"]
    assert torch.equal(found, source.state_dict()[f"decoders.old.{key}"])


def test_an_age_head_that_expects_more_ages_says_the_same_at_first():
    source, known = net_of(OLD, age=True)
    source.age.expect((37.0, 44.0))
    net, wanted = net_of(OLD, age=True, seed=1)
    net.age.expect((28.0, 44.0))

    done = transplant(net, wanted, weights_of(source), known)

    image = torch.rand((2, 1, 8, 8, 8), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        torch.testing.assert_close(net(image)["age_weeks"], source(image)["age_weeks"])
    assert net.age.range_weeks == (28.0, 44.0)
    assert done.fresh == ()


def test_a_layer_at_full_resolution_keeps_its_filters_for_features_and_known_modalities():
    source, known = net_of(OLD, fine=2)
    net, wanted = net_of(OLD, modalities=("T2w", "T1w"), seed=1, fine=2)

    done = transplant(net, wanted, weights_of(source), known)

    name = "decoders.old.finest.conv.conv.weight"
    before, after = (one.state_dict()[name] for one in (source, net))
    assert torch.equal(after[:, :2], before[:, :2]), "maps"
    assert torch.equal(after[:, 3], before[:, 2]), "T1w"
    assert not after[:, 2].any(), "T2w is new"
    assert name in done.fresh


def test_a_network_of_other_channels_is_refused():
    source, known = net_of(OLD)
    net, wanted = net_of(OLD, channels=(3, 4, 6))

    with pytest.raises(ConfigError, match="do not fit this network"):
        transplant(net, wanted, weights_of(source), known)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"age": True},
        {"residual": False},
        {"depths": 1},
        {"fine": 2},
        {"fine": 2, "fine_norm": False},
        {"first": 7},
    ],
)
def test_the_shape_of_a_network_can_be_told_from_its_weights(more):
    net, _ = net_of(OLD, modalities=("T1w", "T2w"), **more)

    found = shape_of(net.state_dict())

    assert found == {"in_channels": 2, "channels": [3, 4, 5], "residual": True, "depths": 2,
                     "fine": 0, "fine_norm": True, "first": 3, "age": False} | more  # fmt: skip


def test_weights_of_another_network_are_refused():
    with pytest.raises(ConfigError, match=r"not those of a U-Net: they begin with 'features.0'"):
        shape_of({"features.0": torch.zeros(1)})
