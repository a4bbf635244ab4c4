"""From a scan in memory to its structures: conform, run, restore."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

import numpy as np
from jaxtyping import UInt8

from fewlabel import intensity
from fewlabel.conform import GridRule, conform, restore, turned
from fewlabel.engine import Compute, Engine, cpu_engine
from fewlabel.engine_slices import SliceEngine, look_at_slices
from fewlabel.errors import ModelFolderError
from fewlabel.field import first_look, look_again, main_body
from fewlabel.grid import Grid
from fewlabel.metrics import volumes_mm3
from fewlabel.model import ModelCard, ModelFolder
from fewlabel.results import ResultPaths
from fewlabel.slices import SliceRule, prepare
from fewlabel.version import VERSION
from fewlabel.volume import LabelMap, Scan

TOTAL_BRAIN = "Total-Brain"
_OUTSIDE_BRAIN = {"csf", "cerebrospinal fluid", "extracerebral csf"}
_MOST_LOOKS = 3
_CUT_MM2 = 1000.0
_FACES = (("left", "right"), ("back", "front"), ("bottom", "top"))


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The structures of one scan.

    Attributes:
        labels: Their classes, on the scan's grid.
        volumes_mm3: By structure, and "Total-Brain": all of them but the CSF around it.
        record: How it came about: model, settings, seconds per stage, warnings.
        paths: Its files, if it was written.
    """

    labels: LabelMap
    volumes_mm3: dict[str, float]
    record: dict[str, Any]
    paths: ResultPaths | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader of the result should know, as sentences."""
        return tuple(self.record["warnings"])


class Segmenter:
    """A model that is ready for any number of scans.

    Args:
        model: What to run.
        compute: What to run it on.
    """

    def __init__(self, model: ModelFolder, compute: Compute) -> None:
        self.model, self.compute = model, compute
        # Starting the network takes half a second, in which the first scan can be read.
        background = ThreadPoolExecutor(1)
        self._engine = background.submit(_open_engine, model, compute)
        background.submit(import_module, "scipy.ndimage")  # 0.2 s, for `main_body`
        background.shutdown(wait=False)

    def __call__(self, scan: Scan, watch: "Watch | None" = None) -> Segmentation:
        """Segment a scan in memory.

        Raises:
            ModelFolderError: If the model's network cannot be run.
        """
        watch = watch or Watch()
        card = self.model.card
        with watch.stage("start"):
            engine = self._engine.result()
        if isinstance(engine, SliceEngine):
            seen = _in_slices(scan, self.model.card, engine, watch)
        else:
            seen = _in_fields(scan, self.model.card, engine, watch)
        with watch.stage("restore"):
            labels = restore(seen.shares, seen.field, scan.grid, card.protocol)
            volumes = _volumes(labels)
        record = self._record(engine.means, seen, watch, (*scan.notes, *_warnings(labels)))
        return Segmentation(labels, volumes, record)

    def _record(
        self, engine: str, seen: "_Seen", watch: "Watch", warnings: tuple[str, ...]
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
            "warnings": list(warnings),
            "seconds": watch.seconds,
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
        }


@dataclass(frozen=True, eq=False)
class _Seen:
    """Probabilities of each class, where they lie, and how often the network had to look."""

    shares: UInt8[np.ndarray, "classes i j k"]
    field: Grid
    looks: int


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
            return _Seen(shares, field, looks)
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
        return cpu_engine(model.onnx, card.head, card.grid.field, compute)
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
    inside = (mm3 for name, mm3 in volumes.items() if name.lower() not in _OUTSIDE_BRAIN)
    volumes[TOTAL_BRAIN] = sum(inside)
    return volumes


def _warnings(labels: LabelMap) -> list[str]:
    """What the result itself tells about its trustworthiness."""
    if not (labels.data > 0).any():
        return ["No brain was found in this scan."]
    grid, classes = turned(labels)
    cut = []
    for axis, names in enumerate(_FACES):
        mm2 = grid.voxel_mm3 / grid.spacing_mm[axis]
        for end, name in zip((0, -1), names, strict=True):
            if np.count_nonzero(classes.take(end, axis)) * mm2 > _CUT_MM2:
                cut.append(name)
    return [f"The scan ends inside the brain ({', '.join(cut)})."] if cut else []
