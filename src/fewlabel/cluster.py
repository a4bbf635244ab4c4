"""Where a cohort is computed: processes of this machine, a Dask scheduler, or a batch system."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
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
    """Of each job; a scan is segmented on all of them. `directives` must ask SGE for them."""
    memory: str = "4GB"
    """Of each job; for SGE, `directives` must ask for it."""
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
        cluster = _batch(place.profile)
        try:
            _submit(cluster, place.profile.jobs)
            yield cluster
        finally:
            with suppress(Exception):  # of jobs that could not be submitted or ended
                cluster.close()
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


def _submit(cluster: Any, jobs: int) -> None:
    """Ask for jobs, and wait until the batch system has taken them."""
    command = cluster.job_cls.submit_command
    if shutil.which(command.split()[0]) is None:
        raise ConfigError(
            f"There is no command {command} here, which submits jobs.",
            fix="start on a machine that may submit, and check `system` in the profile.",
        )

    async def submitted() -> None:  # `scale` would not say that it failed
        while len(cluster.worker_spec) < jobs:
            cluster.worker_spec.update(cluster.new_worker_spec())
        await cluster._correct_state()

    try:
        cluster.sync(submitted)
    except (OSError, RuntimeError, ValueError) as problem:
        for job in cluster.workers.values():
            if job.job_id is None:  # refused; the cluster could not be closed otherwise
                job.status = _distributed().Status.closed
        lines = [line.strip(" .") for line in str(problem).splitlines()]
        said = [line for line in lines if line not in ("", "stdout:", "stderr:")]
        raise ConfigError(
            f"{command} refused a job: {said[-1] if said else type(problem).__name__}.",
            fix="correct the profile; `--job-script` shows what is submitted.",
        ) from None


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
    _require_sense(profile)
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


def _require_sense(profile: Profile) -> None:
    """Refuse what would only come to light in jobs."""
    from dask.utils import parse_bytes

    try:
        parse_bytes(profile.memory)
    except ValueError:
        raise ConfigError(
            f"The memory of a job cannot be {profile.memory!r}.",
            fix="write a number and a unit, such as `memory: 8GB`.",
        ) from None
    asks = any(line.split()[:1] == ["-pe"] for line in profile.directives)
    if profile.system == "sge" and profile.cores > 1 and not asks:
        raise ConfigError(
            f"Nothing asks SGE for {profile.cores} cores: its parallel environments have other"
            " names everywhere.",
            fix=f"add one to `directives`, such as `-pe smp {profile.cores}` (`qconf -spl`), or"
            " set `cores: 1`.",
        )


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
