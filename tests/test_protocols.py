"""The shipped tables: numbers that the protocols' authors publish."""

import csv
from importlib.resources import files

import pytest

from fewlabel.labels import load_protocol, protocol_names
from fewlabel.sides import other_side

FOLDER = files("fewlabel") / "protocols"
TABLES = sorted(f.name[:-4] for f in (FOLDER / "tables").iterdir() if f.name.endswith(".tsv"))


def rows(name):
    text = (FOLDER / "tables" / f"{name}.tsv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines(), delimiter="\t"))


@pytest.mark.parametrize(
    ("name", "structures", "scored"),
    [
        ("aseg32", 32, 32),
        ("asegextra", 53, 32),
        ("dktaseg", 98, 96),
        ("drawem9", 9, 8),
        ("fetal8", 8, 8),
        ("fsl15", 15, 15),
        ("hammers67", 67, 67),
        ("hippocampus2", 2, 2),
        ("knee5", 5, 5),
        ("malc25", 25, 25),
        ("mrbrains3", 3, 3),
        ("mrbrains8", 8, 8),
        ("neobrains7", 7, 7),
        ("neuromorphometrics138", 138, 134),
        ("oasis4", 4, 4),
        ("serag9", 9, 8),
        ("tissue3", 3, 3),
    ],
)
def test_every_protocol_has_as_many_structures_as_its_authors_count(name, structures, scored):
    protocol = load_protocol(name)

    assert len(protocol.names) == structures
    assert sum(label.scored for label in protocol.labels) == scored
    assert name in protocol_names()


@pytest.mark.parametrize("name", protocol_names())
def test_every_protocol_can_be_mirrored_and_back(name):
    table = load_protocol(name).mirrored()

    assert table[table].tolist() == [*range(len(table) - 1), -1]


@pytest.mark.parametrize("name", protocol_names())
def test_structures_beside_each_other_in_a_list_can_be_told_apart(name):
    labels = load_protocol(name).labels
    colors = {}
    for label in labels:
        unsided = (
            label.name
            if other_side(label.name) is None
            else frozenset((label.name, other_side(label.name)))
        )
        colors.setdefault(unsided, label.color)
    assert len(set(colors.values())) >= 0.9 * len(colors)


def test_the_order_of_aseg32_is_that_of_the_embedded_model():
    values = load_protocol("aseg32").values.tolist()

    assert values == sorted(values)
    assert values[-1] == 60


def test_first_numbers_its_structures_as_freesurfer_does():
    values = [10, 11, 12, 13, 16, 17, 18, 26, 49, 50, 51, 52, 53, 54, 58]

    assert load_protocol("fsl15").values.tolist() == [0, *values]


@pytest.mark.parametrize("name", TABLES)
def test_every_table_says_something_about_every_structure(name):
    source, target = (load_protocol(part) for part in name.split("_to_"))
    goals = {*target.names, "background", "unannotated"}

    assert [row["source"] for row in rows(name)] == list(source.names)
    assert {row["target"] for row in rows(name)} <= goals
    for row in rows(name):
        named = row["target"] in target.names
        assert row["comparable"] in (("yes", "no") if named else ("n/a",)), row


@pytest.mark.parametrize("name", TABLES)
def test_tables_never_swap_sides(name):
    for row in rows(name):
        here, there = row["source"], row["target"]
        if other_side(here) is None or other_side(there) is None:
            continue
        assert side(here) == side(there), row


def side(name):
    lowered = name.lower().replace("lh-", "left").replace("rh-", "right")
    return "left" if "left" in lowered else "right"


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in TABLES
        if "aseg32" not in name and f"{name.split('_to_')[0]}_to_aseg32" in TABLES
    ],
)
def test_going_through_aseg32_or_straight_is_the_same(name):
    source, target = (load_protocol(part) for part in name.split("_to_"))
    between = load_protocol("aseg32")

    straight = source.table_to(target)
    by_way = between.table_to(target)[source.table_to(between)]

    known = (straight > 0) & (by_way > 0)
    assert known.sum() > 3
    assert (straight[known] == by_way[known]).all()


def test_the_fifteen_of_first_are_cut_out_of_the_manual_labels():
    source, target = load_protocol("neuromorphometrics138"), load_protocol("fsl15")
    table = source.table_to(target)

    kept = [int(source.values[c]) for c in range(1, source.n_classes) if table[c] > 0]

    assert kept == [23, 30, 31, 32, 35, 36, 37, 47, 48, 55, 56, 57, 58, 59, 60]


def test_mrbrains_merges_to_the_three_tissues_that_were_ranked():
    source, target = load_protocol("mrbrains8"), load_protocol("mrbrains3")

    gm, wm, csf = (
        target.class_of(n) for n in ("gray matter", "white matter", "cerebrospinal fluid")
    )

    assert source.table_to(target).tolist() == [0, gm, gm, wm, wm, csf, csf, -1, -1, -1]
