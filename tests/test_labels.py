import numpy as np
import pytest

from fewlabel.errors import ProtocolError
from fewlabel.labels import (
    UNLABELED,
    Label,
    LabelProtocol,
    load_protocol,
    meet_by_name,
    shared_protocol,
)


def protocol(*names, name="own"):
    return LabelProtocol(name, tuple(Label(10 * n, x) for n, x in enumerate(names, start=1)))


def write(folder, text, name="own.tsv"):
    (folder / name).write_text(text)
    return folder / name


def test_classes_follow_the_order_of_the_file_and_background_is_zero(tmp_path):
    read = load_protocol(write(tmp_path, "index\tname\n0\tbackground\n7\tB\n3\tA\n"))

    assert read.name == "own"
    assert read.names == ("B", "A")
    assert read.values.tolist() == [0, 7, 3]
    assert read.class_of("A") == 2


def test_a_stray_value_is_read_as_unannotated_and_is_no_class(tmp_path):
    read = load_protocol(write(tmp_path, "index\tname\tscored\n7\tB\tyes\n9\ttablet\tstray\n"))

    assert read.names == ("B",)
    assert read.class_by_value == {0: 0, 7: 1, 9: UNLABELED}


def test_colors_and_what_is_scored_are_read(tmp_path):
    text = "index\tname\tcolor\tscored\n7\tB\t#ff0080\tno\n8\tA\t\tyes\n"

    first, second = load_protocol(write(tmp_path, text)).labels

    assert (first.color, first.scored) == ((255, 0, 128), False)
    assert (second.color, second.scored) == ((128, 128, 128), True)


@pytest.mark.parametrize(
    "line", ["x\tA\t#ffffff", "-3\tA\t#ffffff", "40000\tA\t", "3\t\t", "3\tA\tred", "3"]
)
def test_a_line_that_makes_no_sense_is_shown_with_its_number(tmp_path, line):
    path = write(tmp_path, f"index\tname\tcolor\n{line}\n")

    with pytest.raises(ProtocolError, match=r"Line 2 of protocol 'own' is [^;]*; it needs a whole"):
        load_protocol(path)


def test_a_misspelled_scored_is_refused(tmp_path):
    path = write(tmp_path, "index\tname\tscored\n3\tA\tmaybe\n")

    with pytest.raises(ProtocolError, match="scored of yes, no or stray"):
        load_protocol(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("index\tname\n3\tA\n3\tB\n", "has the index 3 more than once"),
        ("index\tname\n3\tA\n4\tA\n", "has the name A more than once"),
        ("index\tname\n", "has no structures"),
    ],
)
def test_doubles_and_emptiness_are_refused(tmp_path, text, words):
    with pytest.raises(ProtocolError, match=words):
        load_protocol(write(tmp_path, text))


def test_a_missing_file_is_refused_by_its_path(tmp_path):
    with pytest.raises(ProtocolError, match=r"Cannot read the protocol table .*none\.tsv"):
        load_protocol(tmp_path / "none.tsv")


def test_an_unknown_protocol_suggests_the_nearest():
    with pytest.raises(ProtocolError, match=r"no protocol 'aseg23'.\n  To fix: write 'aseg32'"):
        load_protocol("aseg23")


def test_an_unknown_structure_suggests_the_nearest():
    with pytest.raises(ProtocolError, match="write 'Hippocampus'"):
        protocol("Hippocampus").class_of("Hipocampus")


def test_mirroring_swaps_sides_and_keeps_what_nobody_looked_at():
    table = protocol("Left-A", "B", "Right-A").mirrored()

    assert table[np.array([0, 1, 2, 3, -1])].tolist() == [0, 3, 2, 1, -1]


def test_mirroring_needs_both_sides():
    with pytest.raises(ProtocolError, match="no structure 'Right-A'"):
        protocol("Left-A").mirrored().sum()


def test_without_a_table_equal_names_meet_and_the_rest_is_background():
    table = protocol("A", "B", "C").table_to(protocol("C", "A", name="other"))

    assert table[np.array([0, 1, 2, 3, -1])].tolist() == [0, 2, 0, 1, -1]


def test_protocols_with_nothing_in_common_are_refused():
    with pytest.raises(ProtocolError, match="'own' and 'other' have no structure in common"):
        protocol("A").table_to(protocol("B", name="other"))


def test_a_part_of_a_shipped_protocol_keeps_its_tables():
    aseg = load_protocol("aseg32")
    source = load_protocol("neuromorphometrics138")
    part = aseg.restrict(["Left-Caudate", "Left-Putamen"])

    table = source.table_to(part)

    assert table[source.class_of("Left Caudate")] == 1
    assert table[source.class_of("Left Putamen")] == 2
    assert table[source.class_of("Right Caudate")] == 0


def test_an_ambiguous_structure_becomes_unannotated():
    source, target = load_protocol("neuromorphometrics138"), load_protocol("aseg32")

    vermis = source.class_of("Cerebellar Vermal Lobules I-V")

    assert source.table_to(target)[vermis] == UNLABELED


def test_a_protocol_does_not_cover_what_it_draws_only_a_part_of():
    gyri = load_protocol("neuromorphometrics138")
    target = load_protocol("aseg32")
    one_gyrus = gyri.restrict(["Left AIns anterior insula", "Left Caudate"])

    assert "CSF" not in gyri.covers(target)
    assert one_gyrus.covers(target) == ("Left-Caudate",)


def test_the_shared_protocol_is_the_coarser_one_whichever_comes_first():
    fine, coarse = load_protocol("dktaseg"), load_protocol("aseg32")

    shared = shared_protocol(fine, coarse)

    assert shared == shared_protocol(coarse, fine)
    assert set(coarse.names) - set(shared.names) == {
        "CSF",
        "Left-Cerebral-White-Matter",
        "Right-Cerebral-White-Matter",
    }


def test_a_network_learns_from_a_smaller_protocol_by_adding_up_its_classes():
    head, case = load_protocol("aseg32"), load_protocol("fsl15")

    merge = head.table_to(shared_protocol(head, case))

    assert merge.shape == (34,)
    assert merge[head.class_of("Left-Caudate")] == case.class_of("Left-Caudate")
    assert merge[head.class_of("Left-Cerebral-Cortex")] == 0
    assert merge[-1] == UNLABELED


def test_a_table_of_a_spreadsheet_and_a_name_with_dots_are_read(tmp_path):
    (tmp_path / "labels.v2.tsv").write_text("\ufeffindex\tname\n7\tB\n", encoding="utf-8")

    read = load_protocol(tmp_path / "labels.v2.tsv")

    assert (read.name, read.names) == ("labels-v2", ("B",))


def test_a_shipped_name_with_a_structure_more_says_nothing_of_it_elsewhere(tmp_path):
    shipped = load_protocol("aseg32")
    lines = [f"{label.value}\t{label.name}" for label in shipped.labels]
    text = "\n".join(("index\tname", *lines, "31\tLeft-choroid-plexus")) + "\n"
    own, goal = load_protocol(write(tmp_path, text, "aseg32.tsv")), load_protocol("fsl15")

    assert own.covers(goal) == shipped.covers(goal)
    assert own.table_to(goal)[own.class_of("Left-choroid-plexus")] == UNLABELED


def test_protocols_meet_by_name_where_there_is_no_table():
    assert meet_by_name(protocol("A"), protocol("B", name="other"))
    assert not meet_by_name(load_protocol("fsl15"), load_protocol("aseg32"))
