"""Where a cohort is computed: processes of this machine, a Dask scheduler, or a batch system."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from logging import CRITICAL
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from fewlabel.cpu import cores
from fewlabel.engine import Compute
from fewlabel.errors import ConfigError
from fewlabel.settings import Settings, check_settings, read_mapping

_WORKER_BYTES = 2e9
"""Room that a worker should have: more of them would only wait for memory."""
_LOCAL = {
    "distributed.worker.memory.target": False,  # nothing is kept that could be spilled
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,  # freed memory is not always given back
    "distributed.worker.memory.terminate": 0.95,
}


class Profile(Settings):
    """Jobs of a batch system."""

    system: Literal["slurm", "pbs", "sge"] = "slurm"
    """What takes the jobs."""
    jobs: int = Field(default=1, ge=1)
    """Jobs, of one worker each, at the same time."""
    cores: int = Field(default=2, ge=1)
    """Of each job; a scan is segmented on all of them."""
    memory: str = "4GB"
    """Of each job."""
    walltime: str = "02:00:00"
    """After that a job ends; what it was at goes to another one."""
    queue: str | None = None
    """Or partition."""
    account: str | None = None
    """Or project: who pays."""
    directives: tuple[str, ...] = ()
    """Further ones, such as `--constraint=avx512`."""
    before: tuple[str, ...] = ()
    """Lines of shell that come first in a job, such as `module load python`."""
    python: str | None = None
    """Python of the jobs; by default the one that is running now."""
    interface: str | None = None
    """Network between machines, such as `ib0`."""
    log_folder: str | None = None
    """Where the batch system puts what jobs print."""


@dataclass(frozen=True)
class Place:
    """Where to compute; at most one of the three.

    Attributes:
        workers: Processes of this machine; None: as many as cores and memory allow.
        scheduler: Address of a running Dask scheduler, such as tcp://node1:8786.
        profile: Jobs of a batch system.
    """

    workers: int | None = None
    scheduler: str | None = None
    profile: Profile | None = None

    def __post_init__(self) -> None:
        given = [self.workers, self.scheduler, self.profile]
        if sum(one is not None for one in given) > 1:
            raise ConfigError(
                "A cohort is computed in one place only.",
                fix="give one of --workers, --scheduler and --slurm.",
            )
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"There cannot be {self.workers} workers.", fix="give 1 or more.")


def read_profile(path: Path) -> Profile:
    """Read a profile from YAML.

    Raises:
        ConfigError: If it cannot be read, or naming all that is wrong with it.
    """
    return check_settings(read_mapping(path), Profile, path.name)


@contextmanager
def connect(place: Place, compute: Compute) -> Iterator[Any]:
    """A client of Dask whose workers are there, or on their way.

    Args:
        place: Where.
        compute: Its threads are those of each worker.

    Yields:
        `distributed.Client`; at the end what was started for it is ended.

    Raises:
        ConfigError: If Dask is not installed, or there is no scheduler at the address.
    """
    distributed = _distributed()
    if place.scheduler is not None:
        try:
            client = distributed.Client(place.scheduler, timeout="30s")
        except (OSError, ValueError) as problem:
            raise ConfigError(
                f"There is no Dask scheduler at {place.scheduler}: {problem}.",
                fix="start one with `dask scheduler`, and give the address that it prints.",
            ) from None
        with client:
            yield client
        return
    with _cluster(place, compute) as cluster, distributed.Client(cluster) as client:
        yield client


def job_script(profile: Profile) -> str:
    """What would be given to the batch system for one job; nothing is submitted.

    Raises:
        ConfigError: If dask-jobqueue is not installed.
    """
    with _batch(profile) as cluster:
        script: str = cluster.job_script()
        return script


def threads_each(workers: int) -> int:
    """Threads of each of so many processes that share this machine out.

    >>> threads_each(10**6)
    1
    """
    return max(1, cores() // workers)


def workers_here() -> int:
    """How many workers cores and memory of this machine allow."""
    memory = _distributed().system.MEMORY_LIMIT
    return max(1, min(cores(), int(memory / _WORKER_BYTES)))


@contextmanager
def _cluster(place: Place, compute: Compute) -> Iterator[Any]:
    if place.profile is not None:
        with _batch(place.profile) as cluster:
            cluster.scale(jobs=place.profile.jobs)
            yield cluster
        return
    import dask

    distributed = _distributed()
    workers = place.workers or workers_here()
    threads = compute.threads or threads_each(workers)
    # The processes inherit this; OpenVINO is told by its own setting.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    with (
        dask.config.set(_LOCAL),
        distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=threads,
            memory_limit=int(distributed.system.MEMORY_LIMIT / workers),
            dashboard_address=None,
            silence_logs=CRITICAL,
        ) as cluster,
    ):
        yield cluster


def _batch(profile: Profile) -> Any:
    try:
        import dask_jobqueue
    except ImportError:
        raise _not_installed("dask-jobqueue") from None
    kinds: Mapping[str, Any] = {
        "slurm": dask_jobqueue.SLURMCluster,
        "pbs": dask_jobqueue.PBSCluster,
        "sge": dask_jobqueue.SGECluster,
    }
    payer = "project" if profile.system == "sge" else "account"
    asked = {
        "cores": profile.cores,
        "memory": profile.memory,
        "walltime": profile.walltime,
        "queue": profile.queue,
        payer: profile.account,
        "processes": 1,
        "job_name": "fewlabel",
        "job_extra_directives": list(profile.directives),
        "job_script_prologue": ["export OPENBLAS_NUM_THREADS=1", *profile.before],
        "python": profile.python,
        "interface": profile.interface,
        "log_directory": profile.log_folder,
        "scheduler_options": {"dashboard_address": None},
    }
    return kinds[profile.system](**{key: value for key, value in asked.items() if value})


def _distributed() -> Any:
    try:
        import distributed
    except ImportError:
        raise _not_installed("Dask") from None
    return distributed


def _not_installed(what: str) -> ConfigError:
    return ConfigError(
        f"{what} is not installed, which shares a cohort out.",
        fix="pip install 'fewlabel[cluster]'",
    )
