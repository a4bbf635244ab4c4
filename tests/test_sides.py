import pytest

from fewlabel.errors import ProtocolError
from fewlabel.labels import Label, LabelProtocol
from fewlabel.sides import is_left, other_side, surely_sided


def protocol(*names):
    return LabelProtocol("own", tuple(Label(n, name) for n, name in enumerate(names, start=1)))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("Left-Caudate", "Right-Caudate"),
        ("Left ACgG anterior cingulate gyrus", "Right ACgG anterior cingulate gyrus"),
        ("ctx-lh-insula", "ctx-rh-insula"),
        ("Putamen left", "Putamen right"),
        ("LEFT_HIPPOCAMPUS", "RIGHT_HIPPOCAMPUS"),
        ("LH_Hippocampus", "RH_Hippocampus"),
        ("HippocampusLeft", "HippocampusRight"),
        ("Hippocampus_L", "Hippocampus_R"),
        ("L-Hippocampus", "R-Hippocampus"),
        ("Hippocampus L", "Hippocampus R"),
        ("lHippocampus", "rHippocampus"),
        ("Left-L-Sg", "Right-L-Sg"),
    ],
)
def test_sides_are_found_however_the_field_writes_them(left, right):
    assert (other_side(left), other_side(right)) == (right, left)
    assert (is_left(left), is_left(right)) == (True, False)
    assert protocol(left, "B", right).mirrored().tolist() == [0, 3, 2, 1, -1]


@pytest.mark.parametrize("name", ["3rd-Ventricle", "Bright", "Brain-Stem", "Cleft", "Lobule-L1"])
def test_a_structure_without_a_side_has_no_partner(name):
    assert (other_side(name), is_left(name), surely_sided(name)) == (None, False, False)


def test_a_lone_letter_is_a_side_only_where_its_partner_is():
    assert protocol("Layer L", "Layer M").mirrored().tolist() == [0, 1, 2, -1]
    with pytest.raises(ProtocolError, match="no structure 'Right-A'") as refusal:
        protocol("Left-A").mirrored()
    assert "augment.flip: 0" in refusal.value.fix
