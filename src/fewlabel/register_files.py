"""Registration from files to files."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fewlabel.datasets.found import stem_of
from fewlabel.errors import CohortError, OutputError
from fewlabel.evaluate import case_of, label_files
from fewlabel.io import read_labels, read_scan, write_labels, write_text
from fewlabel.labels import LabelProtocol
from fewlabel.propagate import Atlas, check_atlases, propagate
from fewlabel.register import Deformer, How, Registration, register
from fewlabel.results import ResultPaths, require_different_names
from fewlabel.version import VERSION
from fewlabel.volume import LabelMap
from fewlabel.warp_io import write_field, write_scan

RECORD = "registration.json"


@dataclass(frozen=True)
class LabelFile:
    """A label map on disk and what its numbers mean."""

    path: Path
    protocol: LabelProtocol


def register_files(
    moving: Path,
    fixed: Path,
    out: Path,
    *,
    labels: LabelFile | None = None,
    model: Deformer | None = None,
    how: How | None = None,
) -> Registration:
    """Register two files; the results lie on the fixed scan's own voxels.

    `out` gets warped.nii.gz, displacement.nii.gz (for ITK; on cubic voxels), labels.nii.gz and
    at last registration.json, which marks a whole result.

    Raises:
        OutputError: If `out` holds a result already, or cannot be written.
        FewlabelError: If an input cannot be used; nothing is written then.
    """
    if (out / RECORD).exists():
        raise OutputError(
            f"{out} holds a registration already.", fix="choose another folder with --out."
        )
    source, target = read_scan(moving), read_scan(fixed)
    carried = None if labels is None else read_labels(labels.path, labels.protocol)
    done = register(source, target, labels=carried, model=model, how=how)
    write_scan(done.warped, out / "warped.nii.gz")
    write_field(done.displacement, out / "displacement.nii.gz")
    if done.labels is not None:
        write_labels(done.labels, out / "labels.nii.gz", like=fixed)
    about = {"fewlabel": VERSION, "moving": moving.name, "fixed": fixed.name}
    record = about | done.as_json() | {"notes": [*source.notes, *target.notes]}
    write_text(out / RECORD, json.dumps(record, indent=2) + "\n")
    return done


def read_atlases(scans: Path, labels: Path, protocol: LabelProtocol) -> list[Atlas]:
    """One atlas from two files, or several from two folders, matched by case.

    Raises:
        CohortError: If the folders have no case in common.
        FewlabelError: If a file cannot be read, or labels are on another grid than their scan.
    """
    if scans.is_dir() != labels.is_dir():
        raise CohortError(
            f"One of {scans} and {labels} is a folder and the other is not.",
            fix="give a scan and its labels, or a folder of scans and one of labels.",
        )
    pairs = _matched(scans, labels, protocol) if scans.is_dir() else [(scans, labels)]
    atlases = [Atlas(read_scan(one), read_labels(two, protocol)) for one, two in pairs]
    check_atlases(atlases)
    return atlases


def propagate_files(
    atlases: Sequence[Atlas],
    scans: Sequence[Path],
    out: Path,
    *,
    model: Deformer | None = None,
    how: How | None = None,
) -> Iterator[tuple[Path, LabelMap, float]]:
    """Label scans from atlases, one after another; each gets SCAN_dseg.nii.gz and .json.

    Yields:
        The written file, its labels, and how far the atlases agreed (0 to 1).

    Raises:
        OutputError: If two scans would get the same file names, a result is there already, or
            it cannot be written.
        FewlabelError: If a scan cannot be used.
    """
    places = [(scan, ResultPaths.of(scan, out)) for scan in scans]
    require_different_names(places)
    for _, paths in places:
        if paths.record.exists():
            raise OutputError(
                f"{paths.record} exists already.", fix="choose another folder with --out."
            )
    for scan, paths in places:
        done = propagate(atlases, read_scan(scan), model=model, how=how)
        write_labels(done.labels, paths.labels, like=scan)
        record = {
            "fewlabel": VERSION,
            "scan": scan.name,
            "protocol": done.labels.protocol.name,
            "atlases": len(atlases),
            "agreement": round(done.agreement, 4),
            "registrations": [one.as_json() for one in done.registrations],
        }
        write_text(paths.record, json.dumps(record, indent=2) + "\n")
        yield paths.labels, done.labels, done.agreement


def _matched(scans: Path, labels: Path, protocol: LabelProtocol) -> list[tuple[Path, Path]]:
    images = [
        f
        for f in sorted(scans.rglob("*"))
        if stem_of(f.name) and "_dseg" not in f.name and f.name[0] != "."
    ]
    by_case: dict[str, Path] = {}
    for image in images:
        if (case := case_of(image)) in by_case:
            raise CohortError(
                f"Case {case} has two scans: {by_case[case]} and {image}.",
                fix="give a folder with one scan of each atlas.",
            )
        by_case[case] = image
    theirs = label_files(labels, protocol)
    shared = sorted(by_case.keys() & theirs.keys())
    if not shared:
        raise CohortError(
            f"{scans} and {labels} share no case.",
            fix="name files after their case: sub-01_T1w.nii.gz and sub-01_dseg.nii.gz.",
        )
    return [(by_case[case], theirs[case]) for case in shared]
