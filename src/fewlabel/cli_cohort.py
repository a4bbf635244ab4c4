"""The command that segments a cohort; it is a BIDS App as well."""

import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from fewlabel.errors import ConfigError

if TYPE_CHECKING:
    from fewlabel.cluster import Place
    from fewlabel.derivatives import Choice, Told
    from fewlabel.engine import Compute
    from fewlabel.model import ModelFolder


@Parameter(name="*")
@dataclass(frozen=True)
class Where:
    """Where to compute.

    Attributes:
        workers: Processes of this machine, which share its cores.
        scheduler: Address of a Dask scheduler, such as tcp://node1:8786.
        slurm: YAML file: jobs of SLURM, PBS or SGE.
        job_script: With --slurm: print the script of one job, and submit nothing.
    """

    workers: int | None = None
    scheduler: str | None = None
    slurm: Path | None = None
    job_script: Annotated[bool, Parameter(negative="")] = False

    def place(self) -> "Place":
        """The same, checked and read."""
        from fewlabel.cluster import Place, read_profile

        profile = read_profile(self.slurm) if self.slurm else None
        return Place(self.workers, self.scheduler, profile)


@Parameter(name="*")
@dataclass(frozen=True)
class What:
    """What to segment, and with which model.

    Attributes:
        modality: Which images: the last part of their BIDS names. Without it T1w; or, for models
            that look at several modalities, all of a session together.
        participant_label: Only these people, with or without "sub-".
        model: A name from `fewlabel models`, or a model folder.
        threads: Of each worker; without it the cores are shared out.
        precision: fast takes 16-bit numbers where the processor has them, exact never.
        max_memory: GB of each worker; networks that would take more look at parts of a scan.
        overwrite: Segment again what has been segmented before.
        strict: Exit with code 3 if a result has warnings, those of earlier results included.
    """

    modality: str | None = None
    participant_label: Annotated[
        list[str] | None, Parameter(negative="", consume_multiple=True)
    ] = None
    model: str | None = None
    threads: int | None = None
    precision: Literal["fast", "exact"] = "fast"
    max_memory: float | None = None
    overwrite: Annotated[bool, Parameter(negative="")] = False
    strict: Annotated[bool, Parameter(negative="")] = False

    def choice(self, model: "ModelFolder") -> "Choice":
        """Which images of whom."""
        from fewlabel.derivatives import Choice

        known = model.card.looks_at
        alone = (self.modality or "T1w",)
        together = known if len(known) > 1 and self.modality is None else alone
        return Choice(together, tuple(self.participant_label or ()))

    def compute(self) -> "Compute":
        """Threads and precision, checked."""
        from fewlabel.engine import compute_of

        return compute_of(self.threads, "cpu", self.precision, self.max_memory)


def segment_cohort(
    data: Path,
    output_dir: Path | None = None,
    level: Literal["participant", "group"] = "participant",
    /,
    *,
    out: Path | None = None,
    what: What = What(),
    where: Where = Where(),
) -> None:
    """Segment a BIDS data set on several processes or machines; go on where it was stopped.

    Results are BIDS derivatives with one table of volumes; scans that failed are listed with
    their reasons in failures.tsv. Arguments may be those of a BIDS App: DATA OUTPUT participant;
    the level group only writes the two tables of all again.

    Args:
        data: The BIDS data set.
        output_dir: The same as --out, as BIDS Apps are called.
        level: What to do, as BIDS Apps are called.
        out: Folder for the derivatives.
        what: Which scans, which model.
        where: Where to compute.
    """
    from fewlabel.derivatives import open_derivatives, plan, require_derivatives, sort_out

    place = where.place()
    if where.job_script:
        print(_script(place))
        return
    folder, data = _one_of(out, output_dir).absolute(), data.absolute()
    if level == "group":
        require_derivatives(folder)
        _gather(folder)
        return
    from fewlabel.model import find_model

    model, compute = find_model(what.model), what.compute()
    jobs = plan(data, folder, what.choice(model))
    open_derivatives(folder, data, model, compute, overwrite=what.overwrite)
    told, left = sort_out(jobs, overwrite=what.overwrite)
    shown = _Shown(len(jobs), told)
    if left:
        from fewlabel.cluster import connect
        from fewlabel.cohort_run import OneModel, segment_jobs

        with connect(place, compute) as client, shown:
            for one in segment_jobs(left, OneModel(model, compute), client):
                shown.tell(one)
    failed = [one for one in shown.told if one.status == "failed"]
    _write_failures(folder, data, shown.told, everybody=not what.participant_label)
    _tell_left_out(path for job in jobs for path in job.left_out)
    doubtful = _tell_volumes(folder)
    if failed:
        print(
            f"fewlabel: {len(failed)} of {len(jobs)} scans failed; {folder / 'failures.tsv'} says"
            " why.",
            file=sys.stderr,
        )
        sys.exit(1)
    if what.strict and doubtful:
        sys.exit(3)


