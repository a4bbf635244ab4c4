"""What happened during training, as a table that survives crashes."""

import csv
from io import StringIO
from pathlib import Path

from fewlabel.train.checkpoint import cannot_write
from fewlabel.whole import write_text

COLUMNS = ("stage", "step", "quantity", "value")
Row = tuple[str, int, str, float]


class History:
    """`history.csv`: one row per stage, step and quantity.

    Rows are appended as training goes. After a crash the file may hold rows beyond the last
    checkpoint, or half a row; `rewind` removes them, as these steps will be taken again.

    Args:
        path: The file; begun if it is not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            write_text(path, ",".join(COLUMNS) + "\n")

    def add(self, stage: str, step: int, values: dict[str, float]) -> None:
        """Append what was measured after `step` steps.

        Raises:
            OutputError: If the disk is full.
        """
        try:
            with self.path.open("a", newline="") as file:
                rows = csv.writer(file, lineterminator="\n")
                rows.writerows((stage, step, key, f"{value:.6g}") for key, value in values.items())
        except OSError as problem:
            raise cannot_write(self.path, problem) from problem

    def rows(self) -> list[Row]:
        """All complete rows."""
        lines = self.path.read_text().splitlines(keepends=True)[1:]
        whole = csv.reader(line for line in lines if line.endswith("\n"))
        return [(stage, int(step), name, float(value)) for stage, step, name, value in whole]

    def rewind(self, finished: set[str], stage: str, step: int) -> None:
        """Forget what will be done again: all but finished stages and `stage` up to `step`."""
        kept = [r for r in self.rows() if r[0] in finished or (r[0] == stage and r[1] <= step)]
        table = StringIO()
        rows = csv.writer(table, lineterminator="\n")
        rows.writerow(COLUMNS)
        rows.writerows((s, n, quantity, f"{value:.6g}") for s, n, quantity, value in kept)
        write_text(self.path, table.getvalue())
