"""Names and colors of labels, as ITK-SNAP and 3D Slicer read them.

Sources: ITK-SNAP writes its label descriptions in Logic/Common/ColorLabelTable.cxx (nine lines of
comment, then a line a label); Slicer's tables are told in its developer guide, "Colors": .ctbl is
what all versions read, .csv what newer ones write.
"""

import csv
from io import StringIO

from fewlabel.labels import LabelProtocol

FAINT = 0.3
"""Opacity of labels that shall not hide the scan."""
_CSV = ("LabelValue", "Name", "Color_R", "Color_G", "Color_B", "Color_A")
_SNAP_HEAD = """\
################################################
# ITK-SnAP Label Description File
# File format:
# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL
# Fields:
#    IDX:   Zero-based index
#    -R-:   Red color component (0..255)
#    -G-:   Green color component (0..255)
#    -B-:   Blue color component (0..255)
#    -A-:   Label transparency (0.00 .. 1.00)
#    VIS:   Label visibility (0 or 1)
#    MSH:   Label mesh visibility (0 or 1)
#  LABEL:   Label description
################################################
"""


def snap_labels(protocol: LabelProtocol, faint: str = "") -> str:
    """ITK-SNAP's label descriptions.

    Args:
        protocol: What to name.
        faint: A structure that is seen through, and of which no surface is made.
    """
    lines = [_snap_line(0, (0, 0, 0), 0.0, 0, "Clear Label")]
    for label in protocol.labels:
        solid = label.name != faint
        alpha = 1.0 if solid else FAINT
        lines.append(_snap_line(label.value, label.color, alpha, int(solid), label.name))
    return _SNAP_HEAD + "".join(lines)


def _snap_line(value: int, color: tuple[int, int, int], alpha: float, mesh: int, name: str) -> str:
    red, green, blue = color
    shown = int(alpha > 0)
    plain = name.replace('"', "'")
    return (
        f"{value:5d}   {red:3d}  {green:3d}  {blue:3d}  {alpha:7.2g}  {shown}  {mesh}"
        f'    "{plain}"\n'
    )


def slicer_colors(protocol: LabelProtocol, faint: str = "") -> str:
    """Slicer's color table (.ctbl): number, name without blanks, red, green, blue, opacity."""
    lines = ["0 Background 0 0 0 0"]
    for value, name, *color in _slicer_rows(protocol, faint):
        lines.append(" ".join([str(value), "_".join(str(name).split()), *map(str, color)]))
    return "\n".join(["# Color table file", f"# {len(lines)} values", *lines]) + "\n"


def slicer_csv(protocol: LabelProtocol, faint: str = "") -> str:
    """Slicer's newer color table (.csv); 0 is background and not in it."""
    text = StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(_CSV)
    table.writerows(_slicer_rows(protocol, faint))
    return text.getvalue()


def _slicer_rows(protocol: LabelProtocol, faint: str) -> list[tuple[int | str, ...]]:
    return [
        (
            label.value,
            label.name.replace('"', "'"),
            *label.color,
            round(255 * FAINT) if label.name == faint else 255,
        )
        for label in protocol.labels
    ]
