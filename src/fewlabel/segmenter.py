"""From a scan in memory to its structures: conform, run, restore."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from html import escape
from importlib import import_module
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from fewlabel import intensity
from fewlabel.conform import GridRule, conform, restore
from fewlabel.engine import Compute, Engine, in_windows
from fewlabel.engine_slices import SliceEngine, look_at_slices
from fewlabel.engine_stream import stream_engine
from fewlabel.errors import ModelFolderError
from fewlabel.field import first_look, look_again, main_body
from fewlabel.grid import Grid
from fewlabel.metrics import volumes_mm3
from fewlabel.mni import onto_mni
from fewlabel.model import ModelCard, ModelFolder
from fewlabel.norms import AROUND_BRAIN, read_norms
from fewlabel.quality import Quality, judge
from fewlabel.quality_rules import Circumstances
from fewlabel.results import ResultPaths
from fewlabel.shares import Shares
from fewlabel.slices import SliceRule, prepare
from fewlabel.traits import Traits, measure_traits
from fewlabel.version import VERSION
from fewlabel.volume import LabelMap, Scan

TOTAL_BRAIN = "Total-Brain"
_MOST_LOOKS = 3


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The structures of one scan.

    Attributes:
        labels: Their classes, on the scan's grid.
        volumes_mm3: By structure, and "Total-Brain": all of them but the CSF around it.
        record: How it came about: model, settings, seconds per stage, warnings.
        traits: What was measured on it without a truth.
        paths: Its files, if it was written.
    """

    labels: LabelMap
    volumes_mm3: dict[str, float]
    record: dict[str, Any]
    traits: Traits
    paths: ResultPaths | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader of the result should know, as sentences."""
        return tuple(self.record["warnings"])

    def _repr_html_(self) -> str:
        """Warnings and a table of structures, as notebooks show them."""
        expected = self.record["quality"]["expected_dice"]
        rows = "".join(
            f"<tr><td>{escape(name)}</td><td>{mm3 / 1000:.2f}</td><td>{_interval(expected, name)}"
            "</td></tr>"
            for name, mm3 in self.volumes_mm3.items()
        )
        warnings = "".join(f"<li>{escape(warning)}</li>" for warning in self.warnings)
        head = "<tr><th>structure</th><th>cm³</th><th>expected Dice (90 %)</th></tr>"
        return f"<ul>{warnings}</ul><table>{head}{rows}</table>"


def _interval(expected: dict[str, dict[str, float]], name: str) -> str:
    if name not in expected:
        return ""
    dice, low, high = (expected[name][key] for key in ("dice", "low", "high"))
    return f"{dice:.2f} ({low:.2f} to {high:.2f})"


class Segmenter:
    """A model that is ready for any number of scans.

    Args:
        model: What to run.
        compute: What to run it on.
    """

    def __init__(self, model: ModelFolder, compute: Compute) -> None:
        self.model, self.compute = model, compute
        self.norms = None if model.quality is None else read_norms(model.quality)
        # Starting the network takes half a second, in which the first scan can be read.
        background = ThreadPoolExecutor(1)
        self._engine = background.submit(_open_engine, model, compute)
        background.submit(import_module, "scipy.ndimage")  # 0.2 s, for `main_body`
        background.shutdown(wait=False)

    def __call__(
        self, scan: Scan, watch: "Watch | None" = None, age_years: float | None = None
    ) -> Segmentation:
        """Segment a scan in memory.

        Args:
            scan: Any orientation.
            watch: Takes the time of each stage.
            age_years: Of the person, if known: models are made for certain ages.

        Raises:
            ModelFolderError: If the model's network cannot be run.
        """
        watch = watch or Watch()
        card = self.model.card
        with watch.stage("start"):
            engine = self._engine.result()
        placed = scan
        if card.space == "mni-rigid":
            with watch.stage("register"):
                placed = onto_mni(scan)
        if isinstance(engine, SliceEngine):
            seen = _in_slices(placed, self.model.card, engine, watch)
        else:
            seen = _in_fields(placed, self.model.card, engine, watch)
        with watch.stage("restore"):
            labels = restore(seen.shares, seen.field, placed.grid, card.protocol)
            labels = replace(labels, grid=scan.grid)
            volumes = _volumes(labels)
        with watch.stage("quality"):
            traits = measure_traits(seen.shares, seen.field, card.protocol, seen.image)
            about = Circumstances(scan.grid.spacing_mm, age_years)
            quality = judge(labels, traits, self.norms, about)
        record = self._record(engine.means, seen, watch, quality)
        if isinstance(engine, Engine) and engine.window is not None:
            record["window"] = engine.window
        record["warnings"] = [*scan.notes, *(finding.says for finding in quality.findings)]
        return Segmentation(labels, volumes, record, traits)

    def _record(
        self, engine: str, seen: "_Seen", watch: "Watch", quality: Quality
    ) -> dict[str, Any]:
        card = self.model.card
        return {
            "fewlabel": VERSION,
            "scan": None,
            "model": {
                "name": card.name,
                "version": card.version,
                "sha256": card.sha256["model.onnx"],
            },
            "protocol": card.protocol.name,
            "settings": self.compute.model_dump(),
            "engine": engine,
            "spacing_mm": [round(mm, 4) for mm in seen.field.spacing_mm],
            "fields_looked_at": seen.looks,
            "warnings": [],
            "quality": quality.as_json(),
            "seconds": watch.seconds,
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
        }


@dataclass(frozen=True, eq=False)
class _Seen:
    """Probabilities of each class, where they lie, how often the network had to look, at what."""

    shares: UInt8[np.ndarray, "classes i j k"] | Shares
    field: Grid
    looks: int
    image: Float32[np.ndarray, "i j k"] | None = None


def _in_fields(scan: Scan, card: ModelCard, engine: Engine, watch: "Watch") -> _Seen:
    """Look at a field of cubic voxels, and again if the brain turns out to lie elsewhere."""
    assert isinstance(card.grid, GridRule)
    scale = getattr(intensity, card.intensity)
    field, looks = first_look(scan, card.grid), 0
    while True:
        looks += 1
        with watch.stage("conform"):
            image = scale(conform(scan, field).data)
        with watch.stage("network"):
            shares = engine.run(image)
        with watch.stage("restore"):
            shares = main_body(shares)
            better = look_again(shares[0] < 128, field, scan.grid)
        if better is None or looks == _MOST_LOOKS:
            return _Seen(shares, field, looks, image)
        field = better


def _in_slices(scan: Scan, card: ModelCard, engine: SliceEngine, watch: "Watch") -> _Seen:
    """Look at three-slice images of the part of the scan that is not empty."""
    assert isinstance(card.grid, SliceRule)
    with watch.stage("conform"):
        volumes, field = prepare({card.grid.modalities[0]: scan}, card.grid)
    with watch.stage("network"):
        shares = look_at_slices(engine, volumes, card.grid, field)
    return _Seen(shares, field, 1)


class Watch:
    """Seconds spent in each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time until the end of the context to a stage."""
        begin = time.perf_counter()
        yield
        spent = time.perf_counter() - begin
        self.seconds[name] = round(self.seconds.get(name, 0.0) + spent, 3)


def _open_engine(model: ModelFolder, compute: Compute) -> Engine | SliceEngine:
    card = model.card
    if isinstance(card.grid, SliceRule):
        return _open_slice_engine(model, card.grid, compute)
    if compute.device == "cpu":
        return stream_engine(model.onnx, card.head, card.grid, compute)
    engine, window = _open_torch_engine(model, compute), card.grid.seen
    if window == card.grid.field:
        return engine
    return Engine(in_windows(engine.run, window), engine.means, window)


def _open_torch_engine(model: ModelFolder, compute: Compute) -> Engine:
    card = model.card
    if model.weights is None or card.network is None:
        raise ModelFolderError(
            f"The model {card.name} has no weights for torch, which a GPU needs.",
            fix="use --device cpu, or export the model with its weights.",
        )
    from fewlabel.engine_torch import torch_engine

    heads = {name: protocol.n_classes for name, protocol in card.heads.items()}
    return torch_engine(model.weights, card.network, heads, card.head, compute)


def _open_slice_engine(model: ModelFolder, rule: SliceRule, compute: Compute) -> SliceEngine:
    if len(rule.modalities) > 1:
        raise ModelFolderError(
            f"The model {model.card.name} looks at {' and '.join(rule.modalities)} together, and"
            " gets one scan here.",
            fix="use a model of one modality.",
        )
    if compute.device != "cpu":
        raise ModelFolderError(
            f"The model {model.card.name} looks at slices, which is done on the CPU only.",
            fix="use --device cpu.",
        )
    return SliceEngine(model.onnx, model.card.head, compute)


def _volumes(labels: LabelMap) -> dict[str, float]:
    volumes = dict(volumes_mm3(labels))
    inside = (mm3 for name, mm3 in volumes.items() if name.lower() not in AROUND_BRAIN)
    volumes[TOTAL_BRAIN] = sum(inside)
    return volumes
