"""The commands that train, and export what was trained."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter


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
    from fewlabel.train.progress import asked_to_stop, shown
    from fewlabel.train_run import Means, first_process, train_run

    if precision:
        changes = [*(changes or ()), f"precision={precision}"]
    with shown() as watch, asked_to_stop() as stop:
        means = Means(
            device=hardware.device,
            devices=hardware.devices,
            nodes=hardware.nodes,
            cache=hardware.cache,
            workers=hardware.workers,
            checkpoint_s=60 * hardware.checkpoint_minutes,
            watch=watch,
            stop=stop,
        )
        try:
            train_run(config, out, changes=tuple(changes or ()), resume=resume, means=means)
        except KeyboardInterrupt:
            print(f"Stopped; go on with `--resume`: {out}", file=sys.stderr)
            sys.exit(130)
    if first_process():
        print(f"Trained: {out}")


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
        with_weights: Add the weights for torch too, to run on GPUs and to fine-tune.
        bits: What weights are stored in: 8 halves a large network again; see how Dice takes it.
        terms: License of the model, for its card.
    """
    from fewlabel.export import Choice, export_run

    choice = Choice(stage, weights, with_weights=with_weights, bits=bits, license=terms)
    done = export_run(run, out, choice)
    print(done.as_text())
