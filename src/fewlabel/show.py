"""Scores, comparisons and offsets for people (in a terminal), and for programs (JSON)."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from fewlabel.compare import OVERALL, Comparison, Difference
from fewlabel.norms_fit import ENOUGH_SCANS
from fewlabel.scores import ScoreTable, Summary

if TYPE_CHECKING:
    from fewlabel.adapt import Adapted
    from fewlabel.calibrate import Calibrated, Check

_BESIDES = ("volume", "reference_volume")
_DIGITS = {"": 3, "mm": 2, "mm3": 0}


def scores_as_tables(scores: ScoreTable) -> RenderableType:
    """A table per structure, one per case, a last line over all, and what got no score."""
    measured = _metrics(scores)
    metrics = [metric for metric in measured if metric not in _BESIDES] or measured
    parts: list[RenderableType] = []
    if metrics:
        parts = [_by_structure(scores, metrics), _by_case(scores, metrics)]
        parts += [_overall(scores, metric) for metric in metrics]
    for why in dict.fromkeys(scores.unscored.values()):
        cases = [case for case, reason in scores.unscored.items() if reason == why]
        parts.append(escape(f"No score for {', '.join(cases)}: {why}"))
    return Group(*parts)


def scores_as_json(scores: ScoreTable) -> dict[str, Any]:
    """Everything that `scores_as_tables` shows; NaN and infinite numbers are null."""
    metrics = _metrics(scores)
    return {
        "cases": {metric: _without_nan(scores.per_case(metric)) for metric in metrics},
        "structures": [
            _without_nan(asdict(one)) for metric in metrics for one in scores.summaries(metric)
        ],
        "intraclass_correlation": _without_nan(_correlations(scores)),
        "unscored": scores.unscored,
    }


def comparison_as_table(comparison: Comparison) -> RenderableType:
    """A table of differences, overall first, and the cases that only one side has."""
    table = Table(title=f"{comparison.metric}: B less A, paired by case")
    for heading in ("structure", "n", "mean A", "mean B", "B less A", "95 % interval", "p"):
        table.add_column(heading, justify="left" if heading == "structure" else "right")
    table.add_column("p (Holm)", justify="right")
    table.add_column("left out", justify="right")
    for one in (comparison.overall, *comparison.structures):
        table.add_row(*_difference_row(one), end_section=one is comparison.overall)
    notes = [
        f"Only {side} has {', '.join(cases)}."
        for side, cases in (("A", comparison.only_a), ("B", comparison.only_b))
        if cases
    ]
    return Group(table, *notes)


def comparison_as_json(comparison: Comparison) -> dict[str, Any]:
    """The same for programs; NaN is null."""
    return {
        "metric": comparison.metric,
        "overall": _without_nan(asdict(comparison.overall)),
        "structures": [_without_nan(asdict(one)) for one in comparison.structures],
        "only_a": comparison.only_a,
        "only_b": comparison.only_b,
    }


def _by_structure(scores: ScoreTable, metrics: Sequence[str]) -> Table:
    table = Table(title="per structure, over cases: mean ± standard deviation")
    table.add_column("structure", no_wrap=True)
    for heading in ("n", *(_heading(scores, metric) for metric in metrics), "median", "lowest"):
        table.add_column(heading, justify="right")
    correlations = _correlations(scores)
    for heading in (*(["volume ICC"] if correlations else []), "absent", "no end"):
        table.add_column(heading, justify="right")
    for found in zip(*(scores.summaries(metric) for metric in metrics), strict=True):
        first = found[0]
        digits = _DIGITS[_unit(scores, first.metric)]
        table.add_row(
            first.structure,
            str(first.n),
            *(_mean_and_sd(one, _DIGITS[_unit(scores, one.metric)]) for one in found),
            *(_number(value, digits) for value in (first.median, first.lowest)),
            *([_number(correlations[first.structure], 3)] if correlations else []),
            str(first.absent or ""),
            str(max(one.infinite for one in found) or ""),
        )
    return table


def _by_case(scores: ScoreTable, metrics: Sequence[str]) -> Table:
    table = Table(title="per case: mean over structures")
    table.add_column("case", no_wrap=True)
    means = [scores.per_case(metric) for metric in metrics]
    for metric in metrics:
        table.add_column(_heading(scores, metric), justify="right")
    for case in means[0]:
        digits = [_DIGITS[_unit(scores, metric)] for metric in metrics]
        table.add_row(case, *(_number(m[case], d) for m, d in zip(means, digits, strict=True)))
    return table


def _overall(scores: ScoreTable, metric: str) -> str:
    means = [value for value in scores.per_case(metric).values() if math.isfinite(value)]
    digits = _DIGITS[_unit(scores, metric)]
    spread = f" ± {_number(stdev(means), digits)} over {len(means)} cases" if means[1:] else ""
    mean = _number(fmean(means) if means else math.nan, digits)
    return f"{_heading(scores, metric)}: {mean}{spread}, mean over structures"


def _difference_row(one: Difference) -> tuple[str, ...]:
    interval = f"{one.low:+.4g} to {one.high:+.4g}" if math.isfinite(one.low) else "-"
    return (
        one.structure,
        str(one.n),
        _number(one.mean_a, 4),
        _number(one.mean_b, 4),
        f"{one.mean:+.4f}" if math.isfinite(one.mean) else "-",
        interval,
        _p(one.p),
        "" if one.structure == OVERALL else _p(one.p_holm),
        str(one.left_out or ""),
    )


def _metrics(scores: ScoreTable) -> list[str]:
    return list(dict.fromkeys(row.metric for row in scores.rows))


def _correlations(scores: ScoreTable) -> dict[str, float]:
    both = set(_BESIDES) <= set(_metrics(scores))
    return scores.intraclass_correlations() if both and len(scores.per_case("volume")) > 1 else {}


def _unit(scores: ScoreTable, metric: str) -> str:
    return next(row.unit for row in scores.rows if row.metric == metric)


def _heading(scores: ScoreTable, metric: str) -> str:
    unit = _unit(scores, metric)
    return f"{metric.replace('_', ' ')} ({unit})" if unit else metric


def _mean_and_sd(one: Summary, digits: int) -> str:
    spread = f" ± {_number(one.sd, digits)}" if math.isfinite(one.sd) else ""
    return _number(one.mean, digits) + spread


def _number(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:.{digits}f}" if math.isfinite(value) else "-"


def _p(value: float) -> str:
    return f"{value:.2g}" if math.isfinite(value) else "-"


def _without_nan(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in values.items()
    }


def adapted_as_lines(found: "Adapted") -> Iterator[str]:
    """For people: what offsets and slopes are worth, and which they are."""
    before, chosen = (fmean(part.values()) for part in (found.before, found.chosen_on))
    n = len(found.before)
    if found.gain is None:
        yield (
            f"Mean Dice {before:.3f} before and {chosen:.3f} after, on the one person whose scans"
            " chose: what that is worth for others cannot be told."
        )
    else:
        spread = [found.after[person] - value for person, value in found.before.items()]
        yield (
            f"Mean Dice {before:.3f} before and {before + found.gain:.3f} after, by {n} people"
            f" left out in turn ({min(spread):+.3f} to {max(spread):+.3f})."
        )
    most = sorted(found.offsets.items(), key=lambda item: -abs(item[1]))
    yield "Offsets: " + (", ".join(f"{name} {value:+.1f}" for name, value in most) or "none")
    steepest = sorted(found.slopes.items(), key=lambda item: -max(map(abs, item[1])))
    told = (f"{name} {right:+.1f} {front:+.1f} {up:+.1f}" for name, (right, front, up) in steepest)
    yield "Slopes per cm to the right, front and up: " + (", ".join(told) or "none")


def calibrated_as_lines(found: "Calibrated") -> Iterator[str]:
    """For people: how good results are, and how well that is foretold."""
    values = list(found.dice.values())
    yield (
        f"Mean Dice {fmean(values):.3f} ({min(values):.3f} to {max(values):.3f}) over"
        f" {len(values)} scans of {found.norms.people} people."
    )
    if halves := found.norms.half_widths():
        half = fmean(halves)
        yield f"Expected Dice has 90 % intervals of ± {half:.3f} on average over structures."
    if found.without:
        names = ", ".join(found.without)
        yield f"Not foretold, as around the brain or hardly ever found: {names}."
    yield "Foretold without the scans of that person, people left out in turn:"
    yield f"  scans as they are  {_foretold(found.intact)}"
    yield f"  mildly damaged     {_foretold(found.damaged)}"
    if not found.norms.usual:
        yield (
            f"Too few scans to say what is usual ({ENOUGH_SCANS} are needed): results will tell"
            " which Dice is to be expected, but no unusual volume, place or contrast."
        )


def _foretold(check: "Check") -> str:
    if not check.values:
        return "no structure that was drawn in scans of others, too"
    return (
        f"off by {check.error:.3f} on average; {check.covered:.0%} of {check.values} values lie in"
        " their intervals"
    )
