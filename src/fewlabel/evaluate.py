"""Scoring label maps, files and whole folders, each side in its own protocol."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from fewlabel.errors import CohortError, ConfigError, FewlabelError, ScanError
from fewlabel.io import read_labels
from fewlabel.labels import LabelProtocol, load_protocol, shared_protocol
from fewlabel.metrics import MEASURES, measure
from fewlabel.scores import NO_PREDICTION, NO_TRUTH, Score, ScoreTable
from fewlabel.volume import LabelMap

_ENDING = re.compile(r"\.(nii|nii\.gz|mgh|mgz)$")
_BIDS = re.compile(r"sub-[A-Za-z0-9]+(_ses-[A-Za-z0-9]+)?(?=_|$)")


@dataclass(frozen=True)
class Protocols:
    """What the numbers on either side mean, and in which terms they are compared.

    Attributes:
        predicted: Protocol of the predictions.
        reference: Protocol of the truth.
        score_in: The terms; by default the coarser of the two.
    """

    predicted: LabelProtocol
    reference: LabelProtocol
    score_in: LabelProtocol | None = None

    @classmethod
    def named(cls, predicted: str, reference: str | None, score_in: str | None) -> "Protocols":
        """From names or TSV files; the truth's is that of the predictions unless told."""
        ours = load_protocol(predicted)
        theirs = load_protocol(reference) if reference else ours
        return cls(ours, theirs, load_protocol(score_in) if score_in else None)

    def shared(self) -> LabelProtocol:
        """The structures that both sides can speak about.

        Raises:
            ProtocolError: If there are none.
        """
        if self.score_in is None:
            return shared_protocol(self.predicted, self.reference)
        return shared_protocol(self.reference, shared_protocol(self.predicted, self.score_in))


def score_pair(
    predicted: LabelMap,
    reference: LabelMap,
    *,
    case: str,
    metrics: Collection[str] = tuple(MEASURES),
    score_in: LabelProtocol | None = None,
) -> ScoreTable:
    """Score one label map against another, each in its own protocol.

    Both are mapped to the structures that they share. A structure that either protocol does not
    draw is left out, not missed; structures that a protocol marks as not scored are left out too.

    Args:
        predicted: Labels to score, on the reference's grid.
        reference: Labels taken as the truth.
        case: Name of the rows.
        metrics: Keys of `fewlabel.metrics.MEASURES`.
        score_in: The protocol to compare in; by default the coarser of the two.

    Raises:
        GridMismatch: If the two maps do not share voxels.
        ProtocolError: If they have no structure in common.
    """
    shared = Protocols(predicted.protocol, reference.protocol, score_in).shared()
    found = measure(predicted.to(shared), reference.to(shared), metrics)
    scored = {label.name for label in shared.labels if label.scored}
    return ScoreTable(
        tuple(
            Score(case, structure, metric, value, MEASURES[metric][1])
            for metric, scores in found.items()
            for structure, value in scores.items()
            if structure in scored
        )
    )


def score_paths(
    predicted: Path, reference: Path, protocols: Protocols, *, metrics: Collection[str]
) -> ScoreTable:
    """Score two files or two folders; see `score_pair` and `score_folders`.

    Raises:
        ScanError: If one is a folder and the other is not.
    """
    if predicted.is_dir() != reference.is_dir():
        raise ScanError(
            f"Of {predicted} and {reference} only one is a folder.",
            fix="give two files or two folders.",
        )
    score = score_folders if predicted.is_dir() else score_files
    return score(predicted, reference, protocols, metrics=metrics)


def score_files(
    predicted: Path,
    reference: Path,
    protocols: Protocols,
    *,
    metrics: Collection[str] = tuple(MEASURES),
) -> ScoreTable:
    """Score one file against another; see `score_pair`."""
    return score_pair(
        read_labels(predicted, protocols.predicted),
        read_labels(reference, protocols.reference),
        case=case_of(reference),
        metrics=metrics,
        score_in=protocols.score_in,
    )


def score_folders(
    predicted: Path,
    reference: Path,
    protocols: Protocols,
    *,
    metrics: Collection[str] = tuple(MEASURES),
) -> ScoreTable:
    """Score every case that both folders hold, and name those that only one holds.

    Files belong to the same case if they name the same BIDS subject and session, or else have
    the same name up to `_dseg`. A case that is refused does not stop the others.

    Raises:
        CohortError: If the folders share no case, or one has several files for a case.
        ProtocolError: If the protocols have no structure in common.
    """
    protocols.shared()
    ours = label_files(predicted, protocols.predicted)
    theirs = label_files(reference, protocols.reference)
    if not ours.keys() & theirs.keys():
        raise CohortError(
            f"{predicted} ({_few(ours)}) and {reference} ({_few(theirs)}) share no case.",
            fix="name files after their case, such as sub-01_dseg.nii.gz, on both sides.",
        )
    rows: list[Score] = []
    unscored = dict.fromkeys(theirs.keys() - ours.keys(), NO_PREDICTION)
    unscored |= dict.fromkeys(ours.keys() - theirs.keys(), NO_TRUTH)
    for case in sorted(ours.keys() & theirs.keys()):
        try:
            rows += score_files(ours[case], theirs[case], protocols, metrics=metrics).rows
        except ConfigError:
            raise
        except FewlabelError as refusal:
            unscored[case] = refusal.what
    return ScoreTable(tuple(rows), dict(sorted(unscored.items())))


def case_of(path: Path) -> str:
    """The case that a file belongs to, from its name.

    >>> case_of(Path("sub-01_ses-2_desc-aseg_dseg.nii.gz")), case_of(Path("anna_dseg.nii"))
    ('sub-01_ses-2', 'anna')
    """
    stem = _ENDING.sub("", path.name)
    bids = _BIDS.match(stem)
    return bids.group() if bids else stem.removesuffix("_dseg")


def label_files(folder: Path, protocol: LabelProtocol) -> dict[str, Path]:
    """Label maps anywhere below a folder, by case.

    If any file is named `*_dseg`, only those count; if a case has several, the one whose `desc-`
    entity begins the protocol's name (`desc-dktaseg` for "dktaseg").

    Raises:
        ScanError: If the folder does not exist.
        CohortError: If a case has several files that could be meant.
    """
    if not folder.is_dir():
        raise ScanError(f"There is no folder {folder}.", fix="check the path.")
    images = [f for f in sorted(folder.rglob("*")) if _ENDING.search(f.name) and f.name[0] != "."]
    named = [f for f in images if _ENDING.sub("", f.name).endswith("_dseg")]
    files: dict[str, list[Path]] = {}
    for file in named or images:
        files.setdefault(case_of(file), []).append(file)
    return {case: _the_one(case, found, protocol) for case, found in files.items()}


def _the_one(case: str, files: list[Path], protocol: LabelProtocol) -> Path:
    if len(files) == 1:
        return files[0]
    described = [(re.search(r"_desc-([A-Za-z0-9]+)", file.name), file) for file in files]
    meant = [file for desc, file in described if desc and protocol.name.startswith(desc.group(1))]
    if len(meant) == 1:
        return meant[0]
    raise CohortError(
        f"Case {case} has {len(files)} label files: {_few(str(file) for file in files)}.",
        fix="keep one of them in the folder, or score single files.",
    )


def _few(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    return (", ".join(listed[:3]) or "no label files") + more
