"""A training run from a settings file, carried out."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from fewlabel.cache import default_cache
from fewlabel.cpu import cores
from fewlabel.errors import ConfigError
from fewlabel.recipes import Plan, read_plan
from fewlabel.run_folder import HISTORY, open_folder, provenance, require_own_folder
from fewlabel.train.cpu import keep_memory
from fewlabel.train.lock import held
from fewlabel.train.loop import train
from fewlabel.train.picture import Picture, draw_history
from fewlabel.train.ranks import Alone, Ranks
from fewlabel.train.run import Progress, Run
from fewlabel.train.stage import Networks, Workplace


@dataclass(frozen=True)
class Means:
    """What a run is carried out with.

    Attributes:
        device: "cpu", "cuda" or "cuda:1"; None: a GPU if there is one.
        devices: Devices on each machine, one process each.
        nodes: Machines.
        cache: Folder of conformed scans; None: in the user's cache folder.
        workers: Threads that draw batches; None: one per two cores, at most eight.
        checkpoint_s: Seconds between two checkpoints.
        checkpoint_every: Steps between two checkpoints besides; None: by time only.
        watch: Told of progress now and then, in the first process.
        tell: Takes what people should know before training begins, in the first process.
        stop: Asked after each step; if it says yes, the run ends there with a checkpoint.
    """

    device: str | None = None
    devices: int = 1
    nodes: int = 1
    cache: Path | None = None
    workers: int | None = None
    checkpoint_s: float = 300.0
    checkpoint_every: int | None = None
    watch: Callable[[Progress], None] = lambda _: None
    tell: Callable[[str], None] = lambda _: None
    stop: Callable[[], bool] = lambda: False


def train_run(
    config: Path,
    out: Path,
    *,
    changes: tuple[str, ...] = (),
    resume: bool = False,
    means: Means | None = None,
) -> Networks:
    """Carry out what a settings file says.

    Args:
        config: YAML file; see `read_plan`.
        out: Run folder, empty unless resumed.
        changes: Such as "optimizer.learning_rate=3e-4"; they win over the file.
        resume: Take up the run in `out` where it stopped.
        means: What it is carried out with.

    Returns:
        The trained networks.

    Raises:
        CohortError: If the cases of the run to be resumed are in other splits now.
        ConfigError: If a setting is wrong, or differs from those of the run to be resumed.
        OutputError: If `out` is in use, by another process too, or cannot be written.
        KeyboardInterrupt: If `means.stop` asked for it.
    """
    means = means or Means()
    plan = read_plan(config, changes)
    device = _device(means.device)
    world = means.devices * means.nodes
    if world > 1 and not first_process():
        return _carry_out(plan, out, means, device)
    require_own_folder(out, resume=resume)
    about = provenance(plan, world)  # before the folder is held, as git would hold it too
    with held(out):
        open_folder(out, plan, about, resume=resume)
        return _carry_out(plan, out, means, device)


def _carry_out(plan: Plan, out: Path, means: Means, device: str) -> Networks:
    ranks: Ranks = Alone()
    if means.devices * means.nodes > 1:
        from fewlabel.train.parallel import Together

        ranks = together = Together(device.partition(":")[0], means.devices, means.nodes)
        device = together.device
        together.agree(None)  # until the first process has opened the folder, others wait here
    workers = means.workers or max(1, min(8, cores() // 2))
    if device == "cpu":
        keep_memory()
    else:  # batches are of one size; threads that draw must not take all cores each
        torch.backends.cudnn.benchmark = True
        torch.set_num_threads(max(1, cores() // workers))
    tell = means.tell if ranks.rank == 0 else lambda _: None
    work = Workplace(out, means.cache or default_cache(), device, tell)
    picture = Picture(out)

    def watch(progress: Progress) -> None:
        picture.watch(progress)
        means.watch(progress)

    run = Run(
        folder=out,
        seed=plan.header.seed,
        device=device,
        precision=plan.header.precision,
        checkpoint_s=means.checkpoint_s,
        checkpoint_every=means.checkpoint_every,
        workers=workers,
        ranks=ranks,
        watch=watch,
        stop=means.stop,
    )
    try:
        return train(plan.recipe.stages(plan.config, plan.header.seed, work), run)
    finally:
        if ranks.rank == 0 and (out / HISTORY).exists():
            draw_history(out)


def _device(wanted: str | None) -> str:
    if wanted is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", wanted):
        raise ConfigError(
            f"device is {wanted!r}.", fix="use `cpu`, `cuda`, or one of several GPUs: `cuda:1`."
        )
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(
            f"device is {wanted!r}, but torch finds no GPU here.", fix="use `--device cpu`."
        )
    return wanted


def first_process() -> bool:
    """Whether no other process of this run, if there are several, comes before this one."""
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "RANK", "SLURM_PROCID"))
