"""Progress of training for people to watch."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from fewlabel.train.run import Progress

LINE_EVERY_S = 10.0


@contextmanager
def shown(console: Console | None = None) -> Iterator[Callable[[Progress], None]]:
    """A watcher that draws a bar on a terminal, and writes a line now and then elsewhere."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield _lines(console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[said]}"),
    )
    with Bar(*columns, console=console) as bar:
        tasks = {}

        def watch(progress: Progress) -> None:
            if progress.stage not in tasks:
                tasks[progress.stage] = bar.add_task(progress.stage, total=progress.steps, said="")
            bar.update(tasks[progress.stage], completed=progress.step, said=describe(progress))

        yield watch


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Tells whether Ctrl-C was pressed or the scheduler wants the process to end.

    The first request only sets a mark, so that a step is never cut in two; a second Ctrl-C
    ends the process at once.
    """
    asked = False

    def mark(number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, mark)
    try:
        yield lambda: asked
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def _lines(console: Console) -> Callable[[Progress], None]:
    last = -LINE_EVERY_S

    def watch(progress: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= LINE_EVERY_S or progress.step == progress.steps:
            last = now
            console.print(
                f"{progress.stage} {progress.step}/{progress.steps}  {describe(progress)}",
                highlight=False,
                soft_wrap=True,
            )

    return watch


def describe(progress: Progress) -> str:
    """Losses, scores, pace and time left in one line.

    >>> values = {"total": 0.25, "steps per second": 2.0}
    >>> describe(Progress("fit", 50, 100, values, left_s=25.0))
    'total 0.25  steps per second 2  left 0:00:25'
    """
    values = "  ".join(f"{name} {value:.4g}" for name, value in progress.values.items())
    return f"{values}  left {timedelta(seconds=round(progress.left_s))}"
