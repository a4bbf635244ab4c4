"""Segmented scans as a report shows them, read from what `fewlabel segment` wrote."""

import base64
import csv
import io
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from fewlabel.card import PredictedAge
from fewlabel.cohort import refuse
from fewlabel.errors import CohortError, ProtocolError
from fewlabel.labels import LabelProtocol, load_protocol
from fewlabel.results import RECORD_ENDING, ResultPaths
from fewlabel.sides import other_side

_PICTURE_WIDTH = 1500
_FIX = "segment the scan again with --overwrite, or take the file away."


@dataclass(frozen=True)
class SegmentedCase:
    """The result of one scan.

    Attributes:
        id: Such as "sub-01".
        paths: Its files.
        record: What `*_dseg.json` says.
        volumes_mm3: By structure.
        scan: The scan, if it lies where it was, or None.
    """

    id: str
    paths: ResultPaths
    record: dict[str, Any]
    volumes_mm3: dict[str, float]
    scan: Path | None

    @property
    def protocol(self) -> LabelProtocol:
        """What the labels mean, from the legend beside them."""
        return load_protocol(self.paths.legend)

    @property
    def doubt(self) -> tuple[int, float]:
        """Sorts cases: more broken rules first, then less expected Dice."""
        quality = self.record.get("quality") or {}
        expected = quality.get("mean_expected_dice")
        return (-len(self.record.get("warnings", [])), 1.0 if expected is None else expected)

    def as_json(self) -> dict[str, Any]:
        """What the page needs, but for volumes to look at."""
        quality = self.record.get("quality") or {}
        return {
            "id": self.id,
            "files": [path.name for path in self.paths.all()],
            "warnings": list(self.record.get("warnings", [])),
            "findings": list(quality.get("findings", [])),
            "expected": dict(quality.get("expected_dice", {})),
            "mean": quality.get("mean_expected_dice"),
            "volumes": self.volumes_mm3,
            "age": _age(self.record.get("age")),
            "picture": _picture(self.paths.picture),
            "record": self.record,
        }


def find_cases(folder: Path, tell: Callable[[str], None] | None = None) -> list[SegmentedCase]:
    """Every whole result anywhere below a folder, the most doubtful first.

    Drafts, whose names begin with a dot, and what others wrote under such names are passed over.

    Args:
        folder: Where to look.
        tell: Is given a sentence about each damaged result, which is left out.

    Raises:
        CohortError: If there are damaged results only.
    """
    cases, damaged = [], []
    for file in sorted(folder.rglob(f"*{RECORD_ENDING}")):
        if file.name.startswith(".") or _is_foreign(file):
            continue
        try:
            cases.append(read_case(file))
        except CohortError as problem:
            damaged.append(problem.what)
    if not cases:
        refuse(str(folder), damaged, fix=_FIX)
    if tell is not None:
        for what in damaged:
            tell(what)
    return sorted(cases, key=lambda case: (case.doubt, case.id))


def _is_foreign(file: Path) -> bool:
    """Whether a file is JSON, but not about a scan that `fewlabel segment` segmented."""
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return not isinstance(said, dict) or "fewlabel" not in said or "registrations" in said


def read_case(record: Path) -> SegmentedCase:
    """One result, from its `*_dseg.json`.

    Raises:
        CohortError: If a file is missing or is not what fewlabel writes.
    """
    stem = record.name.removesuffix(RECORD_ENDING)
    paths = ResultPaths.named(stem, record.parent)
    try:
        said = json.loads(record.read_text(encoding="utf-8"))
        volumes = dict(_volumes(paths.volumes))
        load_protocol(paths.legend)
        if not isinstance(said, dict) or "fewlabel" not in said:
            raise ValueError("not a record of fewlabel")
    except (OSError, ValueError, KeyError, TypeError, ProtocolError) as problem:
        reason = problem.what.rstrip(".") if isinstance(problem, ProtocolError) else str(problem)
        raise CohortError(
            f"{record} is not a whole result of fewlabel: {reason}.",
            fix=_FIX,
        ) from None
    source = record.parent / str(said.get("source") or said.get("scan") or "")
    return SegmentedCase(stem, paths, said, volumes, source if source.is_file() else None)


def protocol_as_json(protocol: LabelProtocol) -> dict[str, Any]:
    """Names, colors and, for left structures, partners."""
    return {
        "name": protocol.name,
        "structures": [
            {
                "name": label.name,
                "color": "#{:02x}{:02x}{:02x}".format(*label.color),
                "partner": partner if (partner := other_side(label.name)) in protocol.names else "",
            }
            for label in protocol.labels
        ],
    }


def read_volume_norms(path: Path) -> dict[str, tuple[float, float]]:
    """Usual volumes in mm3 from a TSV with the columns structure, low_mm3, high_mm3.

    Raises:
        CohortError: If the file is no such table.
    """
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines(), delimiter="\t"))
        norms = {row["structure"]: (float(row["low_mm3"]), float(row["high_mm3"])) for row in rows}
        if not all(math.isfinite(x) for ends in norms.values() for x in ends):
            raise ValueError("a limit is not finite")
    except (OSError, KeyError, ValueError, TypeError) as problem:
        raise CohortError(
            f"{path} is no table of usual volumes ({type(problem).__name__}: {problem}).",
            fix="give a TSV with the columns structure, low_mm3 and high_mm3.",
        ) from None
    return norms


def _volumes(path: Path) -> Iterator[tuple[str, float]]:
    for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines(), delimiter="\t"):
        yield row["structure"], float(row["volume_mm3"])


def _age(found: Any) -> str | None:
    """The age that the network told, as a sentence, or None."""
    try:
        error = None if found["high_weeks"] is None else found["high_weeks"] - found["weeks"]
        return PredictedAge(float(found["weeks"]), error).as_text()
    except (TypeError, KeyError, ValueError):
        return None


def _picture(path: Path) -> str | None:
    """The picture as a data URL of a tenth of its size, or None if there is none."""
    try:
        with Image.open(path) as image:
            width = min(_PICTURE_WIDTH, image.width)
            small = image.convert("RGB").resize((width, round(image.height * width / image.width)))
    except OSError:
        return None
    stream = io.BytesIO()
    small.save(stream, "WEBP", quality=70, method=4)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()
