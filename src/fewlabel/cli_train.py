"""The commands that train and fine-tune, and export what was trained."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from fewlabel.train_run import Means


@Parameter(name="*")
@dataclass(frozen=True)
class Hardware:
    """What a training runs on.

    Attributes:
        device: cpu, cuda or cuda:1; by default a GPU if there is one.
        devices: Devices on each machine.
        nodes: Machines; see the how-to on SLURM.
        workers: Threads that prepare data; by default one per two cores.
        cache: Folder for prepared scans; by default in your cache folder.
        checkpoint_minutes: Time between two checkpoints.
    """

    device: str | None = None
    devices: int = 1
    nodes: int = 1
    workers: int | None = None
    cache: Path | None = None
    checkpoint_minutes: float = 5.0


def train(
    config: Path,
    *,
    out: Path,
    changes: Annotated[list[str] | None, Parameter(name="--set", negative="")] = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    precision: Literal["32", "bf16"] | None = None,
    hardware: Hardware = Hardware(),
) -> None:
    """Train what a settings file says.

    Args:
        config: YAML file; `configs/` has examples.
        out: Run folder: settings, history, checkpoints.
        changes: A setting to change, such as optimizer.learning_rate=3e-4; may be repeated.
        resume: Take up the run in OUT where it stopped.
        precision: The same as --set precision=...; bf16 is faster where the hardware has it.
        hardware: What it runs on.
    """
    from fewlabel.train_run import first_process, train_run

    if precision:
        changes = [*(changes or ()), f"precision={precision}"]
    with _carried_out(hardware, f"go on with `--resume`: {out}") as means:
        train_run(config, out, changes=tuple(changes or ()), resume=resume, means=means)
    if first_process():
        print(f"Trained: {out}")


def finetune(  # noqa: PLR0913  (each is an option of the command)
    config: Path,
    *,
    out: Path,
    strategies: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    every: Annotated[bool, Parameter(name="--all", negative="")] = False,
    changes: Annotated[list[str] | None, Parameter(name="--set", negative="")] = None,
    split: Literal["test", "val"] = "test",
    hardware: Hardware = Hardware(),
) -> None:
    """Fine-tune a network in several ways under one budget, and compare them on held-out scans.

    The same command again goes on where it stopped. For one way alone, `fewlabel train` does.

    Args:
        config: YAML file of the recipe finetune.
        out: Folder for a run of each way, comparison.tsv and comparison.md.
        strategies: Such as frozen inner-1 full, or as the paper calls them; by default that of
            the settings.
        every: All six: frozen, inner-1, inner-2, inner-all, full, scratch.
        changes: A setting to change, such as steps=500; may be repeated.
        split: Which scans of the cohort to score; those of val choose the weights.
        hardware: What it runs on.
    """
    from fewlabel.recipes import read_plan
    from fewlabel.strategies import PAPER
    from fewlabel.train_run import first_process
    from fewlabel.tune import PAGE, tune

    told = tuple(changes or ())
    wanted = list(PAPER) if every else strategies
    if not wanted:
        wanted = [read_plan(config, told).resolved().get("strategy", "full")]
    with _carried_out(hardware, "the same command goes on.") as means:
        tune(config, out, wanted, changes=told, split=split, means=means)
    if first_process():
        print((out / PAGE).read_text(encoding="utf-8"), end="")


@contextmanager
def _carried_out(hardware: Hardware, how: str) -> Iterator["Means"]:
    """What runs are carried out with; if they are stopped, says how to go on and exits with 130."""
    from fewlabel.train.progress import asked_to_stop, shown
    from fewlabel.train_run import Means

    with shown() as watch, asked_to_stop() as stop:
        means = Means(
            device=hardware.device,
            devices=hardware.devices,
            nodes=hardware.nodes,
            cache=hardware.cache,
            workers=hardware.workers,
            checkpoint_s=60 * hardware.checkpoint_minutes,
            watch=watch,
            tell=lambda words: print(words, file=sys.stderr, flush=True),
            stop=stop,
        )
        try:
            yield means
        except KeyboardInterrupt:
            print(f"Stopped; {how}", file=sys.stderr)
            sys.exit(130)


def export(  # noqa: PLR0913  (each is an option of the command)
    run: Path,
    *,
    out: Path,
    stage: str | None = None,
    weights: Literal["best", "last", "final"] = "final",
    with_weights: Annotated[bool, Parameter(negative="")] = False,
    bits: Literal[8, 16] = 16,
    terms: Annotated[str, Parameter(name="--license")] = "not stated",
) -> None:
    """Write the model folder that `fewlabel segment --model` runs, and check it against torch.

    Args:
        run: Run folder that `fewlabel train` wrote.
        out: Model folder to write; its name becomes the model's.
        stage: The stage whose networks to export; by default the last one that is trained.
        weights: Those with the best validation score, the last ones, or what the stage ended on.
        with_weights: Add all weights for torch, with those of deep supervision, to fine-tune.
        bits: What weights are stored in: 8 halves a large network again; see how Dice takes it.
        terms: License of the model, for its card.
    """
    from fewlabel.export import Choice, export_run

    choice = Choice(stage, weights, with_weights=with_weights, bits=bits, license=terms)
    done = export_run(run, out, choice)
    print(done.as_text())
