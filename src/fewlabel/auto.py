"""Partial annotations that nobody has to draw: by FSL FIRST, by registration, or by a model.

A scan that cannot be annotated is left out, and the table says why.
"""

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np

from fewlabel.cohort import Case, Cohort, person_in, refuse, write_cohort
from fewlabel.datasets.found import stem_of
from fewlabel.engine import Compute
from fewlabel.errors import CohortError, FewlabelError, OutputError, ProtocolError
from fewlabel.io import read_scan, write_labels
from fewlabel.labels import LabelProtocol
from fewlabel.modalities import Images, read_images
from fewlabel.model import ModelFolder
from fewlabel.propagate import Atlas, propagate
from fewlabel.register import How
from fewlabel.segmenter import Segmenter
from fewlabel.volume import LabelMap
from fewlabel.whole import make_folder, write_text

TABLE, MANIFEST = "annotations.tsv", "cohort.tsv"
FOURTH_VENTRICLE, BRAIN_STEM = "4th-Ventricle", "Brain-Stem"
Annotator = Callable[[Path], LabelMap]
"""From the file of a scan to its partial labels, on the scan's grid."""


@dataclass(frozen=True)
class Annotated:
    """What became of one scan.

    Attributes:
        scan: Its file.
        labels: Its label map; None if it was left out.
        problem: Why it was left out.
        kept: Whether the labels were there already.
    """

    scan: Path
    labels: Path | None
    problem: str = ""
    kept: bool = False


def annotate(
    scans: Sequence[Path], annotator: Annotator, protocol: LabelProtocol, out: Path
) -> Iterator[Annotated]:
    """Annotate scans one after another; one that fails is left out and does not stop the others.

    Args:
        scans: NIfTI or MGH files.
        annotator: What draws.
        protocol: What it draws.
        out: Folder for `STEM_desc-PROTOCOL_dseg.nii.gz` of each scan; those that are there
            already are kept.

    Yields:
        What became of each scan, in order.

    Raises:
        OutputError: If two scans would get the same file name, or `out` cannot be written.
        CohortError: If labels that are there are those of other scans.
    """
    places = {scan: out / f"{_stem(scan)}_desc-{protocol.name}_dseg.nii.gz" for scan in scans}
    if len(set(places.values())) < len(places):
        raise OutputError(
            f"Some of {len(scans)} scans have the same name, and so would their labels.",
            fix="annotate them in several calls with a folder for each.",
        )
    _require_own(places, out)
    make_folder(out)
    for scan, place in places.items():
        if place.is_file():
            yield Annotated(scan, place, kept=True)
            continue
        try:
            labels = annotator(scan)
        except (CohortError, ProtocolError, OutputError):
            raise  # about the whole call
        except FewlabelError as refusal:
            yield Annotated(scan, None, refusal.what)
            continue
        if not (labels.data > 0).any():
            yield Annotated(scan, None, "Not one structure was found.")
            continue
        write_labels(labels, place)
        yield Annotated(scan, place)


def _require_own(places: Mapping[Path, Path], out: Path) -> None:
    """Refuse labels from an earlier call that its table says are those of other scans."""
    try:
        lines = (out / TABLE).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return
    rows = csv.DictReader(lines, delimiter="\t")
    drawn_on = {row.get("labels"): Path(row.get("scan") or "") for row in rows}
    problems = [
        f"{place.name} is there already: the labels of {other}, not of {scan}."
        for scan, place in places.items()
        if place.is_file() and (other := drawn_on.get(place.name)) and other.is_file()
        if not (scan.is_file() and scan.samefile(other))
    ]
    refuse(str(out), problems, fix="annotate these scans with another folder as --out.")


