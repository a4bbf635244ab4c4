"""Learning curves of richter2022.py, from its rows."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from fewlabel.scores import new_figure, save_figure

Rows = Sequence[Mapping[str, str]]
COLORS = ("#000000", "#e69f00", "#56b4e9", "#009e73", "#d55e00", "#0072b2", "#cc79a7")
"""Told apart by people of any color vision (Okabe and Ito)."""


def draw_curves(budgets: Rows, tuned: Rows, picture: Path) -> None:
    """Dice over steps: a panel for each data set of the budgets, one for fine-tuning."""
    sets = list(dict.fromkeys(row["data"] for row in budgets))
    figure = new_figure(height=3.2 * (len(sets) + 1))
    panels = figure.subplots(len(sets) + 1)
    for panel, data in zip(panels, sets, strict=False):
        _lines(panel, [row for row in budgets if row["data"] == data], "labels")
        panel.set_title(f"label budgets, {data}")
    _lines(panels[-1], tuned, "strategy")
    panels[-1].set_title("fine-tuning, older to younger weeks")
    for panel in panels:
        panel.set_xlabel("steps")
        panel.set_ylabel("Dice, mean over seeds")
        panel.legend(fontsize=7, frameon=False)
        panel.spines[["top", "right"]].set_visible(False)
    save_figure(figure, picture)


def _lines(panel: Any, rows: Rows, key: str) -> None:
    names = list(dict.fromkeys(row[key] for row in rows))
    for name, color in zip(names, COLORS, strict=False):
        curves = [dict(p.split(":") for p in row["curve"].split()) for row in rows
                  if row[key] == name]  # fmt: skip
        steps = sorted({int(step) for curve in curves for step in curve})
        ends = [mean(float(c[str(n)]) for c in curves if str(n) in c) for n in steps]
        if len(steps) == 1:  # nothing trained
            panel.axhline(ends[0], color=color, linestyle=":", label=name)
        else:
            panel.plot(steps, ends, color=color, marker="o", markersize=3, label=name)
