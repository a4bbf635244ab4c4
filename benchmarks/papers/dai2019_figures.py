"""The figures of dai2019: Dice by structure, and one slice by all methods."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fewlabel.cohort import Case
from fewlabel.conform import turned
from fewlabel.engine import Compute
from fewlabel.io import read_labels, read_scan
from fewlabel.labels import load_protocol
from fewlabel.model import ModelFolder, find_model
from fewlabel.scores import new_figure, save_figure
from fewlabel.segmenter import Segmenter
from fewlabel.sides import other_side
from fewlabel.volume import LabelMap, Scan

METHODS = ("U-Net (FS)", "U-Net (FT)", "MO-Net")
STRUCTURES = (
    "Hippocampus", "Amygdala", "Caudate", "Putamen", "Thalamus Proper", "Lateral Ventricle",
    "MFG middle frontal gyrus", "STG superior temporal gyrus",
)  # fmt: skip
COLORS = ("#9a9a9a", "#5b8db8", "#d1605e")


def draw_boxes(rows: list[dict[str, str]], path: Path) -> None:
    """Above, eight structures of both sides and scans with 5 labeled scans; below, all structures.

    Args:
        rows: Of the table of structures.
        path: PNG to write.
    """
    whole = [row for row in rows if row["group"] == "whole brain" and row["method"] in METHODS]
    if not whole:
        return
    figure = new_figure(height=7.0)
    above, below = figure.subplots(2)
    counts = list(dict.fromkeys(row["n"] for row in whole))
    n = "5" if "5" in counts else counts[0]
    of = [
        [_values(whole, method, n, (f"Left {name}", f"Right {name}")) for name in STRUCTURES]
        for method in METHODS
    ]
    _boxes(above, of, [name.replace(" ", "\n") for name in STRUCTURES])
    above.set_title(f"{n} labeled scans; left and right of each scored scan")
    names = tuple(row["structure"] for row in whole)
    of = [[_values(whole, method, count, names) for count in counts] for method in METHODS]
    _boxes(below, of, [f"{count} labeled" for count in counts])
    below.set_title("All scored structures of each scored scan")
    save_figure(figure, path)


def _values(rows: list[dict[str, str]], method: str, n: str, names: tuple[str, ...]) -> list[float]:
    wanted = set(names)
    return [
        float(row["dice"])
        for row in rows
        if row["method"] == method and row["n"] == n and row["structure"] in wanted
    ]


def _boxes(axes: Any, of: list[list[list[float]]], names: list[str]) -> None:
    for number, (method, values, color) in enumerate(zip(METHODS, of, COLORS, strict=True)):
        places = np.arange(len(names)) + 0.26 * (number - 1)
        drawn = axes.boxplot(
            values, positions=places, widths=0.2, patch_artist=True, manage_ticks=False
        )
        for box in drawn["boxes"]:
            box.set_facecolor(color)
        axes.plot([], [], color=color, linewidth=6, label=method)
    axes.set_xticks(np.arange(len(names)), names, fontsize="small")
    axes.set_ylabel("Dice")
    axes.set_ylim(0, 1)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize="small", loc="upper right", ncols=3)


def draw_slices(case: Case, models: Mapping[str, ModelFolder], path: Path) -> None:
    """A coronal slice of a scored scan: full labels above, the 15 of FIRST below.

    Args:
        case: The scan and its manual labels.
        models: By title.
        path: PNG to write.
    """
    assert case.labels is not None
    scan = read_scan(case.scans["T1w"])
    truth = read_labels(case.labels, load_protocol(case.protocol))
    first = load_protocol("fsl15")
    found = {"by hand": truth} | {
        title: Segmenter(model, Compute())(scan).labels for title, model in models.items()
    }
    below = {title: labels.to(first) for title, labels in found.items()}
    below |= {"adult-aseg32": Segmenter(find_model(None), Compute())(scan).labels.to(first)}
    figure = new_figure(height=4.0)
    panels = figure.subplots(2, len(below))
    number = _slice_of(below["by hand"])
    for row, maps in zip(panels, (found, below), strict=True):
        for axes in row:
            axes.set_axis_off()
        for axes, (title, labels) in zip(row, maps.items(), strict=False):
            axes.imshow(_painted(scan, labels, number))
            axes.set_title(title, fontsize="small")
    figure.suptitle(f"{case.id}: whole brain, and the 15 structures of FIRST", fontsize="small")
    save_figure(figure, path)


def _slice_of(labels: LabelMap) -> int:
    """The coronal slice with most of FIRST's structures; of several, the middle one."""
    classes = turned(labels)[1]
    count = np.array([len(np.unique(classes[:, j])) for j in range(classes.shape[1])])
    most = np.flatnonzero(count == count.max())
    return int(most[len(most) // 2])


def _painted(scan: Scan, labels: LabelMap, number: int) -> np.ndarray:
    gray = turned(scan)[1][:, number]
    classes = np.maximum(turned(labels)[1][:, number], 0)
    bright = np.clip(gray / max(float(np.percentile(gray, 99.5)), 1e-6), 0, 1)
    colors = np.array([(0, 0, 0), *_colors(labels)]) / 255
    mixed = np.repeat(bright[..., None], 3, axis=-1)
    inside = classes > 0
    mixed[inside] = 0.45 * mixed[inside] + 0.55 * colors[classes[inside]]
    painted: np.ndarray = mixed.transpose(1, 0, 2)[::-1]
    return painted


def _colors(labels: LabelMap) -> list[tuple[int, int, int]]:
    """Those of the protocol, which are alike on both sides."""
    names = [label.name for label in labels.protocol.labels]
    assert any(other_side(name) in names for name in names)
    return [label.color for label in labels.protocol.labels]
