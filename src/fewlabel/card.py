"""What `model.json` says: the card of a model."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, StringConstraints, ValidationError, model_validator

from fewlabel.conform import GridRule
from fewlabel.errors import ModelFolderError
from fewlabel.labels import LabelProtocol
from fewlabel.settings import Settings
from fewlabel.slices import SliceRule
from fewlabel.style import Offsets, Style

FORMAT = 1
Modality = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]+$")]
"""How the name of a BIDS image ends, such as T1w."""


@dataclass(frozen=True)
class PredictedAge:
    """An age at scan that a network told.

    Attributes:
        weeks: The age, counted as in the data that the network learned from.
        error_weeks: So far off are 9 of 10 such ages at most; None: that was never measured.
    """

    weeks: float
    error_weeks: float | None

    @property
    def interval_weeks(self) -> tuple[float, float] | None:
        """The 90 % interval, or None if it was never measured.

        >>> PredictedAge(38.0, 1.5).interval_weeks
        (36.5, 39.5)
        """
        if self.error_weeks is None:
            return None
        return self.weeks - self.error_weeks, self.weeks + self.error_weeks

    def as_text(self) -> str:
        """For people.

        >>> PredictedAge(38.04, 1.5).as_text()
        '38.0 weeks (90 % interval: 36.5 to 39.5)'
        """
        if self.interval_weeks is None:
            return f"{self.weeks:.1f} weeks (its interval was never measured)"
        low, high = self.interval_weeks
        return f"{self.weeks:.1f} weeks (90 % interval: {low:.1f} to {high:.1f})"


class AgeCard(Settings):
    """What a network that tells the age at scan can do."""

    low_weeks: float
    """Youngest that it was trained on."""
    high_weeks: float
    """Oldest that it was trained on."""
    error_weeks: float | None = Field(default=None, ge=0)
    """90 % of errors on held-out scans are smaller; None: nobody has measured them."""

    @model_validator(mode="after")
    def _check(self) -> "AgeCard":
        if not self.low_weeks <= self.high_weeks:
            raise ValueError(f"from {self.low_weeks:g} to {self.high_weeks:g} weeks is no range")
        return self

    def record(self, age: PredictedAge | None, known_weeks: float | None) -> dict[str, Any]:
        """What the record of a scan says of its age, in weeks.

        Args:
            age: What the network told; None: it saw no brain.
            known_weeks: What the study knows; None: nothing.
        """
        low, high = (age and age.interval_weeks) or (None, None)
        found = {
            "weeks": age.weeks if age else None,
            "low_weeks": low,
            "high_weeks": high,
            "known_weeks": known_weeks,
        }
        rounded = {key: None if value is None else round(value, 2) for key, value in found.items()}
        return rounded | {"trained_on_weeks": [self.low_weeks, self.high_weeks]}

    def describe(self) -> str:
        """For people: which ages, and how far off."""
        off = "was never measured" if self.error_weeks is None else f"{self.error_weeks:.1f} weeks"
        return f"told from {self.low_weeks:.4g} to {self.high_weeks:.4g} weeks; 90 % error {off}"


class Contrast(Settings):
    """What is brighter than what in the images that a network knows best."""

    brighter: tuple[str, ...] = Field(min_length=1)
    """Structures, such as white matter."""
    darker: tuple[str, ...] = Field(min_length=1)
    """Structures, such as the cortex."""


class Measured(Settings):
    """One result of a model, and on what."""

    data: str
    """Which scans, such as "malc, 17 adults"."""
    metric: str
    value: float
    unit: str = ""


class ModelCard(Settings):
    """What `model.json` says."""

    format: Literal[1] = 1
    """Layout of the folder."""
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    version: str
    description: str
    """What it segments, in one sentence."""
    input: str
    """Scans that it is meant for."""
    license: str
    heads: dict[str, LabelProtocol] = Field(min_length=1)
    """Protocol of each output of the network; the first is the one that `segment` gives."""
    grid: GridRule | SliceRule
    """A field of cubic voxels, or three-slice images along one axis or several."""
    intensity: Literal["robust_scale", "z_score", "equalize"]
    """Function of `fewlabel.intensity` that is applied to the field; slices come equalized."""
    space: Literal["native", "mni-rigid"] = "native"
    """Whether scans are looked at where they lie, or placed as in MNI space first."""
    modalities: tuple[Modality, ...] = Field(default=("T1w",), min_length=1)
    """Channels of a field, in order. A network of one channel takes a scan of any modality;
    slices say themselves what they show."""
    any_modality: bool = False
    """Some of several modalities may be missing: their channels are zero."""
    age: AgeCard | None = None
    """If the network tells the age at scan, as an output "age_weeks"."""
    network: dict[str, Any] | None = None
    """Settings of `nets.unet.UNet`, without heads, if there are weights for torch."""
    registration: dict[str, Any] | None = None
    """Settings of `nets.register.RegistrationNet`, if such a network is in the folder."""
    offsets: dict[str, float] = Field(default_factory=dict)
    """Added to the logits of structures before the most likely one is taken; see `adapt`."""
    slopes: dict[str, tuple[float, float, float]] = Field(default_factory=dict)
    """The same for each cm to the right, to the front and up from the structure's center."""
    contrast: Contrast | None = None
    """A scan that shows the opposite is looked at once more with bright and dark exchanged."""
    provenance: dict[str, str | int | float | None] = Field(default_factory=dict)
    """How it was trained: recipe, data, seed, steps, commit."""
    measured: tuple[Measured, ...] = ()
    sha256: dict[str, str] = Field(default_factory=dict)
    """Hash of each other file of the folder; `write_model` fills it in."""

    @model_validator(mode="after")
    def _check(self) -> "ModelCard":
        if len(set(self.modalities)) < len(self.modalities):
            raise ValueError(f"`modalities` names one twice: {', '.join(self.modalities)}")
        if self.any_modality and (
            self.intensity != "robust_scale" or isinstance(self.grid, SliceRule)
        ):
            raise ValueError("`any_modality` needs a field and `robust_scale`: 0 is darkest there")
        contrast = () if self.contrast is None else self.contrast.brighter + self.contrast.darker
        if contrast and (len(self.modalities) > 1 or self.intensity != "robust_scale"):
            raise ValueError("`contrast` needs one modality and `robust_scale`: from 0 to 1")
        told_of: dict[str, Iterable[str]] = {
            "offsets": self.offsets,
            "slopes": self.slopes,
            "contrast": contrast,
        }
        for what, told in told_of.items():
            unknown = [name for name in told if name not in self.protocol.names]
            if unknown:
                known = ", ".join(unknown)
                raise ValueError(f"`{what}` names {known}, which the model does not draw")
        return self

    @property
    def head(self) -> str:
        """The output that `segment` gives."""
        return next(iter(self.heads))

    @property
    def protocol(self) -> LabelProtocol:
        """What the classes of that output mean."""
        return self.heads[self.head]

    @property
    def style(self) -> Style:
        """How it is changed to draw as somebody does: offsets and slopes of each class."""
        names = self.protocol.names
        offsets = [0.0, *(self.offsets.get(name, 0.0) for name in names)]
        slopes = [(0.0, 0.0, 0.0), *(self.slopes.get(name, (0.0, 0.0, 0.0)) for name in names)]
        return Style(np.array(offsets, dtype=np.float32), np.array(slopes, dtype=np.float32))

    @property
    def class_offsets(self) -> Offsets | None:
        """What is added to the logit of each class, background first; None: nothing."""
        offsets = self.style.offsets
        return offsets if offsets.any() else None

    @property
    def looks_at(self) -> tuple[str, ...]:
        """The modalities that are looked at together, in order."""
        return self.grid.modalities if isinstance(self.grid, SliceRule) else self.modalities

    def readme(self, folder: str) -> str:
        """The same for people, in Markdown.

        Args:
            folder: Name of the folder that holds the model.
        """
        made = "\n".join(f"- {key}: {value}" for key, value in self.provenance.items())
        well = "\n".join(
            f"- {m.metric} {' '.join((f'{m.value:g}', m.unit)).rstrip()} on {m.data}"
            for m in self.measured
        )
        age = "" if self.age is None else f"- Age: {self.age.describe()}.\n"
        return f"""# {self.name} {self.version}

{self.description}

- Input: {self.describe_input().rstrip(".")}. It works at {self.grid.describe()}.
- Structures: {", ".join(f"{len(p.labels)} ({p.name})" for p in self.heads.values())}.
{age}- License: {self.license}.

Run it with `fewlabel segment SCAN --model {folder}`, from the folder that holds it.

## Where it comes from

{made or "Not stated."}

## How well it does

{well or "Not measured yet: see `fewlabel evaluate`."}
"""

    def describe_input(self) -> str:
        """For people: which scans go in."""
        together, scans = " and ".join(self.looks_at), self.input.rstrip(".")
        if len(self.looks_at) == 1:
            return scans
        either = "some of them may be missing" if self.any_modality else "all are needed"
        return f"{scans}; it looks at {together} together, {either}"


def read_card(path: Path) -> ModelCard:
    """Read and check the card of a model folder.

    Raises:
        ModelFolderError: If it is not there, or not one that this version understands.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise ModelFolderError(
            f"{path.parent} is no model folder: cannot read {path.name} ({problem.strerror}).",
            fix="give a folder that `fewlabel export` wrote, or a name from `fewlabel models`.",
        ) from None
    except ValueError as problem:
        raise ModelFolderError(
            f"{path} is not JSON: {problem}.", fix="copy the whole folder again."
        ) from None
    version = found.get("format") if isinstance(found, dict) else None
    if version != FORMAT:
        raise ModelFolderError(
            f"{path} is not a card that this version reads: its format is {version!r}, needed"
            f" is {FORMAT}.",
            fix="upgrade fewlabel, or export the model again with this version.",
        )
    return _checked(path, found)


def _checked(path: Path, found: Mapping[str, Any]) -> ModelCard:
    try:
        return ModelCard.model_validate(found)
    except ValidationError as invalid:
        first = invalid.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ModelFolderError(
            f"{path} does not make sense at {key!r}: {first['msg']}.",
            fix="export the model again.",
        ) from None
