"""What a scan file says about itself, and whether and how it would be read."""

import math
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.orientations import aff2axcodes

from fewlabel.checks import check_header, check_intensities, clean, header_notes
from fewlabel.dicom import converted
from fewlabel.errors import ScanError
from fewlabel.header import FileHeader
from fewlabel.voxels import read_header, read_stored, scaled

_TOWARDS = {"L": "left", "R": "right", "P": "back", "A": "front", "I": "feet", "S": "head"}


@dataclass(frozen=True)
class ScanReport:
    """What could be found out about one file; None where it could not.

    Attributes:
        path: The file.
        format: "NIfTI-1", "NIfTI-2" or "MGH".
        compressed: Whether it is a gzip stream.
        shape: Lengths of all axes.
        data_type: Type of the stored numbers, in words.
        slope: Stored numbers times this, plus `inter`, are the intensities, where it is used.
        inter: See `slope`.
        unit: Unit of length that the header states.
        spacing: Distance between voxel centers along i, j, k, in `unit` ("unknown" means mm).
        field_of_view_mm: Spacing times number of voxels, along i, j, k; in mm.
        orientation: Where i, j, k lead, such as "RAS": right, front (anterior), head (superior).
        oblique_degrees: Largest angle between a voxel axis and the body axis next to it.
        affine: Voxel index to world position, row by row.
        affine_from: "sform", "qform", "voxel sizes" or "MGH header".
        sform_code: As in the file.
        qform_code: As in the file.
        intensity: Smallest and largest intensity.
        notes: What is odd in the file and what is done about it.
        refusal: Why the file would be refused, or None if it would be read.
        fix: What to do about the refusal.
    """

    path: str
    format: str | None = None
    compressed: bool | None = None
    shape: tuple[int, ...] | None = None
    data_type: str | None = None
    slope: float | None = None
    inter: float | None = None
    unit: str | None = None
    spacing: tuple[float, ...] | None = None
    field_of_view_mm: tuple[float, ...] | None = None
    orientation: str | None = None
    oblique_degrees: float | None = None
    affine: tuple[tuple[float, ...], ...] | None = None
    affine_from: str | None = None
    sform_code: int | None = None
    qform_code: int | None = None
    intensity: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
    refusal: str | None = None
    fix: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The same with lists for tuples, and null for numbers that are not finite."""
        found: dict[str, Any] = _finite(asdict(self))
        return found

    def as_text(self) -> str:
        """The same for people: a line per fact, then the notes, then the verdict."""
        facts = {"File": self.path, **_facts(self)}
        lines = [f"{name + ':':<15}{value}" for name, value in facts.items()]
        lines += [f"{'Note:':<15}{note}" for note in self.notes]
        verdict = "it will be read as it is" if not self.notes else "it will be read as noted above"
        if self.refusal is not None:
            verdict = f"refused. {self.refusal}\n  To fix: {self.fix}"
        return "\n".join([*lines, f"{'Verdict:':<15}{verdict}"])


def describe_scan(path: Path) -> ScanReport:
    """Find out all that can be found out about a scan file, refused or not.

    Args:
        path: As for `read_scan`.
    """
    if os.path.isdir(path):  # noqa: PTH112  (no error where a folder above is closed)
        try:
            with converted(path) as file:
                report = describe_scan(file)
        except ScanError as refusal:
            return ScanReport(str(path), refusal=refusal.what, fix=refusal.fix)
        note = "A DICOM folder: dcm2niix converts it first; this is about the result."
        return replace(report, path=str(path), notes=(note, *report.notes))
    try:
        header = read_header(path)
    except ScanError as refusal:
        return ScanReport(str(path), refusal=refusal.what, fix=refusal.fix)
    return _with_voxels(_from_header(header), header)


def _from_header(header: FileHeader) -> ScanReport:
    report = ScanReport(
        path=str(header.path),
        format=header.format,
        compressed=header.compressed,
        shape=header.shape,
        data_type=header.type_name,
        slope=header.slope,
        inter=header.inter,
        unit=header.unit,
        spacing=header.spacing,
        affine=tuple(tuple(float(x) for x in row) for row in header.affine),
        affine_from=header.affine_from,
        sform_code=header.sform_code,
        qform_code=header.qform_code,
        notes=header.oddities,
    )
    try:
        grid = check_header(header, as_scan=False)
    except ScanError:
        return report  # its place in space cannot be told
    directions = np.abs(grid.affine[:3, :3]) / grid.spacing_mm
    straight = min(1.0, float(directions.max(axis=0).min()))
    return replace(
        report,
        field_of_view_mm=tuple(n * mm for n, mm in zip(grid.shape, grid.spacing_mm, strict=True)),
        orientation="".join(aff2axcodes(grid.affine)),
        oblique_degrees=math.degrees(math.acos(straight)),
        notes=header_notes(header),
    )


def _with_voxels(report: ScanReport, header: FileHeader) -> ScanReport:
    try:
        check_header(header, as_scan=True)
        data = scaled(read_stored(header), header)
        report = replace(report, notes=(*report.notes, *clean(data, report.path)))
        report = replace(report, intensity=(float(data.min()), float(data.max())))
        check_intensities(data, report.path)
    except ScanError as refusal:
        return replace(report, refusal=refusal.what, fix=refusal.fix)
    return report


def _facts(report: ScanReport) -> dict[str, str]:
    """The lines of the text, as far as they are known."""
    facts: dict[str, str] = {}
    if report.shape is None or report.spacing is None:
        return facts
    facts["Format"] = f"{report.format}{', gzip' if report.compressed else ''}"
    facts["Voxels"] = "x".join(map(str, report.shape))
    unit = "mm (the header names no unit)" if report.unit == "unknown" else report.unit
    facts["Spacing"] = f"{_by(report.spacing)} {unit}"
    if report.orientation is not None and report.field_of_view_mm is not None:
        facts["Field of view"] = f"{_by(report.field_of_view_mm)} mm"
        towards = ", ".join(_TOWARDS[letter] for letter in report.orientation)
        facts["Orientation"] = f"{report.orientation} (i, j, k lead to {towards})"
        if report.oblique_degrees is not None and report.oblique_degrees > 0.1:
            facts["Orientation"] += f", oblique by {report.oblique_degrees:.1f} degrees"
    facts["Affine from"] = f"{report.affine_from}"
    if report.format != "MGH":
        codes = f"(sform code {report.sform_code}, qform code {report.qform_code})"
        facts["Affine from"] += f" {codes}"
    facts["Data type"] = f"{report.data_type}"
    if report.slope not in (0.0, 1.0) or report.inter:
        facts["Data type"] += f", times {report.slope:g} plus {report.inter:g}"
    if report.intensity is not None:
        facts["Intensity"] = f"{report.intensity[0]:g} to {report.intensity[1]:g}"
    return facts


def _by(sizes: tuple[float, ...]) -> str:
    return "x".join(f"{size:.4g}" for size in sizes)


def _finite(found: Any) -> Any:
    if isinstance(found, dict):
        return {key: _finite(value) for key, value in found.items()}
    if isinstance(found, (list, tuple)):
        return [_finite(value) for value in found]
    if isinstance(found, float) and not math.isfinite(found):
        return None
    return found
