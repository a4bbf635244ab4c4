import json
import math

import numpy as np
import pytest
from scipy.stats import wilcoxon

from fewlabel.cli import app
from fewlabel.compare import compare, plot_differences
from fewlabel.errors import CohortError, ConfigError
from fewlabel.scores import Score, ScoreTable


def table_of(values, structures="AB"):
    """{case: [score of A, score of B]} as a table of Dice."""
    return ScoreTable(
        tuple(
            Score(case, name, "dice", float(value), "")
            for case, scores in values.items()
            for name, value in zip(structures, scores, strict=True)
        )
    )


def eight(shift, seed):
    rng = np.random.default_rng(seed)
    return {f"sub-{n}": [0.5 + shift + 0.1 * rng.random(), 0.7] for n in range(8)}


def test_differences_are_b_less_a_and_paired_by_case():
    a = table_of({"1": [0.5, 0.6], "2": [0.7, 0.8]})
    b = table_of({"2": [0.8, 0.8], "1": [0.9, 0.6]})

    found = compare(a, b)

    first, second = found.structures
    assert (first.n, first.mean_a, first.mean_b) == (2, pytest.approx(0.6), pytest.approx(0.85))
    assert first.mean == pytest.approx(0.25)
    assert (second.mean, second.p) == (0.0, 1.0)
    assert found.overall.mean == pytest.approx(0.125)


def test_a_pair_without_two_scores_is_left_out_and_counted():
    a = table_of({"1": [0.5, math.nan], "2": [0.5, 0.5], "3": [0.5, 0.5]})
    b = table_of({"1": [0.6, 0.9], "2": [0.6, math.inf], "3": [0.6, 0.7]})

    found = compare(a, b)

    assert (found.structures[1].n, found.structures[1].left_out) == (1, 2)
    # case 1 and 2 have structure A only; case 3 both
    assert found.overall.mean == pytest.approx((0.1 + 0.1 + 0.15) / 3)


def test_cases_that_only_one_side_has_are_named():
    found = compare(table_of({"1": [0, 0], "2": [0, 0]}), table_of({"2": [1, 1], "3": [1, 1]}))

    assert (found.only_a, found.only_b, found.overall.n) == (("1",), ("3",), 1)
    assert math.isnan(found.overall.low)
    assert math.isnan(found.overall.p)


def test_structures_that_only_one_side_has_are_no_part_of_it():
    found = compare(table_of({"1": [0, 0]}), table_of({"1": [1, 1]}, structures="BC"))

    assert [one.structure for one in found.structures] == ["B"]


def test_nothing_shared_is_refused():
    with pytest.raises(CohortError, match=r"share no case and structure .*A has 1, .*B has 2, "):
        compare(table_of({"1": [0, 0]}), table_of({"2": [0, 0]}))


def test_a_metric_that_one_side_lacks_is_refused():
    with pytest.raises(ConfigError, match="no metric 'volume', but dice"):
        compare(table_of({"1": [0, 0]}), table_of({"1": [0, 0]}), metric="volume")


def test_the_test_is_scipys_signed_rank_test():
    a, b = eight(0, 0), eight(0.03, 1)
    change = [b[case][0] - a[case][0] for case in a]

    found = compare(table_of(a), table_of(b)).structures[0]

    assert found.p == pytest.approx(wilcoxon(change).pvalue)


def test_holm_multiplies_the_smallest_by_the_number_of_tests_and_never_falls():
    """All eight cases better: p = 2 / 2^8 twice; the third structure never changes."""
    a = table_of({str(n): [0, 0, 0] for n in range(8)}, structures="ABC")
    b = table_of({str(n): [n + 1, 2 * n + 1, 0] for n in range(8)}, structures="ABC")

    found = compare(a, b).structures

    assert [one.p for one in found] == [2 / 256, 2 / 256, 1.0]
    assert [one.p_holm for one in found] == [6 / 256, 6 / 256, 1.0]


def test_the_interval_holds_the_mean_and_comes_out_the_same_again():
    a, b = table_of(eight(0, 0)), table_of(eight(0.03, 1))

    first, again, other = compare(a, b), compare(a, b), compare(a, b, seed=1)

    one = first.structures[0]
    assert one.low < one.mean < one.high
    assert first == again
    assert other.structures[0].low != one.low


def test_the_interval_of_a_constant_difference_is_a_point():
    a, b = table_of({"1": [0.25, 0], "2": [0.5, 0]}), table_of({"1": [0.5, 0], "2": [0.75, 0]})

    one = compare(a, b).structures[0]

    assert (one.low, one.mean, one.high) == (0.25, 0.25, 0.25)


def test_the_interval_is_about_two_standard_errors_wide():
    rng = np.random.default_rng(0)
    change = rng.normal(size=200)
    a = table_of({str(n): [0.0, 0.0] for n in range(200)})
    b = table_of({str(n): [float(x), 0.0] for n, x in enumerate(change)})

    one = compare(a, b).structures[0]

    assert one.high - one.low == pytest.approx(2 * 1.96 * change.std() / np.sqrt(200), rel=0.05)


def test_differences_are_drawn_as_png(tmp_path):
    pytest.importorskip("matplotlib")

    plot_differences(compare(table_of(eight(0, 0)), table_of(eight(0.03, 1))), tmp_path / "c.png")

    assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"


def test_the_command_prints_a_table_or_json(tmp_path, capsys):
    for name, seed in (("a", 0), ("b", 1)):
        table_of(eight(0.0, seed) | {name: [0.5, 0.5]}).write_csv(tmp_path / f"{name}.csv")
    files = [str(tmp_path / "a.csv"), str(tmp_path / "b.csv")]

    app(["compare", *files], result_action="return_value")
    text = capsys.readouterr().out
    app(["compare", *files, "--json"], result_action="return_value")
    data = json.loads(capsys.readouterr().out)

    assert "dice: B less A, paired by case" in text
    assert "Only A has a." in text
    assert data["overall"]["n"] == 8
    assert data["only_b"] == ["b"]
