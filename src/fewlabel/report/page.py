"""Putting a page together: everything it needs lies within it, and nothing in it is code of ours.

Names, paths and notes come from files, so they travel as JSON in which no tag can end or begin,
and the page's script writes them as text, never as HTML.
"""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from fewlabel.errors import CohortError, ConfigError, FewlabelError
from fewlabel.io import read_labels, read_scan
from fewlabel.labels import Label, LabelProtocol, load_protocol
from fewlabel.report.cases import (
    SegmentedCase,
    find_cases,
    protocol_as_json,
    read_volume_norms,
)
from fewlabel.report.runs import is_run, read_run
from fewlabel.report.volumes import packed
from fewlabel.report.words import methods
from fewlabel.version import VERSION
from fewlabel.volume import LabelMap, Scan
from fewlabel.whole import write_text

_PAGE_BYTES = 26_000_000
_MOST_PER_CASE, _LEAST_PER_CASE, _PICTURE_BYTES = 3_500_000, 300_000, 140_000


def write_report(
    folders: Sequence[Path],
    out: Path,
    *,
    norms: Path | None = None,
    tell: Callable[[str], None] | None = None,
) -> Path:
    """Write the report of segmented scans and training runs.

    Args:
        folders: Each a training run, or a folder with results of `fewlabel segment` somewhere
            below it.
        out: The page to write.
        norms: TSV of usual volumes (structure, low_mm3, high_mm3); without it cases are shown
            against each other.
        tell: Is given a sentence about each damaged result, which is left out.

    Returns:
        The page.

    Raises:
        CohortError: If a folder holds neither, or damaged results only.
        OutputError: If the page cannot be written.
    """
    cases: list[SegmentedCase] = []
    runs = []
    for folder in folders:
        if not folder.is_dir():
            raise CohortError(f"There is no folder {folder}.", fix="check the path.")
        if is_run(folder):
            runs.append(read_run(folder))
            continue
        found = find_cases(folder, tell)
        if not found:
            raise CohortError(
                f"{folder} holds neither a training run nor results of `fewlabel segment`.",
                fix="give the folder that --out named when it was trained or segmented.",
            )
        cases += found
    cases.sort(key=lambda case: (case.doubt, case.id))
    _tell_apart(runs)
    write_text(out, _page(cases, runs, {} if norms is None else read_volume_norms(norms)))
    return out


def _tell_apart(runs: Sequence[dict[str, Any]]) -> None:
    """Give runs of one name the names of the folders above them too."""
    names = [run["name"] for run in runs]
    for run in runs:
        if names.count(run["name"]) > 1:
            run["name"] = run["folder"]


def write_view(scan: Path, out: Path, labels: tuple[Path, str] | None = None) -> Path:
    """Write a page that shows one scan, and labels over it.

    Args:
        scan: The scan.
        out: The page to write.
        labels: A label map on any grid, and the protocol of its numbers.

    Raises:
        ScanError: If a file cannot be read.
    """
    volume = read_scan(scan)
    drawn = None if labels is None else read_labels(labels[0], load_protocol(labels[1]))
    return write_viewer(volume, drawn, out, title=scan.name)


def labels_beside(labels: Path, protocol: str | None) -> str:
    """What the numbers of a label map mean: as asked, or the TSV of the same name.

    Raises:
        ConfigError: If neither is there.
    """
    table = labels.with_name(labels.name.removesuffix(".gz").rsplit(".", 1)[0] + ".tsv")
    if protocol is None and not table.is_file():
        raise ConfigError(
            f"Nothing says what the numbers in {labels} mean: there is no {table.name} beside it.",
            fix="add --protocol NAME, or the path of a protocol's table.",
        )
    return protocol or str(table)


def write_viewer(scan: Scan, labels: LabelMap | None, out: Path, *, title: str) -> Path:
    """The same for what is in memory."""
    write_text(out, viewer_page(scan, labels, title=title))
    return out


def viewer_page(scan: Scan, labels: LabelMap | None, *, title: str) -> str:
    """A page that shows one scan, and labels over it, as HTML."""
    nothing = LabelProtocol("none", (Label(1, "none"),))
    drawn = labels or _empty(scan, nothing)
    image, overlay = packed(scan, drawn, 2 * _MOST_PER_CASE)
    case = {"id": title, "volumes": {}, "protocol": 0, "has_scan": True, "has_labels": True}
    data = {
        "title": title,
        "view": True,
        "cases": [case],
        "protocols": [protocol_as_json(drawn.protocol)] if labels else [{"structures": []}],
    }
    return _assembled(title, data, {"scan-0": image or "", "labels-0": overlay})


