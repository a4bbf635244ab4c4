"""From a scan in memory to its structures: conform, run, restore."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from html import escape
from importlib import import_module
from typing import Any

from fewlabel.card import ModelCard, PredictedAge
from fewlabel.circumstances import Circumstances
from fewlabel.conform import restore
from fewlabel.cpu import cores
from fewlabel.engine import Compute, Engine
from fewlabel.engines import open_engine, tight
from fewlabel.grid import Grid
from fewlabel.look import Seen, Watch, by_modality, first_of, look_at
from fewlabel.metrics import volumes_mm3
from fewlabel.modalities import notes_of
from fewlabel.model import ModelFolder
from fewlabel.norms import AROUND_BRAIN, read_norms
from fewlabel.people import UNKNOWN, Age
from fewlabel.quality import Quality, judge
from fewlabel.results import ResultPaths
from fewlabel.traits import Traits, measure_traits
from fewlabel.version import VERSION
from fewlabel.volume import LabelMap, Scan

TOTAL_BRAIN = "Total-Brain"


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

    @property
    def expected_dice(self) -> str | None:
        """Which Dice is to be expected, in words; None where that is not known or does not hold."""
        quality = self.record["quality"]
        mean = quality["mean_expected_dice"]
        if mean is None:
            return None
        found = {name: one["dice"] for name, one in quality["expected_dice"].items()}
        least = min(found, key=lambda name: found[name])
        return f"expected Dice {mean:.2f}, least {found[least]:.2f} ({least})"

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
        # Starting the network takes half a second, in which the first scan is read and placed.
        background = ThreadPoolExecutor(1)
        self._engine = background.submit(open_engine, model, compute)
        background.submit(import_module, "scipy.ndimage")  # 0.2 s, for `main_body`
        background.shutdown(wait=False)

    def __call__(
        self,
        scan: Scan | Mapping[str, Scan],
        watch: Watch | None = None,
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
        scans = by_modality(scan, card)
        native = first_of(scans)
        seen, placed = self.look(scans, watch)
        with watch.stage("restore"):
            threads = self.compute.threads or cores()
            labels = restore(seen.shares, seen.field, placed, card.protocol, threads)
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
        self, scan: Scan | Mapping[str, Scan], watch: Watch | None = None
    ) -> tuple[Seen, Grid]:
        """What the network sees of a scan, and the scan's grid where it was placed for that.

        Takes and raises what a segmentation does.
        """
        card, watch = self.model.card, watch or Watch()
        scans = by_modality(scan, card)
        return look_at(scans, card, self._engine.result, watch)

    def _record(self, engine: str, seen: Seen, watch: Watch, quality: Quality) -> dict[str, Any]:
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
            "bright_and_dark_exchanged": seen.exchanged,
            "warnings": [],
            "quality": quality.as_json(),
            "seconds": watch.seconds,
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
        }


def _volumes(labels: LabelMap) -> dict[str, float]:
    volumes = dict(volumes_mm3(labels))
    inside = (mm3 for name, mm3 in volumes.items() if name.lower() not in AROUND_BRAIN)
    volumes[TOTAL_BRAIN] = sum(inside)
    return volumes


def _age(card: ModelCard, seen: Seen) -> PredictedAge | None:
    if card.age is None or seen.age_weeks is None:
        return None
    return PredictedAge(seen.age_weeks, card.age.error_weeks)
