"""Whether one set of scores is better than another: paired by case, with intervals and tests.

Differences are always B less A. A pair counts if both sides have a finite score; the others are
counted as left out, never as zero.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from fewlabel.errors import CohortError
from fewlabel.scores import ScoreTable, new_figure, save_figure

OVERALL = "all structures"
_RESAMPLES = 10_000


@dataclass(frozen=True)
class Difference:
    """A paired difference.

    Attributes:
        structure: Its name, or `OVERALL`: every case's mean over the structures both sides have.
        n: Cases that were paired.
        mean_a: Mean of A over these cases.
        mean_b: Mean of B.
        mean: Mean difference, B less A.
        low: Lower end of the 95 % bootstrap interval of `mean`; NaN with one case.
        high: Upper end.
        p: Wilcoxon signed-rank test, two-sided; NaN with one case.
        p_holm: The same after Holm's correction over the structures.
        left_out: Cases without a finite score on both sides.
    """

    structure: str
    n: int
    mean_a: float
    mean_b: float
    mean: float
    low: float
    high: float
    p: float
    p_holm: float
    left_out: int


@dataclass(frozen=True)
class Comparison:
    """Differences per structure and overall, and the cases that could not be paired."""

    metric: str
    overall: Difference
    structures: tuple[Difference, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]


def compare(a: ScoreTable, b: ScoreTable, *, metric: str = "dice", seed: int = 0) -> Comparison:
    """Compare two tables of scores of the same cases.

    Args:
        a: Scores to start from.
        b: Scores to compare with them.
        metric: A metric that both hold.
        seed: Of the bootstrap, which draws cases 10,000 times with replacement and takes the
            2.5th and 97.5th percentile of the mean difference.

    Raises:
        ConfigError: If one table lacks the metric.
        CohortError: If no case and structure has a finite score in both.

    Source:
        Wilcoxon 1945, Biometrics Bulletin 1; Holm 1979, Scandinavian Journal of Statistics 6.
    """
    ours, theirs = a.of(metric), b.of(metric)
    cases_a, cases_b = (dict.fromkeys(case for case, _ in found) for found in (ours, theirs))
    both = [case for case in cases_a if case in cases_b]
    known = {name for _, name in theirs}
    names = dict.fromkeys(name for _, name in ours if name in known)
    pairs = np.array(
        [
            [(ours.get(key, math.nan), theirs.get(key, math.nan)) for key in keys]
            for keys in [[(case, name) for name in names] for case in both]
        ]
    ).reshape(len(both), len(names), 2)
    _refuse_nothing_shared(pairs, list(cases_a), list(cases_b))
    structures = [_difference(name, pairs[:, number], seed) for number, name in enumerate(names)]
    return Comparison(
        metric,
        overall=_difference(OVERALL, _case_means(pairs), seed),
        structures=tuple(_with_holm(structures)),
        only_a=tuple(case for case in cases_a if case not in cases_b),
        only_b=tuple(case for case in cases_b if case not in cases_a),
    )


def plot_differences(comparison: Comparison, path: Path) -> None:
    """Draw every mean difference with its interval, overall first, as PNG.

    Raises:
        ConfigError: If matplotlib is not installed.
    """
    drawn = (comparison.overall, *comparison.structures)
    figure = new_figure(height=1.5 + 0.2 * len(drawn))
    axes = figure.add_subplot()
    for row, one in enumerate(drawn):
        color = "black" if one.structure == OVERALL else "tab:blue"
        axes.plot([one.low, one.high], [row, row], color=color)
        axes.plot(one.mean, row, "o", color=color, markersize=4)
    axes.axvline(0, color="gray", linewidth=0.8)
    axes.set_yticks(range(len(drawn)), [f"{one.structure} (n={one.n})" for one in drawn])
    axes.margins(y=0.01)
    axes.invert_yaxis()
    axes.set_xlabel(f"{comparison.metric}: B less A, mean and 95 % interval")
    save_figure(figure, path)


def _refuse_nothing_shared(
    pairs: Float64[np.ndarray, "cases names 2"], cases_a: list[str], cases_b: list[str]
) -> None:
    if np.isfinite(pairs).all(-1).any():
        return
    raise CohortError(
        "The two tables share no case and structure with a score on both sides:"
        f" A has {', '.join(cases_a[:3])}, ...; B has {', '.join(cases_b[:3])}, ....",
        fix="score the same cases in the same protocol on both sides (`fewlabel evaluate`).",
    )


def _case_means(
    pairs: Float64[np.ndarray, "cases names 2"],
) -> Float64[np.ndarray, "cases 2"]:
    """Per case the means over those structures that have a finite score on both sides."""
    usable = np.isfinite(pairs).all(-1)
    sums = np.where(usable[..., None], pairs, 0).sum(1)
    counts = usable.sum(1)[:, None]
    means: np.ndarray = np.where(counts > 0, sums / np.maximum(counts, 1), math.nan)
    return means


def _difference(name: str, pairs: Float64[np.ndarray, "cases 2"], seed: int) -> Difference:
    usable = pairs[np.isfinite(pairs).all(-1)]
    n, left_out = len(usable), len(pairs) - len(usable)
    if n == 0:
        nan = math.nan
        return Difference(name, 0, nan, nan, nan, nan, nan, nan, nan, left_out)
    change = usable[:, 1] - usable[:, 0]
    low, high = _interval(change, seed)
    p = _wilcoxon(change)
    mean_a, mean_b = usable.mean(0)
    return Difference(
        name, n, float(mean_a), float(mean_b), float(change.mean()), low, high, p, p, left_out
    )


def _interval(change: Float64[np.ndarray, "cases"], seed: int) -> tuple[float, float]:
    if len(change) < 2:
        return math.nan, math.nan
    drawn = np.random.default_rng(seed).integers(len(change), size=(_RESAMPLES, len(change)))
    low, high = np.percentile(change[drawn].mean(1), [2.5, 97.5])
    return float(low), float(high)


def _wilcoxon(change: Float64[np.ndarray, "cases"]) -> float:
    if len(change) < 2:
        return math.nan
    if not change.any():
        return 1.0
    from scipy.stats import wilcoxon

    return float(wilcoxon(change[change != 0]).pvalue)


def _with_holm(differences: list[Difference]) -> list[Difference]:
    """Holm: the smallest p times their number, the next times one less, never decreasing."""
    tested = [d for d in differences if not math.isnan(d.p)]
    corrected, worst = {}, 0.0
    for rank, one in enumerate(sorted(tested, key=lambda d: d.p)):
        worst = max(worst, min(1.0, (len(tested) - rank) * one.p))
        corrected[one.structure] = worst
    return [replace(d, p_holm=corrected.get(d.structure, math.nan)) for d in differences]
