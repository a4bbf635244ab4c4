"""A tidy table of scores, one row per case, structure and metric: file, summaries, box plot."""

import csv
import io
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import numpy as np

from fewlabel.errors import CohortError, ConfigError
from fewlabel.metrics import intraclass_correlation
from fewlabel.whole import write_text, write_whole

_COLUMNS = ("case", "structure", "metric", "value", "unit")
_UNSCORED = "unscored"

NO_PREDICTION = "has a truth but no prediction"
NO_TRUTH = "has a prediction but no truth"


@dataclass(frozen=True)
class Score:
    """One number.

    Attributes:
        case: Such as "sub-01" or "sub-01_ses-2".
        structure: Name in the protocol that was scored in.
        metric: A key of `fewlabel.metrics.MEASURES`.
        value: NaN where both sides lack the structure, infinite where a distance has no end.
        unit: Such as "mm"; empty for shares.
    """

    case: str
    structure: str
    metric: str
    value: float
    unit: str


@dataclass(frozen=True)
class Summary:
    """A structure's scores over cases. Absent and infinite ones are counted, not averaged."""

    structure: str
    metric: str
    n: int
    mean: float
    sd: float
    median: float
    lowest: float
    highest: float
    absent: int
    infinite: int


@dataclass(frozen=True)
class ScoreTable:
    """Tidy scores.

    Attributes:
        rows: The scores, in the order in which they were made.
        unscored: Cases that got no score, and why.
    """

    rows: tuple[Score, ...]
    unscored: dict[str, str] = field(default_factory=dict)

    @property
    def refused(self) -> tuple[str, ...]:
        """Cases that both sides have and that could not be scored."""
        left_over = (NO_PREDICTION, NO_TRUTH)
        return tuple(case for case, why in self.unscored.items() if why not in left_over)

    def of(self, metric: str) -> dict[tuple[str, str], float]:
        """(case, structure) to value, of one metric.

        Raises:
            ConfigError: If the table does not hold that metric.
        """
        found = {(r.case, r.structure): r.value for r in self.rows if r.metric == metric}
        if not found:
            held = ", ".join(dict.fromkeys(r.metric for r in self.rows)) or "nothing"
            raise ConfigError(
                f"The scores hold no metric {metric!r}, but {held}.", fix="ask for one of these."
            )
        return found

    def per_case(self, metric: str) -> dict[str, float]:
        """Mean over the structures of every case; absent and infinite scores are left out."""
        values = defaultdict(list)
        for (case, _), value in self.of(metric).items():
            values[case].append(value)
        means = {case: _finite(found) for case, found in values.items()}
        return {case: fmean(found) if found else math.nan for case, found in means.items()}

    def summaries(self, metric: str) -> tuple[Summary, ...]:
        """One summary per structure, in the order of the protocol."""
        values = defaultdict(list)
        for (_, structure), value in self.of(metric).items():
            values[structure].append(value)
        return tuple(_summary(structure, metric, found) for structure, found in values.items())

    def intraclass_correlations(self) -> dict[str, float]:
        """ICC(2,1) of predicted and reference volumes over cases, per structure."""
        pairs: dict[str, list[tuple[float, float]]] = defaultdict(list)
        reference = self.of("reference_volume")
        for (case, structure), volume in self.of("volume").items():
            pair = (volume, reference[case, structure])
            pairs[structure] += [pair] if math.isfinite(sum(pair)) else []
        return {
            structure: intraclass_correlation(np.array(found, dtype=np.float64).reshape(-1, 2))
            for structure, found in pairs.items()
        }

    def write_csv(self, path: Path) -> None:
        """Write the rows, whole or not at all; cases without a score get a row that says so."""
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(_COLUMNS)
        rows.writerows((r.case, r.structure, r.metric, f"{r.value:.8g}", r.unit) for r in self.rows)
        rows.writerows((case, "", _UNSCORED, "nan", "") for case in self.unscored)
        write_text(path, text.getvalue())

    @classmethod
    def read_csv(cls, path: Path) -> "ScoreTable":
        """Read what `write_csv` wrote, or any CSV with its columns.

        Raises:
            CohortError: If the file cannot be read or is no score table.
        """
        try:
            lines = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
            scores = [_read_score(line) for line in lines]
        except (OSError, UnicodeDecodeError, KeyError, ValueError, TypeError) as problem:
            raise CohortError(
                f"{path} is no table of scores ({type(problem).__name__}: {problem}); it needs"
                f" the columns {', '.join(_COLUMNS)}.",
                fix="give a file that `fewlabel evaluate --out` wrote.",
            ) from None
        return cls(
            tuple(score for score in scores if score.metric != _UNSCORED),
            {score.case: "unscored" for score in scores if score.metric == _UNSCORED},
        )


def plot_boxes(scores: ScoreTable, metric: str, path: Path) -> None:
    """Draw one box per structure over the cases, as PNG; absent scores are left out.

    Raises:
        ConfigError: If matplotlib is not installed, or the table lacks the metric.
    """
    figure = new_figure(height=1.5 + 0.2 * len(scores.summaries(metric)))
    values: dict[str, list[float]] = defaultdict(list)
    for (_, structure), value in scores.of(metric).items():
        values[structure] += _finite([value])
    axes = figure.add_subplot()
    axes.boxplot(
        list(values.values()), orientation="horizontal", tick_labels=list(values), widths=0.6
    )
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    unit = next((row.unit for row in scores.rows if row.metric == metric), "")
    axes.set_xlabel(f"{metric} ({unit})" if unit else metric)
    axes.set_title(f"{len(scores.per_case(metric))} cases")
    save_figure(figure, path)


def new_figure(height: float) -> Any:
    """An empty figure, 8 inches wide.

    Raises:
        ConfigError: If matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise ConfigError(
            "Plots need matplotlib, which is not installed.",
            fix="run `pip install 'fewlabel[train]'`, or leave out --plot.",
        )
    from matplotlib.figure import Figure

    return Figure(figsize=(8, height), layout="constrained")


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    with write_whole(path) as draft:
        figure.savefig(draft, format="png", dpi=120)


def _read_score(line: dict[str, str]) -> Score:
    case, structure, metric, value, unit = (line[column] for column in _COLUMNS)
    return Score(case, structure, metric, float(value), unit)


def _summary(structure: str, metric: str, values: list[float]) -> Summary:
    found = _finite(values)
    return Summary(
        structure,
        metric,
        n=len(found),
        mean=fmean(found) if found else math.nan,
        sd=stdev(found) if len(found) > 1 else math.nan,
        median=median(found) if found else math.nan,
        lowest=min(found, default=math.nan),
        highest=max(found, default=math.nan),
        absent=sum(map(math.isnan, values)),
        infinite=sum(map(math.isinf, values)),
    )


def _finite(values: Iterable[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]
