"""What a network is fine-tuned from: a model folder, or the folder of a run that has ended."""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from fewlabel.card import ModelCard
from fewlabel.cohort import Case, Cohort
from fewlabel.conform import GridRule
from fewlabel.conformed import WorkingRule
from fewlabel.datasets.choice import DataConfig
from fewlabel.errors import ConfigError
from fewlabel.labels import LabelProtocol, load_protocol
from fewlabel.mni import Space
from fewlabel.model import CARD, ModelFolder, find_model
from fewlabel.model_weights import read_weights
from fewlabel.nets.unet import last_layer, stride_of
from fewlabel.settings import Settings, check_settings, read_mapping
from fewlabel.splits import leaks
from fewlabel.surgery import AGES, Sees, heads_of, shape_of
from fewlabel.train.checkpoint import load_weights
from fewlabel.train.history import History
from fewlabel.warm_start import require_new_people

_SETTINGS, _HISTORY, _COHORT = "settings.yaml", "history.csv", "cohort.tsv"
_FIX = "name a model folder, or the folder of a run that has ended."


class WorkingChange(Settings):
    """How scans are made ready otherwise than for the source; what is left out is as there."""

    spacing_mm: float | None = None
    modalities: tuple[str, ...] | None = None
    intensity: Literal["robust_scale", "z_score", "equalize"] | None = None
    any_modality: bool | None = None

    def of(self, rule: WorkingRule) -> WorkingRule:
        """The source's rule with these changes.

        Raises:
            ConfigError: If they do not go together.
        """
        changes = self.model_dump(exclude_none=True)
        return check_settings(rule.model_dump() | changes, WorkingRule, "working")


@dataclass(frozen=True, eq=False)
class Source:
    """A trained U-Net and what it was trained for.

    Attributes:
        name: For people.
        weights: By name.
        sees: Protocols of its heads, modalities of its channels.
        working: What scans are made into for it.
        grid: The same, as `segment` does it.
        space: Where scans lie.
        people: Cases that it has learned from; None if nobody knows.
        mirrored: Whether `segment` averages over the image and its mirror image.
    """

    name: str
    weights: Mapping[str, Tensor]
    sees: Sees
    working: WorkingRule
    grid: GridRule
    space: Space
    people: Cohort | None
    mirrored: bool = False

    @property
    def shape(self) -> dict[str, Any]:
        """Arguments of `nets.unet.UNet` besides heads."""
        return shape_of(self.weights)

    @property
    def stride(self) -> int:
        """What sizes must be divisible by."""
        return stride_of(self.shape["channels"], self.shape["fine"])

    @property
    def ages_weeks(self) -> tuple[float, float] | None:
        """Youngest and oldest that it has learned from; None unless it tells the age."""
        found = self.weights.get(AGES)
        return None if found is None else (float(found[0]), float(found[1]))


def read_source(place: Path) -> Source:
    """Read a source.

    Args:
        place: Run folder, model folder, or the name of a model.

    Raises:
        ConfigError: If it is neither, or the model looks at slices.
        ModelFolderError: If the model folder is damaged, holds no U-Net, or there is no such model.
        ProtocolError: If the protocol of a run is no longer where it was.
    """
    if (place / _SETTINGS).is_file():
        return _of_run(place)
    if place.is_dir() and not (place / CARD).is_file():
        raise ConfigError(f"The source {place} is neither a run nor a model.", fix=_FIX)
    return _of_model(find_model(str(place)))


def _of_model(model: ModelFolder) -> Source:
    card = model.card
    if not isinstance(card.grid, GridRule):
        raise ConfigError(
            f"The model {card.name} looks at slices, which nothing goes on from.",
            fix="name the folder of a model or run with a U-Net.",
        )
    stored, mirrored = read_weights(model)
    weights = _with_offsets(stored, card)
    there = heads_of(weights)
    heads = {name: head for name, head in card.heads.items() if name in there}
    working = WorkingRule(
        spacing_mm=card.grid.spacing_mm,
        modalities=card.modalities,
        intensity=card.intensity,
        any_modality=card.any_modality,
    )
    name = f"the model {card.name} {card.version}"
    sees = Sees(heads, card.modalities)
    return Source(
        name, weights, sees, working, card.grid, card.space, people=None, mirrored=mirrored
    )


def _with_offsets(weights: dict[str, Tensor], card: ModelCard) -> dict[str, Tensor]:
    """The card's offsets as part of the last layer, whose outputs they are added to.

    Its slopes are left behind: a layer that does not know where a structure is cannot have them.
    """
    if card.class_offsets is not None:
        name = f"{last_layer(card.head)}.bias"
        weights[name] = weights[name] + torch.from_numpy(card.class_offsets)
    return weights