def _empty(scan: Scan, protocol: LabelProtocol) -> LabelMap:
    return LabelMap(np.zeros(scan.data.shape, np.int16), scan.grid, protocol)


def _page(
    cases: Sequence[SegmentedCase], runs: Sequence[Any], norms: Mapping[str, tuple[float, float]]
) -> str:
    protocols: list[dict[str, Any]] = []
    shown, parts = [], {}
    left = _PAGE_BYTES
    for number, case in enumerate(cases):
        said = case.as_json()
        protocol = case.protocol
        known = protocol_as_json(protocol) | {"name": case.record.get("protocol", protocol.name)}
        if known not in protocols:
            protocols.append(known)
        left -= len(said["picture"] or "")
        share = bytes_for_next(left, len(cases) - number)
        image, overlay = _volumes(case, share) if share else (None, None)
        for kind, content in (("scan", image), ("labels", overlay)):
            if content:
                parts[f"{kind}-{number}"] = content
                left -= len(content)
        shown.append(
            said
            | {"protocol": protocols.index(known)}
            | {"has_scan": image is not None, "has_labels": overlay is not None}
        )
    title = f"{len(cases)} segmented scans" if cases else "Training"
    if len(runs) == 1 and not cases:
        title = f"Training run {runs[0]['name']}"
    elif runs and not cases:
        title = f"{len(runs)} training runs"
    data = {
        "title": title,
        "view": False,
        "cases": shown,
        "runs": list(runs),
        "protocols": protocols,
        "norms": norms,
        "methods": methods([case.record for case in cases]),
    }
    return _assembled(title, data, parts)


def bytes_for_next(left: int, cases: int) -> int:
    """What the next of so many cases may take; 0 if there is too little to see anything.

    The first are the most doubtful, so they get enough even where the last then get nothing.

    >>> bytes_for_next(26_000_000, 20), bytes_for_next(26_000_000, 1000), bytes_for_next(200_000, 1)
    (1167000, 300000, 0)
    """
    if left < _LEAST_PER_CASE:
        return 0
    share = (left - _PICTURE_BYTES * (cases - 1)) // cases
    return max(_LEAST_PER_CASE, min(_MOST_PER_CASE, share))


def _volumes(case: SegmentedCase, most_bytes: int) -> tuple[str | None, str | None]:
    """Nothing to look at is no reason to have no report."""
    try:
        labels = read_labels(case.paths.labels, case.protocol)
        scan = None if case.scan is None else read_scan(case.scan)
        return packed(scan, labels, most_bytes)
    except FewlabelError:
        return None, None


def _assembled(title: str, data: Mapping[str, Any], parts: Mapping[str, str]) -> str:
    assets = files("fewlabel.report") / "assets"
    made = {"made": datetime.now(UTC).isoformat(timespec="seconds"), "fewlabel": VERSION}
    scripts = "\n".join((assets / name).read_text("utf-8") for name in _SCRIPTS)
    blobs = dict(parts)
    if parts:
        niivue = (assets / "niivue.umd.js.gz").read_bytes()
        blobs["niivue"] = base64.b64encode(niivue).decode()
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            # Nothing may be fetched, whatever a script tries.
            '<meta http-equiv="Content-Security-Policy" content="default-src \'none\';'
            " script-src 'unsafe-inline' 'unsafe-eval' blob:; style-src 'unsafe-inline';"
            ' img-src data: blob:; font-src data: blob:; connect-src data: blob:">',
            f"<title>{escape(title)}</title>",
            f"<style>{(assets / 'page.css').read_text('utf-8')}</style></head><body>",
            '<noscript>This page needs JavaScript to show its content.</noscript><div id="page">'
            "</div>",
            *(
                f'<script type="text/plain" id="{name}">{content}</script>'
                for name, content in blobs.items()
            ),
            f'<script type="application/json" id="data">{safe_json({**data, **made})}</script>',
            f"<script>{scripts}</script></body></html>",
            "",
        ]
    )


_SCRIPTS = ("parts.js", "charts.js", "viewer.js", "cases.js", "runs.js", "page.js")


def safe_json(data: Any) -> str:
    r"""JSON in which no tag, comment or entity can begin; infinite numbers and NaN are null.

    >>> safe_json("</script>")
    '"\\u003c/script\\u003e"'
    """
    text = json.dumps(_finite(data), ensure_ascii=True, allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _finite(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {str(key): _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    if isinstance(data, float) and not abs(data) < float("inf"):
        return None
    return data
