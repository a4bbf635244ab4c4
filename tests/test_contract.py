import numpy as np
import pytest

from fewlabel.contract import contract
from fewlabel.errors import ProtocolError
from fewlabel.labels import Label, LabelProtocol, load_protocol

SIDES = LabelProtocol(
    "sides",
    (Label(1, "Left-Putamen"), Label(2, "Right-Putamen"), Label(3, "Brain-Stem")),
)


def test_labels_in_the_protocol_of_the_network_are_its_classes():
    found = contract(SIDES, SIDES)

    assert found.is_whole
    assert found.labels.tolist() == [0, 1, 2, 3, -1]
    assert found.merge.tolist() == [0, 1, 2, 3]


def test_structures_that_nobody_looked_for_are_one_set_with_the_background():
    found = contract(SIDES, SIDES, looked_for={"Left-Putamen", "Brain-Stem"})

    assert found.merge.tolist() == [0, 1, 0, 3]
    assert found.labels[[0, 1, 3, -1]].tolist() == [0, 1, 3, -1]


def test_a_smaller_protocol_leaves_the_rest_to_the_background():
    smaller = LabelProtocol("stem", (Label(16, "Brain-Stem"),))

    found = contract(SIDES, smaller)

    assert found.merge.tolist() == [0, 0, 0, 3]
    assert found.labels.tolist() == [0, 3, -1]


def test_a_set_goes_by_the_number_of_its_first_class():
    full, tissue = load_protocol("aseg32"), load_protocol("tissue3")

    found = contract(full, tissue)

    sets = {int(found.labels[n]) for n in range(1, 4)}
    assert all(found.merge[first] == first for first in sets)
    assert all(first == np.flatnonzero(found.merge == first)[0] for first in sets)


def test_a_class_that_could_be_of_several_tissues_may_be_under_any_label():
    full, tissue = load_protocol("aseg32"), load_protocol("tissue3")

    found = contract(full, tissue)

    assert found.merge[full.class_of("Left-VentralDC")] == -1


def test_labels_finer_than_the_network_are_brought_to_its_classes():
    head, fine = load_protocol("aseg32"), load_protocol("neuromorphometrics138")

    found = contract(head, fine)

    pallidum = head.class_of("Right-Pallidum")
    assert found.labels[fine.class_of("Right Pallidum")] == pallidum
    assert found.merge[pallidum] == pallidum
    assert found.merge[head.class_of("CSF")] == 0  # the manual labels draw a scrap of it
    assert found.labels[fine.class_of("Cerebellar Vermal Lobules I-V")] == -1


def test_mirroring_whole_labels_exchanges_the_sides():
    found = contract(SIDES, SIDES).mirrored(SIDES)

    assert found.labels.tolist() == [0, 2, 1, 3, -1]
    assert found.is_whole


def test_mirroring_labels_of_one_side_looks_for_the_other():
    found = contract(SIDES, SIDES, looked_for={"Left-Putamen"}).mirrored(SIDES)

    assert found.labels[[0, 1]].tolist() == [0, 2]
    assert found.merge.tolist() == [0, 0, 2, 0]


def test_mirroring_twice_changes_nothing():
    full = load_protocol("neuromorphometrics138")
    once = contract(full, load_protocol("fsl15"))

    twice = once.mirrored(full).mirrored(full)

    assert np.array_equal(twice.labels, once.labels)
    assert np.array_equal(twice.merge, once.merge)


def test_protocols_with_nothing_in_common_are_refused():
    with pytest.raises(ProtocolError, match="no structure in common"):
        contract(SIDES, LabelProtocol("other", (Label(1, "Heart"),)))