def _tell_volumes(folder: Path) -> int:
    """Write the table of volumes, say so, and how many results have warnings."""
    from fewlabel.cohort_tables import VOLUMES, write_volumes

    table = write_volumes(folder)
    said = f", {table.doubtful} with warnings" if table.doubtful else ""
    print(f"{folder / VOLUMES}: {table.scans} scans{said}")
    for path in table.damaged:
        print(f"fewlabel: {path} is damaged and was left out.", file=sys.stderr)
    return table.doubtful


def _gather(folder: Path) -> None:
    """Write both tables again from what lies there."""
    from fewlabel.cohort_tables import gather_failures

    gather_failures(folder)
    _tell_volumes(folder)


def _script(place: "Place") -> str:
    from fewlabel.cluster import job_script

    if place.profile is None:
        raise ConfigError("Only jobs have a script.", fix="add `--slurm PROFILE.yaml`.")
    return job_script(place.profile)


def _one_of(out: Path | None, output_dir: Path | None) -> Path:
    if (out is None) == (output_dir is None):
        found = "is not said" if out is None else "is said twice"
        raise ConfigError(f"Where the derivatives go {found}.", fix="add `--out DERIVATIVES`.")
    return out or output_dir or Path()


class _Shown:
    """Live progress: a bar on terminals, elsewhere a line for each tenth of the way.

    Args:
        total: All scans.
        told: What is known of some of them.
    """

    def __init__(self, total: int, told: "list[Told]") -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as TimeLeft

        shown = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeLeft()
        self.told = list(told)
        self._bar = Progress(*shown, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("", total=total, completed=len(told))
        self._total = total

    def __enter__(self) -> None:
        self._bar.start()

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def tell(self, one: "Told") -> None:
        """One more is known."""
        self.told.append(one)
        done, count = len(self.told), Counter(told.status for told in self.told)
        sums = ", ".join(f"{n} {status}" for status, n in sorted(count.items(), reverse=True))
        self._bar.update(self._task, completed=done, description=sums)
        if one.status == "failed":
            self._bar.console.print(f"{one.scan.name}: {one.what}", markup=False, soft_wrap=True)
        if not self._bar.console.is_terminal and _is_tenth(done, self._total):
            print(f"{done} of {self._total} scans: {sums}", flush=True)


def _tell_left_out(paths: Iterable[Path]) -> None:
    from fewlabel.datasets.found import and_more

    names = [path.name for path in paths]
    if names:
        print(f"Left out, as their sessions have another of the modality: {and_more(names)}.")


def _is_tenth(done: int, total: int) -> bool:
    return done * 10 // total > (done - 1) * 10 // total


def _write_failures(folder: Path, data: Path, run: "list[Told]", *, everybody: bool) -> None:
    from fewlabel.cohort_tables import write_failures

    failed: dict[str, list[dict[str, str]]] = {}
    for told in sorted(run, key=lambda told: told.scan):
        scan = told.scan.relative_to(data)
        lines = failed.setdefault(scan.parts[0], [])
        if told.status == "failed":
            reason, to_fix = (" ".join(text.split()) for text in (told.what, told.fix))
            lines.append({"scan": str(scan), "reason": reason, "to_fix": to_fix})
    write_failures(folder, failed, everybody=everybody)
