"""A training run from a settings file: the run folder, and carrying it out."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml

from fewlabel.errors import ConfigError, OutputError
from fewlabel.recipes import Plan, read_plan
from fewlabel.train.cpu import keep_memory
from fewlabel.train.loop import train
from fewlabel.train.picture import Picture, draw_history
from fewlabel.train.ranks import Alone, Ranks
from fewlabel.train.run import Progress, Run
from fewlabel.train.stage import Networks, Workplace
from fewlabel.whole import write_text

HISTORY = "history.csv"


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
        ConfigError: If a setting is wrong, or differs from those of the run to be resumed.
        OutputError: If `out` is in use or cannot be written.
        KeyboardInterrupt: If `means.stop` asked for it.
    """
    means = means or Means()
    plan = read_plan(config, changes)
    device = _device(means.device)
    world = means.devices * means.nodes
    if world == 1 or first_process():
        open_folder(out, plan, world, resume=resume)
    ranks: Ranks = Alone()
    if world > 1:
        from fewlabel.train.parallel import Together

        ranks = together = Together(device.partition(":")[0], means.devices, means.nodes)
        device = together.device
    if device == "cpu":
        keep_memory()
    work = Workplace(out, means.cache or default_cache(), device)
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
        workers=means.workers or max(1, min(8, (os.cpu_count() or 1) // 2)),
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
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(
            f"device is {wanted!r}, but torch finds no GPU here.", fix="use `--device cpu`."
        )
    return wanted


def first_process() -> bool:
    """Whether no other process of this run, if there are several, comes before this one."""
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "RANK", "SLURM_PROCID"))


def default_cache() -> Path:
    """Where conformed scans are kept: `fewlabel` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fewlabel"


def open_folder(out: Path, plan: Plan, world: int, *, resume: bool) -> None:
    """Start a run folder with its settings and provenance, or check those of one to resume.

    A run that was killed or refused before its first step, for its data say, left nothing worth
    keeping: it may be begun anew in the same folder with other settings.

    Raises:
        ConfigError: If the run in `out` has other settings.
        OutputError: If `out` holds something already and is not to be resumed.
    """
    settings, begun = out / "settings.yaml", (out / HISTORY).exists()
    if resume and begun:
        _require_same(settings, plan)
        return
    drafts = list(out.glob(".*.provenance.json"))  # of a start that was killed within this function
    fresh = not out.exists() or (out.is_dir() and not set(out.iterdir()).difference(drafts))
    if not fresh and (begun or not (out / "provenance.json").exists()):
        raise OutputError(
            f"{out} is not empty, and a run needs a folder of its own.",
            fix="choose another folder, or add `--resume` to go on with the run in it.",
        )
    for draft in drafts:
        draft.unlink()
    # In this order: from the first whole file on, the folder is known as that of a run.
    write_text(out / "provenance.json", json.dumps(provenance(plan, world), indent=2) + "\n")
    write_text(settings, yaml.safe_dump(plan.resolved(), sort_keys=False))


def _require_same(settings: Path, plan: Plan) -> None:
    before, now = yaml.safe_load(settings.read_text(encoding="utf-8")), plan.resolved()
    old, new = dict(_leaves(before)), dict(_leaves(json.loads(json.dumps(now))))
    differing = [key for key in old | new if old.get(key) != new.get(key)]
    if differing:
        lines = "".join(
            f"\n  - {key} was {old.get(key)!r} and is now {new.get(key)!r}" for key in differing
        )
        raise ConfigError(
            f"The run in {settings.parent} began with other settings:{lines}",
            fix=f"resume it with {settings}, or start a new run in another folder.",
        )


def _leaves(value: Any, key: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        return [x for k, v in value.items() for x in _leaves(v, f"{key}.{k}" if key else str(k))]
    return [(key, value)]


def provenance(plan: Plan, world: int) -> dict[str, Any]:
    """What it takes to say where weights come from."""
    packages = ("fewlabel", "torch", "monai", "numpy", "scipy", "nibabel", "lightning-fabric")
    text = json.dumps(plan.resolved(), sort_keys=True)
    return {
        "command": sys.argv,
        "recipe": plan.header.recipe,
        "seed": plan.header.seed,
        "settings_sha256": sha256(text.encode()).hexdigest(),
        "manifests_sha256": _manifests(plan),
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "versions": {name: found for name in packages if (found := _version(name))},
        "machine": {
            "system": platform.platform(),
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "gpus": [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())],
        },
        "threads": torch.get_num_threads(),
        "processes": world,
    }


def _manifests(plan: Plan) -> dict[str, str]:
    """Hashes of the TSV files that the settings name."""
    named = {str(value) for _, value in _leaves(plan.resolved()) if str(value).endswith(".tsv")}
    return {
        name: sha256(Path(name).read_bytes()).hexdigest()
        for name in sorted(named)
        if Path(name).is_file()
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Commit of the source tree that fewlabel runs from, if it runs from one."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return said.stdout.strip()
