"""A scan goes in, its segmentation comes out, in memory or as files."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from fewlabel.engine import Compute, compute_of, last_line
from fewlabel.errors import FewlabelError, ModelFolderError, OutputError, ScanError
from fewlabel.io import write_bytes
from fewlabel.modalities import Images, as_files, path_from, read_images, sorted_in
from fewlabel.model import ModelFolder, find_model
from fewlabel.people import UNKNOWN, Age, age_of
from fewlabel.picture import picture
from fewlabel.results import (
    ResultPaths,
    is_done,
    require_different_names,
    require_writable,
    write_results,
)
from fewlabel.segmenter import TOTAL_BRAIN, Segmentation
from fewlabel.suited import Ready, Segmenters
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
        return tuple(self.paths.read_record().get("warnings", ()))

    def as_text(self) -> str:
        """For people: what happened, how good that is, warnings and where the files are."""
        if self.error is not None:
            return f"{self.scan.name}: failed"
        if self.segmentation is None:
            by = self.paths.made_by()
            kept = f"kept, segmented before by {by}" if by else "kept, segmented before"
            return f"{self.scan.name}: {kept}: {self.paths.labels}"
        volumes, record = self.segmentation.volumes_mm3, self.segmentation.record
        model = record["model"]
        found = sum(mm3 > 0 for mm3 in volumes.values()) - 1
        lines = [
            f"{self.scan.name}: {found} of {len(volumes) - 1} structures, brain"
            f" {volumes[TOTAL_BRAIN] / 1000:.0f} cm3, {sum(record['seconds'].values()):.1f} s",
            *([f"  {model['name']}, {model['why']}"] if "why" in model else []),
            *([f"  {words}"] if (words := self.segmentation.expected_dice) else []),
            *([f"  age at scan: {age.as_text()}"] if (age := self.segmentation.age) else []),
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
    others: Mapping[str, Scan | Path | str] | None = None,
    modality: str | None = None,
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
        others: Images of the same head in the same space, by modality, for models that look at
            several: {"T1w": "sub-01_T1w.nii.gz"}. The result lies on the grid of `scan`.
        modality: Of `scan`, such as "T2w", for such models; None: the end of its name says it.
        model: A name that `list_models` gives, a model folder, or None: what suits the scan.
        out: Folder for the five result files; None: keep the result in memory.
        threads: CPU threads; None: one per core.
        device: "cuda" needs the extra `train` and a U-Net.
        precision: "fast" takes 16-bit numbers where the processor has them.
        max_memory_gb: Networks that would take more (10^9 bytes) look at parts of a scan.
        overwrite: Replace an existing result.

    Raises:
        ConfigError: If `threads`, `device` or `precision` is out of range, or the model looks at
            other modalities.
        ScanError: If the scan cannot be read, or another image shows nothing of it.
        ModelFolderError: If there is no such model.
        OutputError: If the result exists already or cannot be written.
    """
    found = model if isinstance(model, ModelFolder | None) else find_model(model)
    compute = compute_of(threads, device, precision, max_memory_gb)
    named = {name: _scan_or_path(other) for name, other in (others or {}).items()}
    images = Images(_scan_or_path(scan), modality, named)
    if out is None:
        if found is not None:
            sorted_in(images, found.card)
        return _in_memory(Segmenters(found, compute).ready(images))[0]
    if any(isinstance(image, Scan) for image in (images.scan, *named.values())):
        raise OutputError(
            "A scan in memory has no file name that its results could be named after.",
            fix="give the file of the scan, or leave out `out`.",
        )
    (outcome,) = segment_files([images], found, out=Path(out), compute=compute, overwrite=overwrite)
    if outcome.error is not None:
        raise outcome.error
    if outcome.segmentation is None:
        raise OutputError(
            f"{scan} was segmented before: {outcome.paths.labels} was left alone.",
            fix="read that file, or replace it with overwrite=True.",
        )
    return outcome.segmentation


