"""The course of training as a picture that is redrawn while it goes on."""

import time
from collections import defaultdict
from pathlib import Path

from fewlabel.errors import OutputError
from fewlabel.train.history import History
from fewlabel.train.run import Progress
from fewlabel.whole import write_whole

_NOT_DRAWN = {"learning rate", "steps per second", "share waiting for data"}


class Picture:
    """`history.png`: losses and scores over steps, one column per stage.

    Args:
        folder: Run folder with `history.csv`.
        every_s: Seconds between two drawings.
    """

    def __init__(self, folder: Path, every_s: float = 60.0) -> None:
        self._folder = folder
        self._every_s = every_s
        self._drawn = time.monotonic()

    def watch(self, _: Progress) -> None:
        """Draw if it is time."""
        if time.monotonic() - self._drawn >= self._every_s:
            draw_history(self._folder)
            self._drawn = time.monotonic()


def draw_history(folder: Path) -> None:
    """Draw `history.csv` of a run folder as `history.png`.

    A picture that cannot be written is no reason to end a run, so it is left out then.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curves: dict[str, dict[str, list[tuple[int, float]]]] = defaultdict(lambda: defaultdict(list))
    for stage, step, quantity, value in History(folder / "history.csv").rows():
        if quantity not in _NOT_DRAWN:
            curves[stage][quantity].append((step, value))
    rows = 1 + any("validation" in name for drawn in curves.values() for name in drawn)
    figure = Figure(figsize=(1 + 4.5 * max(1, len(curves)), 3 * rows), layout="constrained")
    for column, (stage, drawn) in enumerate(curves.items(), start=1):
        training = {name: points for name, points in drawn.items() if "validation" not in name}
        held_out = {name: points for name, points in drawn.items() if "validation" in name}
        for row, part in enumerate((training, held_out)):
            if part:
                axes = figure.add_subplot(rows, len(curves), row * len(curves) + column)
                axes.set(title=stage, xlabel="step")
                for name, points in part.items():
                    axes.plot(*zip(*points, strict=True), label=name, marker="." * row)
                axes.legend(fontsize="small")
    try:
        with write_whole(folder / "history.png") as draft:
            FigureCanvasAgg(figure).print_png(draft)
    except OutputError:
        return
