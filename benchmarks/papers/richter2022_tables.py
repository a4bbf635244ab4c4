"""Tables of richter2022.py for its page, from its rows."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import mean

Rows = Sequence[Mapping[str, str]]


def by_case(rows: Rows) -> dict[str, dict[str, float]]:
    """Mean Dice over structures of each case, for each way of looking."""
    values: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        values.setdefault(row["input"], {}).setdefault(row["case"], []).append(float(row["dice"]))
    return {
        seen: {case: mean(found) for case, found in cases.items()} for seen, cases in values.items()
    }


def of_folds(rows: Rows) -> Iterator[str]:
    """Dice over weeks, and how far off ages are, for each way of looking."""
    yield "| input | weeks | mean Dice | least to most of a week | age error, weeks |"
    yield "|---|---|---|---|---|"
    for seen, cases in by_case(rows).items():
        here = [row for row in rows if row["input"] == seen]
        dice = list(cases.values())
        told = {r["case"]: (r["age_weeks"], r["true_weeks"]) for r in here if r["age_weeks"]}
        errors = [abs(float(found) - float(true)) for found, true in told.values()]
        age = f"{mean(errors):.2f}" if errors else ""
        spread = f"{min(dice):.3f} to {max(dice):.3f}"
        yield f"| {seen} | {len(dice)} | {mean(dice):.3f} | {spread} | {age} |"


def of_structures(rows: Rows) -> Iterator[str]:
    """Dice of each structure over weeks, for each way of looking."""
    seen = list(dict.fromkeys(row["input"] for row in rows))
    yield f"| structure | {' | '.join(seen)} |"
    yield "|---" * (len(seen) + 1) + "|"
    for name in dict.fromkeys(row["structure"] for row in rows):
        cells = [
            mean(float(r["dice"]) for r in rows if (r["structure"], r["input"]) == (name, one))
            for one in seen
        ]
        yield f"| {name} | {' | '.join(f'{cell:.3f}' for cell in cells)} |"


def over_seeds(rows: Rows, keys: Sequence[str]) -> Iterator[str]:
    """Dice as mean and range over seeds, at the end and on the way."""
    if not rows:
        return
    steps = [point.partition(":")[0] for point in rows[-1]["curve"].split()]
    titles = [*keys, *(f"Dice after {step} steps" for step in steps[:-1]), "Dice in the end"]
    yield f"| {' | '.join(titles)} | least to most | seeds |"
    yield "|---" * (len(titles) + 2) + "|"
    for group in dict.fromkeys(tuple(row[key] for key in keys) for row in rows):
        here = [row for row in rows if tuple(row[key] for key in keys) == group]
        curves = [dict(point.split(":") for point in row["curve"].split()) for row in here]
        way = [_mean_at(curves, step) for step in steps[:-1]]
        ends = [float(row["dice"]) for row in here]
        cells = [*group, *way, f"{mean(ends):.3f}", f"{min(ends):.3f} to {max(ends):.3f}"]
        yield f"| {' | '.join(cells)} | {len(ends)} |"


def _mean_at(curves: Sequence[Mapping[str, str]], step: str) -> str:
    found = [float(curve[step]) for curve in curves if step in curve]
    return f"{mean(found):.3f}" if found else ""