def segment_files(
    scans: Iterable[Path | Images],
    model: ModelFolder | None,
    *,
    out: Path | None = None,
    compute: Compute | None = None,
    overwrite: bool = False,
) -> Iterator[Outcome]:
    """Segment scans one after another; one that fails does not stop the others.

    Args:
        scans: Files, folders with one DICOM series each, or several files of a head each.
        model: What to run; None: choose what suits each scan.
        out: Folder for all results; None: each next to its scan.
        compute: What to run it on.
        overwrite: Replace existing results.

    Yields:
        What became of each scan, in order.

    Raises:
        OutputError: If two scans would get the same file names; before anything is done.
    """
    heads = [scan if isinstance(scan, Images) else Images(scan) for scan in scans]
    places = [ResultPaths.of(head.file, out or head.file.absolute().parent) for head in heads]
    require_different_names((head.file, paths) for head, paths in zip(heads, places, strict=True))
    segmenters = Segmenters(model, compute or Compute())
    for head, paths in zip(heads, places, strict=True):
        yield segment_one(head, paths, segmenters.ready, overwrite=overwrite)


def segment_one(
    images: Images,
    paths: ResultPaths,
    ready: Callable[[Images], Ready],
    *,
    overwrite: bool = False,
) -> Outcome:
    """Segment one head to where its results shall lie; what it refuses is in the outcome.

    Args:
        images: A file, or a folder with one DICOM series; and others for some models.
        paths: Of its results.
        ready: Gives what segments a head; not called if the result is there.
        overwrite: Replace an existing result.

    Raises:
        ModelFolderError: If the model cannot be run, which other scans would not change.
    """
    scan = images.file
    try:
        if not overwrite and is_done(scan, paths, images.files()):
            return Outcome(scan, "kept", paths)
        require_writable(paths.labels.parent)
        return Outcome(scan, "segmented", paths, _segment_files(ready(images), paths))
    except ModelFolderError:
        raise
    except FewlabelError as refusal:
        return Outcome(scan, "failed", paths, error=refusal)
    except (MemoryError, OSError, RuntimeError) as problem:  # OpenVINO's are RuntimeErrors
        return Outcome(scan, "failed", paths, error=_stopped(scan, problem))


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


def _scan_or_path(given: Scan | Path | str) -> Scan | Path:
    return given if isinstance(given, Scan) else Path(given)


def _stopped(scan: Path, problem: Exception) -> ScanError:
    if isinstance(problem, OSError):
        fix = "see that it can be read, its results can be written, and the disk has room."
    else:
        fix = "if memory is short, set --max-memory or close other programs; try this scan again."
    return ScanError(f"Could not segment {scan}: {last_line(problem)}.", fix=fix)


def _in_memory(ready: Ready, known: Age = UNKNOWN) -> tuple[Segmentation, Scan]:
    """The result, and the scan that gives it its grid."""
    with ready.watch.stage("read"):
        volumes = read_images(ready.images, ready.segmenter.model.card)
    result = ready.segmenter(volumes, ready.watch, known)
    ready.note(result.record)
    return result, next(iter(volumes.values()))


def _segment_files(ready: Ready, paths: ResultPaths) -> Segmentation:
    images, watch, card = ready.images, ready.watch, ready.segmenter.model.card
    scan = images.file
    result, shown = _in_memory(ready, age_of(scan))
    name = scan.absolute().name

    def drawn() -> bytes:
        made_by = f"{card.name} {card.version}"
        words = result.expected_dice
        lines = [f"{made_by}, {words}" if words else made_by, *result.warnings]
        with watch.stage("picture"):
            return picture(shown, result.labels, title=name, lines=lines)

    result.record["scan"] = name
    result.record["source"] = path_from(paths.record.parent, scan)
    if len(card.looks_at) > 1:
        result.record["images"] = as_files(images, card, paths.record.parent)
    with ThreadPoolExecutor(1) as beside, watch.stage("write"):
        write_results(
            paths,
            scan=scan,
            labels=result.labels,
            volumes_mm3=result.volumes_mm3,
            picture=beside.submit(drawn).result,
            record=result.record,
        )
    return replace(result, paths=paths)
