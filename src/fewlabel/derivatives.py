"""BIDS derivatives: which scans of a data set are to be segmented, and where to.

OUT/dataset_description.json              what made them, with the model's hash
OUT/sub-01/ses-2/anat/sub-01_ses-2_...    the five files of each scan (`fewlabel.results`)
OUT/volumes.tsv, OUT/failures.tsv         one table each for all (`fewlabel.cohort_tables`)
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fewlabel.cohort_tables import FAILURES, VOLUMES, read_json
from fewlabel.datasets.bids import images_of, sessions_of
from fewlabel.engine import Compute
from fewlabel.errors import CohortError, OutputError
from fewlabel.modalities import Images
from fewlabel.model import ModelFolder
from fewlabel.results import ResultPaths, is_done, require_different_names
from fewlabel.version import VERSION
from fewlabel.whole import write_text

DESCRIPTION, IGNORED = "dataset_description.json", ".bidsignore"
_NOT_BIDS = ("*_volumes.tsv", "*_qc.png", f"*_{FAILURES}", VOLUMES, FAILURES)
_BIDS_VERSION = "1.10.0"


@dataclass(frozen=True)
class Job:
    """A scan and where its results go.

    Attributes:
        scan: Gives the results their names.
        paths: Of the results.
        others: Images of the same session that are looked at with it, by modality.
        left_out: Further images of these modalities in that session.
    """

    scan: Path
    paths: ResultPaths
    others: Mapping[str, Path] = field(default_factory=dict)
    left_out: tuple[Path, ...] = ()

    @property
    def images(self) -> Images:
        """All that is looked at together."""
        return Images(self.scan, others=self.others)

    @property
    def is_finished(self) -> bool:
        """Whether its whole result is there; the record is written last and marks it.

        Raises:
            OutputError: If the result is that of another scan, or someone took files away.
        """
        return self.paths.record.exists() and is_done(self.scan, self.paths, self.images.files())


@dataclass(frozen=True)
class Choice:
    """Which scans of a data set.

    Attributes:
        modalities: BIDS suffixes of the images, such as T1w. Of several, the first images of
            each session are looked at together, under the name of the first modality there.
        participants: Labels with or without "sub-"; none: everybody.
    """

    modalities: tuple[str, ...] = ("T1w",)
    participants: tuple[str, ...] = ()


@dataclass(frozen=True)
class Told:
    """What became of one scan of a cohort.

    Attributes:
        scan: The file.
        status: "kept" if its result was there before.
        what: Why it failed, or warnings of the result.
        fix: What to do about the failure.
    """

    scan: Path
    status: Literal["segmented", "kept", "failed"]
    what: str = ""
    fix: str = ""


def plan(data: Path, out: Path, choice: Choice = Choice()) -> tuple[Job, ...]:
    """What there is to segment, in the order of the data set.

    Args:
        data: A BIDS data set.
        out: Folder of the derivatives.
        choice: Which of its scans.

    Raises:
        CohortError: If there is no such scan, or somebody who was named has none.
        OutputError: If two scans would get the same names.
    """
    people = {name.removeprefix("sub-") for name in choice.participants}
    jobs = [_job(data, out, found) for found in _found(data, choice.modalities)]
    there = {_person(data, job.scan) for job in jobs}
    if not jobs or people - there:
        who, kinds = ", ".join(sorted(people - there)) or "anybody", choice.modalities
        raise CohortError(
            f"{data} has no {' or '.join(kinds)} image of {who}: looked for"
            f" {' and '.join(f'sub-*/**/*_{kind}.nii.gz' for kind in kinds)}.",
            fix="give a BIDS data set, and say with --modality which images to take.",
        )
    chosen = [job for job in jobs if not people or _person(data, job.scan) in people]
    require_different_names((job.scan, job.paths) for job in chosen)
    return tuple(chosen)


def _found(data: Path, modalities: Sequence[str]) -> list[dict[str, list[Path]]]:
    """What is looked at together: every image alone, or all modalities of a session."""
    if len(modalities) > 1:
        return sessions_of(data, modalities)
    return [{modalities[0]: [scan]} for scan in images_of(data, modalities[0])]


def _job(data: Path, out: Path, found: Mapping[str, list[Path]]) -> Job:
    scan, *others = (images[0] for images in found.values())
    further = tuple(path for images in found.values() for path in images[1:])
    paths = ResultPaths.of(scan, out / scan.parent.relative_to(data))
    return Job(scan, paths, dict(zip(list(found)[1:], others, strict=True)), further)


def sort_out(jobs: Iterable[Job], *, overwrite: bool = False) -> tuple[list[Told], list[Job]]:
    """What was finished before, and what is left to do.

    A scan is finished when its record is on disk; nothing else is remembered anywhere. So it does
    not matter who was killed before.

    Args:
        jobs: All scans.
        overwrite: Do all of them again.
    """
    told, left = [], []
    for job in jobs:
        try:
            if overwrite or not job.is_finished:
                left.append(job)
            else:
                told.append(Told(job.scan, "kept"))
        except OutputError as refusal:
            told.append(Told(job.scan, "failed", refusal.what, refusal.fix))
    return told, left


def open_derivatives(
    out: Path, data: Path, model: ModelFolder, compute: Compute, *, overwrite: bool = False
) -> None:
    """Make the folder, or make sure that it holds derivatives of the same model.

    Args:
        out: The folder.
        data: What they are derived from.
        model: What makes them.
        compute: What it runs on; results in other precision are other results.
        overwrite: Take over derivatives of another model; their results will be replaced.

    Raises:
        OutputError: If it holds something else.
    """
    described = _description(data, model, compute)
    before = read_json(out / DESCRIPTION)
    if before is None and _holds_something(out):
        before = read_json(out / DESCRIPTION)  # of a process that began at the same time
        if before is None:
            raise _no_derivatives(out)
    made_by, needed = _generator(before), _generator(described)
    if made_by is not None and made_by != needed and not overwrite:
        raise OutputError(
            f"{out} was made by {_words(made_by)}; now it is {_words(needed)}.",
            fix="choose another folder, or replace all results with --overwrite.",
        )
    if before != described:
        write_text(out / IGNORED, "".join(f"{pattern}\n" for pattern in _NOT_BIDS))
        write_text(out / DESCRIPTION, json.dumps(described, indent=1) + "\n")


def require_derivatives(out: Path) -> None:
    """Refuse a folder that holds no derivatives of fewlabel.

    Raises:
        OutputError: If so.
    """
    made_by = _generator(read_json(out / DESCRIPTION))
    if made_by is None or not made_by[0]:
        raise _no_derivatives(out)


def remove_drafts(paths: ResultPaths) -> None:
    """Remove what a process left that was killed while it wrote these files."""
    for path in paths.all():
        for draft in path.parent.glob(f".????????.{path.name}"):
            with suppress(OSError):  # another process was faster
                draft.unlink()


def _holds_something(folder: Path) -> bool:
    """Whether more is there than what processes write first, hidden, or leave when killed."""
    return folder.is_dir() and any(path.name[0] != "." for path in folder.iterdir())


def _no_derivatives(out: Path) -> OutputError:
    found = "exists and" if out.exists() else "does not exist and so"
    return OutputError(
        f"{out} {found} holds no derivatives of fewlabel: it has no {DESCRIPTION} by it.",
        fix="choose another folder.",
    )


def _person(data: Path, scan: Path) -> str:
    return scan.relative_to(data).parts[0].removeprefix("sub-")


def _description(data: Path, model: ModelFolder, compute: Compute) -> dict[str, Any]:
    card = model.card
    about = f"model {card.name} {card.version}, precision {compute.precision}"
    return {
        "Name": f"Segmentations by fewlabel ({card.name})",
        "BIDSVersion": _BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [
            {
                "Name": "fewlabel",
                "Version": VERSION,
                "Description": about,
                "ModelSHA256": card.sha256["model.onnx"],
            }
        ],
        "SourceDatasets": [{"URL": data.absolute().as_uri()}],
    }


def _generator(description: dict[str, Any] | None) -> tuple[str, str] | None:
    """The model's hash and how it was run; ("", name of the tool) if that is not fewlabel."""
    if description is None:
        return None
    made_by = description.get("GeneratedBy")
    first = made_by[0] if isinstance(made_by, list) and made_by else {}
    if not isinstance(first, dict) or first.get("Name") != "fewlabel":
        return "", "another program"
    return str(first.get("ModelSHA256", "")), str(first.get("Description", ""))


def _words(generator: tuple[str, str] | None) -> str:
    assert generator is not None
    sha256, about = generator
    return f"{about} ({sha256[:12]})" if sha256 else about
