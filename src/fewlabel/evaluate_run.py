"""Scoring a run on the scans of its own cohort that it did not learn from."""

from collections.abc import Collection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from fewlabel.cache import default_cache
from fewlabel.cohort import Case, read_cohort
from fewlabel.engine import Compute
from fewlabel.errors import CohortError, ConfigError, FewlabelError, ModelFolderError
from fewlabel.evaluate import score_pair
from fewlabel.export import card_of, plan_of, write_export
from fewlabel.io import read_labels
from fewlabel.labels import LabelProtocol
from fewlabel.metrics import MEASURES, require_metrics
from fewlabel.modalities import Images, read_images
from fewlabel.recipes import Plan
from fewlabel.run_folder import COHORT
from fewlabel.scores import Score, ScoreTable
from fewlabel.segmenter import Segmenter
from fewlabel.train.checkpoint import load_weights
from fewlabel.train.stage import Export, Workplace
from fewlabel.train.weights import load_state

Part = Literal["test", "val"]


def evaluate_run(
    run: Path,
    *,
    split: Part = "test",
    metrics: Collection[str] = tuple(MEASURES),
    score_in: LabelProtocol | None = None,
) -> ScoreTable:
    """Segment held-out scans with what a run ended on, and score them on their own grids.

    The network goes through the same steps as with `fewlabel export` and `segment`, so these are
    the scores of what a user of the model gets. A case that is refused does not stop the others.

    Args:
        run: Run folder that has come to its end.
        split: "test", or "val": scans that were not learned from, but chose the weights, so
            that their scores are too good.
        metrics: Keys of `fewlabel.metrics.MEASURES`.
        score_in: The protocol to compare in; by default the coarser of the network's first and
            of the case's own, without the structures that nobody looked for in that case.

    Raises:
        CohortError: If the run has no labeled scans in that split.
        ConfigError: If `run` is no run folder or not at its end, or there is no such metric.
    """
    require_metrics(metrics)
    plan = plan_of(run)
    cases = held_out_cases(run, split)
    stage, export = _at_its_end(run, plan)
    rows: list[Score] = []
    unscored: dict[str, str] = {}
    with TemporaryDirectory(prefix="fewlabel-") as folder:
        card = card_of(run.resolve().name, plan, stage, export)
        segmenter = Segmenter(write_export(Path(folder) / "model", export, card).model, Compute())
        for case in cases:
            try:
                rows += _score(case, segmenter, metrics, score_in).rows
            except ModelFolderError:
                raise
            except FewlabelError as refusal:
                unscored[case.id] = refusal.what
    return ScoreTable(tuple(rows), unscored)


def held_out_cases(run: Path, split: Part) -> list[Case]:
    """The labeled cases of one split, as they were when the run began.

    Raises:
        CohortError: If there are none.
    """
    if not (run / COHORT).is_file():
        raise CohortError(
            f"The run {run} has no {COHORT}: it learned from no scans with splits.",
            fix="export it, segment scans of your own and score these: `fewlabel evaluate PRED"
            " TRUTH`.",
        )
    cohort = read_cohort(run / COHORT)
    cases = [case for case in cohort.part(split) if case.labels]
    if not cases:
        count = {name: len(cohort.part(name)) for name in ("train", "val", "test")}
        there = ", ".join(f"{n} in {name!r}" for name, n in count.items())
        raise CohortError(
            f"The run {run} has no labeled scans in {split!r}; its cohort has {there}.",
            fix="score the scans it was validated on with `--split val`, which chose its weights,"
            " or others: `fewlabel evaluate PRED TRUTH`.",
        )
    return cases


def _at_its_end(run: Path, plan: Plan) -> tuple[str, Export]:
    """The last stage and its network, with its final weights."""
    for stage in plan.recipe.stages(plan.config, plan.header.seed, Workplace(run, default_cache())):
        final = run / stage.name / "final.safetensors"
        if not final.is_file():
            raise ConfigError(
                f"The run {run} is not at its end: its stage {stage.name!r} has no final weights.",
                fix="go on with `fewlabel train ... --resume`; or export what it has so far with"
                " `--weights best`, segment and score that.",
            )
        load_state(stage.networks, load_weights(final))
        last = stage
    return last.name, plan.recipe.exports(plan.config, last.networks)


def _score(
    case: Case, segmenter: Segmenter, metrics: Collection[str], score_in: LabelProtocol | None
) -> ScoreTable:
    if not case.scans:
        raise CohortError("It has no scan that the network looks at.", fix="leave it out.")
    assert case.labels is not None
    drawn = case.drawn_in() if case.protocol else segmenter.model.card.protocol
    truth = read_labels(case.labels, drawn)
    if case.looked_for is not None:
        truth = truth.to(drawn.restrict(case.looked_for))
    card = segmenter.model.card
    order = {name: number for number, name in enumerate(card.looks_at)}
    (first, scan), *others = sorted(
        case.scans.items(), key=lambda one: order.get(one[0], len(order))
    )
    scans = read_images(Images(scan, first, dict(others)), card)
    drawn_on = [name for name, scan in scans.items() if scan.grid.matches(truth.grid)]
    found = segmenter({name: scans[name] for name in (*drawn_on, *scans)}).labels
    return score_pair(found, truth, case=case.id, metrics=metrics, score_in=score_in)
