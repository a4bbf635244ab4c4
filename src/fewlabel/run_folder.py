"""The folder of a training run: its settings, its cases, and where it all comes from."""

import csv
import json
import os
import platform
import subprocess
import sys
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml

from fewlabel.cohort import Cohort, refuse, write_cohort
from fewlabel.errors import ConfigError, OutputError
from fewlabel.recipes import Plan
from fewlabel.train.lock import LOCK
from fewlabel.whole import write_text

HISTORY, SETTINGS, PROVENANCE = "history.csv", "settings.yaml", "provenance.json"
COHORT = "cohort.tsv"
"""The manifest of the cases that a run learns from, or leaves alone for its test."""
_PROTOCOLS = "protocols_sha256"
_NAME_PROTOCOLS = ("protocol", "protocols", "partial")
"""Settings of recipes that decide what the classes of a network mean."""


def require_own_folder(out: Path, *, resume: bool) -> None:
    """Refuse a folder that holds something already, unless it is a run that shall be resumed.

    A run that was killed or refused before its first step, for its data say, left nothing worth
    keeping: it may be begun anew in the same folder with other settings.

    Raises:
        OutputError: If `out` is in use.
    """
    begun = (out / HISTORY).exists()
    own = not out.exists() or (out.is_dir() and not set(out.iterdir()).difference(_left_over(out)))
    if not (resume and begun) and not own and (begun or not (out / PROVENANCE).exists()):
        raise OutputError(
            f"{out} is not empty, and a run needs a folder of its own.",
            fix="choose another folder, or add `--resume` to go on with the run in it.",
        )


def _left_over(out: Path) -> list[Path]:
    """What a start that was killed before its first whole file leaves."""
    return [*out.glob(f".*.{PROVENANCE}"), *out.glob(LOCK)]


def open_folder(out: Path, plan: Plan, about: dict[str, Any], *, resume: bool) -> None:
    """Start a run folder with its settings and provenance, or check those of one to resume.

    Args:
        out: A folder that this process holds.
        plan: What is to be carried out.
        about: The provenance.
        resume: Whether the run in it, if there is one, shall be taken up.

    Raises:
        CohortError: If cases of the run in `out` are in other splits now, or are no longer there.
        ConfigError: If the run in `out` has other settings.
        OutputError: If `out` holds something already and is not to be resumed.
    """
    require_own_folder(out, resume=resume)  # again, as another process may have had it till now
    begun = (out / HISTORY).exists()
    if begun:
        _require_same(out / SETTINGS, plan)
        require_same_protocols(out, plan)
    else:
        for draft in out.glob(f".*.{PROVENANCE}"):
            draft.unlink()
        # In this order: from the first whole file on, the folder is known as that of a run.
        write_text(out / PROVENANCE, json.dumps(about, indent=2) + "\n")
        write_text(out / SETTINGS, yaml.safe_dump(plan.resolved(), sort_keys=False))
    cohort = plan.recipe.cohort(plan.config, out)
    if begun and (out / COHORT).exists():
        _require_same_cases(out / COHORT, cohort)
    if cohort.cases:
        write_cohort(cohort, out / COHORT)


def _require_same_cases(manifest: Path, cohort: Cohort) -> None:
    """Nobody whom a run has learned from may be in its test set later on."""
    with manifest.open(encoding="utf-8", newline="") as stream:
        rows = csv.DictReader(stream, delimiter="\t")
        before = {row["case"]: row["split"] for row in rows if row["split"] in ("train", "val")}
    now = {case.id: case.split for case in cohort.cases}
    problems = [
        f"{name} was in {split!r} and is {f'in {now[name]!r}' if name in now else 'gone'} now."
        for name, split in before.items()
        if now.get(name) != split
    ]
    problems += [
        f"{name} is new in {split!r}."
        for name, split in now.items()
        if split in ("train", "val") and name not in before
    ]
    fix = "bring back the data as they were, or start a new run in another folder."
    refuse(f"The cohort of the run in {manifest.parent}", problems, fix=fix)


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


def require_same_protocols(run: Path, plan: Plan) -> None:
    """Refuse a run whose own protocol tables mean something else now: its classes follow them.

    Args:
        run: Its folder.
        plan: Its settings.

    Raises:
        ConfigError: Naming the tables.
    """
    about = run / PROVENANCE
    if not about.is_file():
        return
    before = json.loads(about.read_text(encoding="utf-8")).get(_PROTOCOLS, {})
    now = _hashes(_protocols(plan))
    differing = [name for name in before if now.get(name) != before[name]]
    if differing:
        raise ConfigError(
            f"{', '.join(differing)} is not as it was when the run in {run} began, whose classes"
            " follow its lines.",
            fix="bring the table back as it was, or start a new run in another folder.",
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
        "manifests_sha256": _hashes(_tables(plan.resolved())),
        _PROTOCOLS: _hashes(_protocols(plan)),
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


def _protocols(plan: Plan) -> set[str]:
    """The user's own protocols among the TSV files that the settings name."""
    settings = plan.resolved()
    return _tables({key: value for key, value in settings.items() if key in _NAME_PROTOCOLS})


def _tables(settings: dict[str, Any]) -> set[str]:
    """The TSV files that settings name."""
    values = [value for _, value in _leaves(settings)]
    each = (one for value in values for one in (value if isinstance(value, list) else [value]))
    return {str(one) for one in each if str(one).endswith(".tsv")}


def _hashes(files: set[str]) -> dict[str, str]:
    there = (name for name in sorted(files) if Path(name).is_file())
    return {name: sha256(Path(name).read_bytes()).hexdigest() for name in there}


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