def write_table(
    found: Iterable[Annotated],
    protocol: LabelProtocol,
    by: str,
    out: Path,
    *,
    drawn_in: str | None = None,
) -> Cohort:
    """Write `annotations.tsv`, what became of each scan, and `cohort.tsv`, those annotated.

    Args:
        found: From `annotate`.
        protocol: What was drawn.
        by: What drew it, for the table.
        out: Folder.
        drawn_in: What `load_protocol` finds it by; None: its name, as it ships with fewlabel.

    Returns:
        The annotated scans, all to train on. Their persons are told apart by the `sub-` part
        of the file's name.
    """
    found = list(found)
    text = StringIO()
    table = csv.writer(text, delimiter="\t", lineterminator="\n")
    table.writerow(("scan", "by", "status", "labels", "problem"))
    for one in found:
        status = "kept" if one.kept else "annotated" if one.labels else "failed"
        problem = " ".join(one.problem.split())
        labels = one.labels.name if one.labels else ""
        table.writerow((one.scan.absolute(), by, status, labels, problem))
    write_text(out / TABLE, text.getvalue())
    done = Cohort(tuple(_case(one, drawn_in or protocol.name) for one in found if one.labels))
    if done.cases:
        write_cohort(done, out / MANIFEST)
    return done


def by_model(
    model: ModelFolder, protocol: LabelProtocol, *, fourth_ventricle: bool = False
) -> Annotator:
    """Let a model draw what it shares with `protocol`.

    Args:
        model: Any model folder whose protocol has all structures of `protocol`.
        protocol: What to draw, such as `fsl15`.
        fourth_ventricle: Count the fourth ventricle as brain stem, as FIRST does.

    Raises:
        ProtocolError: If the model lacks a structure of `protocol`.
    """
    own = model.card.protocol
    _require_all(own, protocol, f"The model {model.card.name}")
    segmenter = Segmenter(model, Compute())

    def annotator(scan: Path) -> LabelMap:
        images = read_images(Images(scan), model.card)
        return _reduced(segmenter(images).labels, protocol, fourth_ventricle)

    return annotator


def by_registration(
    atlases: Sequence[Atlas],
    protocol: LabelProtocol,
    *,
    fourth_ventricle: bool = False,
    how: How | None = None,
) -> Annotator:
    """Carry the labels of one atlas, or of several that vote, to each scan.

    Args:
        atlases: Labeled scans, in a protocol that has all structures of `protocol`.
        protocol: What to draw.
        fourth_ventricle: Count the fourth ventricle as brain stem, as FIRST does.
        how: How to register.

    Raises:
        CohortError: If there is no atlas.
        ProtocolError: If the atlases lack a structure of `protocol`.
    """
    if not atlases:
        raise CohortError("There is no atlas to take labels from.", fix="give at least one.")
    _require_all(atlases[0].labels.protocol, protocol, "The atlas")

    def annotator(scan: Path) -> LabelMap:
        found = propagate(atlases, read_scan(scan), how=how).labels
        return _reduced(found, protocol, fourth_ventricle)

    return annotator


def _reduced(labels: LabelMap, protocol: LabelProtocol, fourth_ventricle: bool) -> LabelMap:
    found = labels.to(protocol)
    if not fourth_ventricle or labels.protocol == protocol:
        return found
    name = next((n for n in labels.protocol.names if _plain(n) == _plain(FOURTH_VENTRICLE)), None)
    if name is None:
        raise ProtocolError(
            f"Protocol {labels.protocol.name!r} has no fourth ventricle to count as brain stem.",
            fix="leave out --fourth-ventricle.",
        )
    data = found.data.copy()
    data[labels.data == labels.protocol.class_of(name)] = protocol.class_of(BRAIN_STEM)
    return LabelMap(np.ascontiguousarray(data), found.grid, protocol)


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def _require_all(own: LabelProtocol, wanted: LabelProtocol, who: str) -> None:
    missing = [name for name in wanted.names if name not in own.covers(wanted)]
    if own != wanted and missing:
        raise ProtocolError(
            f"{who} draws {own.name!r}, which lacks {', '.join(missing)} of {wanted.name!r}.",
            fix="choose another one, or a protocol with fewer structures.",
        )


def _stem(scan: Path) -> str:
    return stem_of(scan.name) or scan.name


def _case(one: Annotated, protocol: str) -> Case:
    name = _stem(one.scan)
    parts, person = name.split("_"), person_in(name)
    modality = parts[-1] if len(parts) > 1 and parts[-1].isalnum() else "T1w"
    return Case(name, person, person, {modality: one.scan}, one.labels, protocol, split="train")
