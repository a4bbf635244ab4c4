"""From a scan in memory to its structures: conform, run, restore."""

import time
from collections.abc import Iterator, Mapping
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
from fewlabel.circumstances import Circumstances
from fewlabel.conform import GridRule, conform, restore
from fewlabel.engine import Compute, Engine
from fewlabel.engine_slices import SliceEngine, look_at_slices
from fewlabel.engines import open_engine, tight
from fewlabel.field import first_look, look_again, main_body
from fewlabel.grid import Grid
from fewlabel.metrics import volumes_mm3
from fewlabel.mni import onto_mni
from fewlabel.modalities import Images, notes_of, require_enough, sorted_in
from fewlabel.model import ModelCard, ModelFolder, PredictedAge
from fewlabel.norms import AROUND_BRAIN, read_norms
from fewlabel.people import UNKNOWN, Age
from fewlabel.quality import Quality, judge
from fewlabel.results import ResultPaths
from fewlabel.shares import Shares
from fewlabel.slices import SliceRule, prepare
from fewlabel.style import lean
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
        age: At the scan, if the model tells it and a brain was found.
        paths: Its files, if it was written.
    """

    labels: LabelMap
    volumes_mm3: dict[str, float]
    record: dict[str, Any]
    traits: Traits
    age: PredictedAge | None = None
    paths: ResultPaths | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader of the result should know, as sentences."""
        return tuple(self.record["warnings"])

    def _repr_html_(self) -> str:
        """Warnings, the age if it is told, and a table of structures, as notebooks show them."""
        expected = self.record["quality"]["expected_dice"]
        rows = "".join(
            f"<tr><td>{escape(name)}</td><td>{mm3 / 1000:.2f}</td><td>{_interval(expected, name)}"
            "</td></tr>"
            for name, mm3 in self.volumes_mm3.items()
        )
        warnings = "".join(f"<li>{escape(warning)}</li>" for warning in self.warnings)
        head = "<tr><th>structure</th><th>cm³</th><th>expected Dice (90 %)</th></tr>"
        age = f"<p>age at scan: {self.age.as_text()}</p>" if self.age else ""
        return f"<ul>{warnings}</ul>{age}<table>{head}{rows}</table>"


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
        self._engine = background.submit(open_engine, model, compute)
        background.submit(import_module, "scipy.ndimage")  # 0.2 s, for `main_body`
        background.shutdown(wait=False)

    def __call__(
        self,
        scan: Scan | Mapping[str, Scan],
        watch: "Watch | None" = None,
        known: Age = UNKNOWN,
    ) -> Segmentation:
        """Segment a scan in memory.

        Args:
            scan: Any orientation. For models of several modalities: images of one head in one
                space, by modality; the result lies on the grid of the first.
            watch: Takes the time of each stage.
            known: Age of the person, as far as it is known: models are made for certain ages.

        Raises:
            ConfigError: If a modality is lacking, or not one of the model's.
            ModelFolderError: If the model's network cannot be run.
        """
        card, watch = self.model.card, watch or Watch()
        scans = _by_modality(scan, card)
        native = _first(scans)
        seen, placed = self.look(scans, watch)
        with watch.stage("restore"):
            labels = restore(seen.shares, seen.field, placed, card.protocol)
            labels = replace(labels, grid=native.grid)
            volumes = _volumes(labels)
        age = _age(card, seen) if any(volumes.values()) else None
        with watch.stage("quality"):
            traits = measure_traits(seen.shares, seen.field, card.protocol, seen.image)
            told = age.weeks if age else None
            about = Circumstances(native.grid.spacing_mm, known, told, card.age)
            quality = judge(labels, traits, self.norms, about)
        engine = self._engine.result()
        record = self._record(engine.means, seen, watch, quality)
        if isinstance(engine, Engine) and engine.window is not None:
            record["window"] = engine.window
        if card.age is not None:
            record["age"] = card.age.record(age, known.weeks)
        found = (finding.says for finding in quality.findings)
        record["warnings"] = [*notes_of(scans), *tight(engine, card), *found]
        return Segmentation(labels, volumes, record, traits, age)

    def look(
        self, scan: Scan | Mapping[str, Scan], watch: "Watch | None" = None
    ) -> "tuple[Seen, Grid]":
        """What the network sees of a scan, and the scan's grid where it was placed for that.

        Takes and raises what a segmentation does.
        """
        card, watch = self.model.card, watch or Watch()
        placed = _by_modality(scan, card)
        with watch.stage("start"):
            engine = self._engine.result()
        if card.space == "mni-rigid":
            with watch.stage("register"):
                placed = _in_mni(placed)
        if isinstance(engine, SliceEngine):
            seen = _in_slices(placed, card, engine, watch)
        else:
            seen = _in_fields(placed, card, engine, watch)
        if card.slopes:
            with watch.stage("restore"):
                lean(seen.shares, card.style.slopes, seen.field)
        return seen, _first(placed).grid

    def _record(
        self, engine: str, seen: "Seen", watch: "Watch", quality: Quality
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
class Seen:
    """Probabilities of each class, where they lie, how often the network had to look, at what.

    The image is that of the first modality that is there; the age is in weeks, if it is told.
    """

    shares: UInt8[np.ndarray, "classes i j k"] | Shares
    field: Grid
    looks: int
    image: Float32[np.ndarray, "i j k"] | None = None
    age_weeks: float | None = None


Scans = Mapping[str, Scan]


def _by_modality(scan: Scan | Scans, card: ModelCard) -> Scans:
    if isinstance(scan, Scan):
        (name,) = sorted_in(Images(scan), card)
        return {name: scan}
    require_enough(scan, card)
    return scan


def _first(scans: Scans) -> Scan:
    return next(iter(scans.values()))


def _in_mni(scans: Scans) -> Scans:
    """All scans placed as in MNI space; the others lie where the first does."""
    (name, first), *others = scans.items()
    placed = onto_mni(first)
    move = placed.grid.affine @ np.linalg.inv(first.grid.affine)
    return {name: placed} | {
        other: replace(scan, grid=Grid(scan.grid.shape, move @ scan.grid.affine))
        for other, scan in others
    }


def _in_fields(scans: Scans, card: ModelCard, engine: Engine, watch: "Watch") -> Seen:
    """Look at a field of cubic voxels, and again if the brain turns out to lie elsewhere."""
    assert isinstance(card.grid, GridRule)
    first = _first(scans)
    there = [number for number, name in enumerate(card.modalities) if name in scans]
    field, looks = first_look(first, card.grid), 0
    while True:
        looks += 1
        with watch.stage("conform"):
            image = _image(scans, card, field)
        with watch.stage("network"):
            answer = engine.run(image)
        with watch.stage("restore"):
            shares = main_body(answer.shares)
            better = look_again(shares[0] < 128, field, first.grid)
        if better is None or looks == _MOST_LOOKS:
            return Seen(shares, field, looks, image[there[0]], answer.age_weeks)
        field = better


def _image(scans: Scans, card: ModelCard, field: Grid) -> Float32[np.ndarray, "channels i j k"]:
    """What the network sees in a field; channels of modalities that are not there are zero."""
    scale = getattr(intensity, card.intensity)
    image = np.zeros((len(card.modalities), *field.shape), dtype=np.float32)
    for channel, name in zip(image, card.modalities, strict=True):
        if name in scans:
            channel[:] = scale(conform(scans[name], field).data)
    return image


def _in_slices(scans: Scans, card: ModelCard, engine: SliceEngine, watch: "Watch") -> Seen:
    """Look at three-slice images of the part of the scan that is not empty."""
    assert isinstance(card.grid, SliceRule)
    with watch.stage("conform"):
        volumes, field = prepare(scans, card.grid)
    with watch.stage("network"):
        shares = look_at_slices(engine, volumes, card.grid, field)
    return Seen(shares, field, 1)


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


def _volumes(labels: LabelMap) -> dict[str, float]:
    volumes = dict(volumes_mm3(labels))
    inside = (mm3 for name, mm3 in volumes.items() if name.lower() not in AROUND_BRAIN)
    volumes[TOTAL_BRAIN] = sum(inside)
    return volumes


def _age(card: ModelCard, seen: Seen) -> PredictedAge | None:
    if card.age is None or seen.age_weeks is None:
        return None
    return PredictedAge(seen.age_weeks, card.age.error_weeks)
