"""A scan goes in, its segmentation comes out, in memory or as files."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from os.path import relpath
from pathlib import Path
from typing import Any, Literal

from fewlabel.engine import Compute, compute_of
from fewlabel.errors import FewlabelError, ModelFolderError, OutputError, ScanError
from fewlabel.io import read_scan, write_bytes
from fewlabel.model import ModelFolder, find_model
from fewlabel.people import age_years
from fewlabel.picture import picture
from fewlabel.results import (
    ResultPaths,
    is_done,
    require_different_names,
    require_writable,
    write_results,
)
from fewlabel.segmenter import TOTAL_BRAIN, Segmentation, Segmenter, Watch
from fewlabel.volume import Scan

EXAMPLE = Path(__file__).parent / "example" / "sub-icbm152_T1w.nii.gz"
"""The scan of `fewlabel demo`: the MNI ICBM152 2009a average of 152 adults, T1w."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of one of several scans."""

    scan: Path
    status: Literal["segmented", "kept", "failed"]
    paths: ResultPaths
    segmentation: Segmentation | None = None
    error: FewlabelError | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader of the result should know; of an earlier result, from its record."""
        if self.segmentation is not None:
            return self.segmentation.warnings
        if self.status == "failed":
            return ()
        record = json.loads(self.paths.record.read_text(encoding="utf-8"))
        return tuple(record.get("warnings", ()))

    def as_text(self) -> str:
        """For people: what happened, how large the brain is, warnings and where the files are."""
        if self.segmentation is None:
            kept = f"kept, segmented before: {self.paths.labels}"
            return f"{self.scan.name}: {kept if self.error is None else 'failed'}"
        volumes, record = self.segmentation.volumes_mm3, self.segmentation.record
        found = sum(mm3 > 0 for mm3 in volumes.values()) - 1
        lines = [
            f"{self.scan.name}: {found} of {len(volumes) - 1} structures, brain"
            f" {volumes[TOTAL_BRAIN] / 1000:.0f} cm3, {sum(record['seconds'].values()):.1f} s",
            *(f"  Warning: {warning}" for warning in self.segmentation.warnings),
            *(f"  {path}" for path in self.paths.all()),
        ]
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """For programs: the same, with all volumes and the record."""
        done, refusal = self.segmentation, self.error
        return {
            "scan": str(self.scan),
            "status": self.status,
            "error": None
            if self.error is None
            else {"what": self.error.what, "fix": self.error.fix},
            "files": [] if refusal else [str(path) for path in self.paths.all()],
            "volumes_mm3": done.volumes_mm3 if done else None,
            "record": done.record if done else None,
        }


def segment(  # noqa: PLR0913  (the front door: what the command offers, by the same names)
    scan: Scan | Path | str,
    *,
    model: ModelFolder | Path | str | None = None,
    out: Path | str | None = None,
    threads: int | None = None,
    device: Literal["cpu", "cuda"] = "cpu",
    precision: Literal["fast", "exact"] = "fast",
    max_memory_gb: float | None = None,
    overwrite: bool = False,
) -> Segmentation:
    """Segment one brain scan.

    Args:
        scan: A file, a folder with one DICOM series, or a scan in memory.
        model: A name that `list_models` gives, a model folder, or None for the default.
        out: Folder for the five result files; None: keep the result in memory.
        threads: CPU threads; None: one per core.
        device: "cuda" needs the extra `train` and a model with weights for torch.
        precision: "fast" takes 16-bit numbers where the processor has them.
        max_memory_gb: Networks that would take more (10^9 bytes) look at parts of a scan.
        overwrite: Replace an existing result.

    Raises:
        ConfigError: If `threads`, `device` or `precision` is out of range.
        ScanError: If the scan cannot be read.
        ModelFolderError: If there is no such model.
        OutputError: If the result exists already or cannot be written.
    """
    found = model if isinstance(model, ModelFolder) else find_model(model)
    compute = compute_of(threads, device, precision, max_memory_gb)
    if isinstance(scan, Scan):
        if out is not None:
            raise OutputError(
                "A scan in memory has no file name that its results could be named after.",
                fix="give the file of the scan, or leave out `out`.",
            )
        return Segmenter(found, compute)(scan)
    if out is None:
        segmenter, watch = Segmenter(found, compute), Watch()
        with watch.stage("read"):
            volume = read_scan(Path(scan))
        return segmenter(volume, watch)
    (outcome,) = segment_files(
        [Path(scan)], found, out=Path(out), compute=compute, overwrite=overwrite
    )
    if outcome.error is not None:
        raise outcome.error
    if outcome.segmentation is None:
        raise OutputError(
            f"{scan} was segmented before: {outcome.paths.labels} was left alone.",
            fix="read that file, or replace it with overwrite=True.",
        )
    return outcome.segmentation


def segment_files(
    scans: Iterable[Path],
    model: ModelFolder,
    *,
    out: Path | None = None,
    compute: Compute | None = None,
    overwrite: bool = False,
) -> Iterator[Outcome]:
    """Segment scans one after another; one that fails does not stop the others.

    Args:
        scans: Files, or folders with one DICOM series each.
        model: What to run.
        out: Folder for all results; None: each next to its scan.
        compute: What to run it on.
        overwrite: Replace existing results.

    Yields:
        What became of each scan, in order.

    Raises:
        OutputError: If two scans would get the same file names; before anything is done.
    """
    places = [(scan, ResultPaths.of(scan, out or scan.absolute().parent)) for scan in scans]
    require_different_names(places)
    opened: list[Segmenter] = []

    def ready() -> Segmenter:
        opened[:] = opened or [Segmenter(model, compute or Compute())]
        return opened[0]

    for scan, paths in places:
        yield segment_one(scan, paths, ready, overwrite=overwrite)


def segment_one(
    scan: Path, paths: ResultPaths, ready: Callable[[], Segmenter], *, overwrite: bool = False
) -> Outcome:
    """Segment one file to where its results shall lie; what it refuses is in the outcome.

    Args:
        scan: A file, or a folder with one DICOM series.
        paths: Of its results.
        ready: Gives what segments; not called if the result is there.
        overwrite: Replace an existing result.

    Raises:
        ModelFolderError: If the model cannot be run, which other scans would not change.
    """
    try:
        if not overwrite and is_done(scan, paths):
            return Outcome(scan, "kept", paths)
        require_writable(paths.labels.parent)
        return Outcome(scan, "segmented", paths, _segment_file(scan, paths, ready()))
    except ModelFolderError:
        raise
    except FewlabelError as refusal:
        return Outcome(scan, "failed", paths, error=refusal)
    except (MemoryError, OSError) as problem:
        error = ScanError(
            f"Could not segment {scan}: {type(problem).__name__} {problem}.",
            fix="close other programs if memory is short, then try this scan again.",
        )
        return Outcome(scan, "failed", paths, error=error)


def giving(model: ModelFolder, head: str | None) -> ModelFolder:
    """The same model, of whose outputs another one is wanted.

    Args:
        model: With one output or several, each with its protocol.
        head: Name of an output; None: the first.

    Raises:
        ModelFolderError: If it has no such output.
    """
    heads = model.card.heads
    if head is None:
        return model
    if head not in heads:
        raise ModelFolderError(
            f"The model {model.card.name} has no output {head!r}.",
            fix=f"use {' or '.join(map(repr, heads))}.",
        )
    return replace(model, card=model.card.model_copy(update={"heads": {head: heads[head]} | heads}))


def run_demo(out: Path, model: str | None = None) -> Outcome:
    """Copy the example scan to a folder and segment it there, whatever was there before.

    Args:
        out: Folder for the scan and its results.
        model: See `find_model`; None: the default.

    Raises:
        OutputError: If the folder cannot be written to.
    """
    found = find_model(model)
    scan = out / EXAMPLE.name
    write_bytes(scan, EXAMPLE.read_bytes())
    (outcome,) = segment_files([scan], found, overwrite=True)
    if outcome.error is not None:
        raise outcome.error
    return outcome


def _segment_file(scan: Path, paths: ResultPaths, segmenter: Segmenter) -> Segmentation:
    watch = Watch()
    with watch.stage("read"):
        volume = read_scan(scan)
    result = segmenter(volume, watch, age_years(scan))
    card = segmenter.model.card
    name = scan.absolute().name
    with watch.stage("picture"):
        about = f"{card.name} {card.version}"
        drawn = picture(volume, result.labels, title=name, lines=[about, *result.warnings])
    result.record["scan"] = name
    result.record["source"] = Path(relpath(scan, paths.record.parent)).as_posix()
    with watch.stage("write"):
        write_results(
            paths,
            scan=scan,
            labels=result.labels,
            volumes_mm3=result.volumes_mm3,
            picture=drawn,
            record=result.record,
        )
    return replace(result, paths=paths)