def _of_run(run: Path) -> Source:
    found = read_mapping(run / _SETTINGS)
    before = read_source(Path(found["source"])) if found.get("recipe") == "finetune" else None
    stage = _last_stage(run)
    weights = load_weights(run / stage / "final.safetensors").get("net", {})
    shape = shape_of(weights)
    working, stride = _working(found, before), stride_of(shape["channels"], shape["fine"])
    return Source(
        name=f"the run {run.resolve().name}, stage {stage}",
        weights=weights,
        sees=Sees(_heads(run, found, before, weights), working.modalities),
        working=working,
        grid=_grid(found, before, working.spacing_mm, stride),
        space=before.space if before else found.get("space", "native"),
        people=Cohort(tuple(case for part in _people(run) for case in part.cases)),
        mirrored=_chosen(found, "mirror", default=before.mirrored if before else False),
    )


def _last_stage(run: Path) -> str:
    """The last stage that has ended, in the order of the history."""
    ended = {path.parent.name for path in run.glob("*/final.safetensors")}
    rows = History(run / _HISTORY).rows() if (run / _HISTORY).is_file() else []
    for stage, *_ in reversed(rows):
        if stage in ended:
            return stage
    if len(ended) == 1:
        return ended.pop()
    raise ConfigError(
        f"The run {run} has no final weights to start from.",
        fix="let it come to its end with `fewlabel train ... --resume`.",
    )


def _heads(
    run: Path, found: Mapping[str, Any], before: Source | None, weights: Mapping[str, Tensor]
) -> dict[str, LabelProtocol]:
    named = [*(found.get("protocols") or ()), found.get("protocol"), found.get("partial")]
    read = (load_protocol(name) for name in named if name)
    known = {one.name: one for one in read} | (dict(before.sees.heads) if before else {})
    there = heads_of(weights)  # in any order: a file of weights keeps none
    missing = [name for name in there if name not in known]
    if missing:
        raise ConfigError(
            f"The settings of the run {run} do not say what {', '.join(missing)} means.",
            fix="export the run with `--with-weights` and name the model folder.",
        )
    return {name: head for name, head in known.items() if name in there}


def _working(found: Mapping[str, Any], before: Source | None) -> WorkingRule:
    if before:
        return WorkingChange.model_validate(found.get("working") or {}).of(before.working)
    if "levels" in found:  # synthetic
        return WorkingRule(spacing_mm=found["levels"][-1]["spacing_mm"])
    return WorkingRule.model_validate(found.get("working") or {})


def _grid(
    found: Mapping[str, Any], before: Source | None, spacing_mm: float, multiple: int
) -> GridRule:
    settings: dict[str, Any] = {"spacing_mm": spacing_mm, "multiple": multiple}
    if before:
        settings["field_mm"] = before.grid.field_mm
    last = found["levels"][-1] if "levels" in found else found
    if "field_mm" in last:
        settings["field_mm"] = last["field_mm"]
    if _chosen(found, "windows", default=before is None or before.grid.window is not None):
        settings["window"] = (found.get("patches") or {}).get("size")
    return GridRule.model_validate(settings)


def _chosen(found: Mapping[str, Any], key: str, *, default: bool) -> bool:
    """A setting that may be left open."""
    value = found.get(key)
    return default if value is None else bool(value)


def _people(run: Path) -> Iterator[Cohort]:
    """The cases of a run, and of those that it went on from, as far as they are known."""
    if (run / _COHORT).is_file():
        yield Cohort(tuple(_who(run / _COHORT)))
    found = read_mapping(run / _SETTINGS)
    pretraining = (found.get("pretraining") or {}).get("data")
    if pretraining:
        yield DataConfig.model_validate(pretraining).load(run / "pretrain")
    for key in ("start", "pretrained", "source"):
        place = Path(str(found.get(key)))
        folder = place.parent.parent if place.is_file() else place
        if (folder / _SETTINGS).is_file():
            yield from _people(folder)


def _who(manifest: Path) -> Iterator[Case]:
    """The people of a manifest; their images may be gone by now."""
    with manifest.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream, delimiter="\t"):
            yield Case(row["case"], row["person"], row["family"], scans={}, split=row["split"])


def differences(source: Source, rule: WorkingRule) -> tuple[str, ...]:
    """How scans are made ready otherwise than for the source, as sentences.

    Raises:
        ConfigError: If intensities are scaled by another rule, as a network that never saw such
            values is no start.
    """
    if rule.intensity != source.working.intensity:
        raise ConfigError(
            f"`working.intensity` is {rule.intensity}, and {source.name} learned from scans"
            f" scaled by {source.working.intensity}.",
            fix="leave `working.intensity` out, or learn anew with the recipe `supervised`.",
        )
    if rule.spacing_mm == source.working.spacing_mm:
        return ()
    return (
        f"Voxels are {rule.spacing_mm:g} mm here and {source.working.spacing_mm:g} mm in the"
        " source: structures look larger or smaller than it knows them.",
    )


def people_apart(source: Source, target: Cohort) -> tuple[str, ...]:
    """Refuse to score people whom the source has learned from.

    Returns:
        What people should know about whom the network has learned from, as sentences.

    Raises:
        CohortError: Naming people and families.
    """
    if source.people is None or not source.people.cases:
        return (
            f"Whom {source.name} has learned from is not known here: see that no person and no"
            " family of the validation and test set is among them.",
        )
    require_new_people(source.people, target)
    parts = {"the source": source.people.part("train"), "train": target.part("train")}
    return tuple(leaks(parts))
