import io
import math

from rich.console import Console

from fewlabel.compare import compare
from fewlabel.scores import Score, ScoreTable
from fewlabel.show import comparison_as_json, scores_as_json, scores_as_tables


def table_of(*values, metric="dice", unit=""):
    """Scores of structure A in as many cases."""
    rows = (Score(str(n), "A", metric, value, unit) for n, value in enumerate(values, start=1))
    return ScoreTable(tuple(rows))


def printed(what):
    console = Console(file=io.StringIO(), width=200)
    console.print(what)
    return console.file.getvalue()


def test_units_stand_in_the_headings_and_absence_is_counted():
    text = printed(
        scores_as_tables(table_of(1.0, math.nan, math.inf, metric="hausdorff95", unit="mm"))
    )

    assert "hausdorff95 (mm): 1.00, mean over structures" in text
    row = next(line for line in text.splitlines() if "│ A" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        "A", "1", "1.00", "1.00", "1.00", "1", "1"
    ]  # fmt: skip


def test_a_small_negative_number_is_not_minus_nothing():
    text = printed(scores_as_tables(table_of(-0.3, metric="volume_difference", unit="mm3")))

    assert "volume difference (mm3): 0, mean" in text


def test_cases_without_a_score_are_grouped_by_reason_and_shown_literally():
    scores = ScoreTable((), {"1": "holds [red] ink", "2": "holds [red] ink"})

    assert "No score for 1, 2: holds [red] ink" in printed(scores_as_tables(scores))


def test_json_has_null_for_what_is_no_number():
    found = scores_as_json(table_of(1.0, math.nan))

    assert found["cases"] == {"dice": {"1": 1.0, "2": None}}
    assert found["structures"][0]["sd"] is None
    assert found["intraclass_correlation"] == {}


def test_a_comparison_of_one_case_has_no_interval():
    found = comparison_as_json(compare(table_of(0.25), table_of(0.5)))

    assert (found["overall"]["mean"], found["overall"]["low"]) == (0.25, None)
