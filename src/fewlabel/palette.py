"""What label values look like: tissues, and how bright they are in a contrast."""

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import numpy as np
from jaxtyping import Int16, Int64, UInt8

from fewlabel.errors import ConfigError
from fewlabel.labels import LabelProtocol

Range = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Palette:
    """What the values of a label file stand for when an image is painted from them.

    Row 0 is background; there is one more row for each value of the file.

    Attributes:
        values: Values in label files.
        tissue: Structures of one tissue get nearly the same intensity.
        learn: Class that the network shall give.
        partner: Row of the same structure on the other side; itself if unpaired.
        part: "brain", "csf" around it, or "head".
    """

    values: Int16[np.ndarray, "rows"]
    tissue: tuple[str, ...]
    learn: Int64[np.ndarray, "rows"]
    partner: Int64[np.ndarray, "rows"]
    part: tuple[str, ...]

    def rows_of(self, values: Int16[np.ndarray, "i j k"]) -> UInt8[np.ndarray, "i j k"]:
        """Palette row per voxel; values that the palette lacks become background."""
        table = np.zeros(int(max(values.max(), self.values.max())) + 1, dtype=np.uint8)
        table[self.values] = np.arange(len(self.values))
        rows: np.ndarray = table[np.maximum(values, 0)]
        return rows


def load_palette(name: str, protocol: LabelProtocol) -> Palette:
    """A palette that ships with fewlabel, for learning `protocol`.

    Raises:
        ConfigError: If there is no palette of that name.
    """
    folder = files("fewlabel") / "protocols" / "palettes"
    path = folder / f"{name}.tsv"
    if not path.is_file():
        known = sorted(f.name[:-4] for f in folder.iterdir() if f.name != "contrasts.tsv")
        raise ConfigError(f"There is no palette {name!r}.", fix=f"use one of {', '.join(known)}.")
    lines = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines(), delimiter="\t"))
    values = [0, *(int(line["index"]) for line in lines)]
    classes = {int(value): number for number, value in enumerate(protocol.values)}
    return Palette(
        values=np.array(values, dtype=np.int16),
        tissue=("background", *(line["tissue"] for line in lines)),
        learn=np.array([0, *(classes[int(line["learn"])] for line in lines)]),
        partner=np.array([0, *(values.index(int(line["partner"])) for line in lines)]),
        part=("outside", *(line["part"] for line in lines)),
    )


class Prior(NamedTuple):
    """Where a tissue's intensity may lie in one contrast, and which tissues are like it."""

    ends: Range = (0.0, 1.0)
    family: str = ""


@cache
def contrasts() -> dict[tuple[str, str], Prior]:
    """The prior of each contrast and tissue that ships with fewlabel."""
    path = files("fewlabel") / "protocols" / "palettes" / "contrasts.tsv"
    lines = csv.DictReader(path.read_text(encoding="utf-8").splitlines(), delimiter="\t")
    return {
        (x["contrast"], x["tissue"]): Prior((float(x["low"]), float(x["high"])), x["family"])
        for x in lines
    }
