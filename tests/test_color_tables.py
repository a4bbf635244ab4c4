"""Color tables, read as ITK-SNAP and Slicer read them."""

import csv
import re

import pytest

from fewlabel.color_tables import slicer_colors, slicer_csv, snap_labels
from fewlabel.labels import Label, LabelProtocol, load_protocol, protocol_names

TWO = LabelProtocol(
    "two",
    (Label(3, "white matter, left", (240, 228, 66)), Label(255, "Not-annotated", (90, 90, 90))),
)


def snap(text):
    """ITK-SNAP's own way: comments begin with #, seven numbers, then a name between quotes."""
    found = {}
    for line in text.splitlines():
        if line.startswith("#") or not line:
            continue
        numbers, _, rest = line.partition('"')
        name, _, after = rest.partition('"')
        assert after == ""
        value, red, green, blue, alpha, shown, mesh = numbers.split()
        color = (int(red), int(green), int(blue))
        found[int(value)] = (color, float(alpha), int(shown), int(mesh), name)
    return found


def test_itk_snap_reads_each_label_with_its_color_and_sees_through_the_faint_one():
    assert snap(snap_labels(TWO, faint="Not-annotated")) == {
        0: ((0, 0, 0), 0.0, 0, 0, "Clear Label"),
        3: ((240, 228, 66), 1.0, 1, 1, "white matter, left"),
        255: ((90, 90, 90), 0.3, 1, 0, "Not-annotated"),
    }


def test_the_header_of_itk_snaps_file_names_its_fields_in_order():
    lines = snap_labels(TWO).splitlines()
    assert lines[1] == "# ITK-SnAP Label Description File"
    assert lines[3].split() == ["#", "IDX", "-R-", "-G-", "-B-", "-A--", "VIS", "MSH", "LABEL"]


def test_slicers_table_has_names_without_blanks_and_says_how_many():
    assert slicer_colors(TWO, faint="Not-annotated").splitlines() == [
        "# Color table file",
        "# 3 values",
        "0 Background 0 0 0 0",
        "3 white_matter,_left 240 228 66 255",
        "255 Not-annotated 90 90 90 76",
    ]


def test_slicers_newer_table_puts_a_comma_in_a_name_between_quotes():
    text = slicer_csv(TWO, faint="Not-annotated")
    assert text.splitlines()[0] == "LabelValue,Name,Color_R,Color_G,Color_B,Color_A"
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["Name"] for row in rows] == ["white matter, left", "Not-annotated"]
    assert [row["Color_A"] for row in rows] == ["255", "76"]
    assert "0" not in [row["LabelValue"] for row in rows]


def test_a_quote_in_a_name_cannot_break_a_table():
    odd = LabelProtocol("odd", (Label(1, 'the "left" one'),))
    assert snap(snap_labels(odd))[1][-1] == "the 'left' one"
    assert '""' not in slicer_csv(odd)


@pytest.mark.parametrize("name", protocol_names())
def test_every_shipped_protocol_makes_lines_that_both_programs_can_read(name):
    protocol = load_protocol(name)
    assert set(snap(snap_labels(protocol))) == {0, *(label.value for label in protocol.labels)}
    for line in slicer_colors(protocol).splitlines()[2:]:
        assert re.fullmatch(r"\d+ \S+( \d{1,3}){4}", line)
