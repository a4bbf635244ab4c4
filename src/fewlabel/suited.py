"""Which model that ships with fewlabel suits a scan: by the age, or by the size of the head.

A newborn's head is two thirds as long as an adult's. So the size of what is bright tells them
apart, with skull or without, in any contrast; if half of the head lies outside of the scan, its
width or its length still does.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from fewlabel.engine import Compute
from fewlabel.errors import ConfigError
from fewlabel.field import bright_mm
from fewlabel.look import Watch
from fewlabel.modalities import Images, read_image
from fewlabel.model import DEFAULT, ModelFolder, find_model
from fewlabel.people import UNKNOWN, Age, age_of
from fewlabel.segmenter import Segmenter
from fewlabel.volume import Scan

Range = tuple[float, float]


@dataclass(frozen=True)
class MadeFor:
    """Whose heads a model is for.

    Attributes:
        people: In a word.
        age_years: Since birth, or since conception for newborns.
        width_mm: Of what is bright, brain or head, from left to right.
        length_mm: The same from back to front.
    """

    people: str
    age_years: Range
    width_mm: Range
    length_mm: Range

    def fits(self, width_mm: float, length_mm: float) -> int:
        """How many of two extents are usual.

        >>> ADULTS.fits(120.0, 80.0), NEWBORNS.fits(72.0, 103.0)
        (1, 2)
        """
        return _within(width_mm, self.width_mm) + _within(length_mm, self.length_mm)


ADULTS = MadeFor("adults", (16.0, 110.0), (100.0, 180.0), (135.0, 225.0))
NEWBORNS = MadeFor("newborns", (0.0, 1.0), (45.0, 105.0), (68.0, 130.0))
MADE_FOR = MappingProxyType({"adult-aseg32": ADULTS, "neonate-drawem9": NEWBORNS})
"""By model. Brains of `malc`, `oasis-trt` and `ibsr18` are 104 to 128 mm wide and 144 to 165 mm
long; those of `neonatal-templates`, 28 to 44 weeks, 52 to 79 mm and 76 to 107 mm."""


@dataclass(frozen=True)
class Suited:
    """A model that was chosen for a scan.

    Attributes:
        model: The model.
        why: What spoke for it, to follow its name.
        doubt: What speaks against all models, as a sentence; None: nothing.
    """

    model: ModelFolder
    why: str
    doubt: str | None = None


def choose_model(scan: Scan, age: Age, modalities: Iterable[str] = ()) -> Suited:
    """The model that suits a scan best, of those that ship with fewlabel.

    Args:
        scan: As it was read.
        age: Of the person, if a table says so; it counts more than sizes do.
        modalities: Of further images, which only some models look at.

    Raises:
        ConfigError: If the model that suits the scan does not look at further images.
        ModelFolderError: If a model's files are damaged.
    """
    name, why, doubt = _by_age_or_size(age, scan)
    model, others = find_model(name), list(modalities)
    if others and not set(others) < set(model.card.looks_at):
        raise ConfigError(
            f"The model {name}, {why}, does not look at {' and '.join(others)} as well.",
            fix="leave out --with, or name another model with --model (`fewlabel models`).",
        )
    return Suited(model, why, doubt)


def _by_age_or_size(age: Age, scan: Scan) -> tuple[str, str, str | None]:
    """Name, reason and doubt."""
    made, extent = MADE_FOR, bright_mm(scan)
    size = _size(extent)
    best = max(made, key=lambda name: (made[name].fits(*extent), name == DEFAULT))
    if age.years is not None:
        told = [name for name, one in made.items() if _within(age.years, one.age_years)]
        if told:
            why, doubt = _by_age(age, made[told[0]], made[best], extent)
            return told[0], why, doubt
    people, why = made[best].people, f"for {made[best].people}: the head or brain is {size}"
    groups = " nor ".join(one.people for one in made.values())
    if age.years is not None:
        says = (
            f"The person is {_years(age.years)} old; there are models for {people} only, and this"
            f" one was chosen by the size of the head, {size}."
        )
        return best, why, says
    if made[best].fits(*extent) == len(extent):
        return best, why, None
    says = (
        f"What is bright in this scan is {size}: that looks like a whole head or brain neither of"
        f" {groups}. The model for {people} was used; choose another with --model."
    )
    return best, why, says


def _by_age(
    age: Age, own: MadeFor, like: MadeFor, extent: tuple[float, float]
) -> tuple[str, str | None]:
    """Reason and doubt of a model by age, where the size speaks for `like`."""
    assert age.years is not None
    years = f"{age.weeks:.4g} weeks" if age.years < 1 and age.weeks else _years(age.years)
    why = f"for {own.people}: the person is {years} old"
    if own.fits(*extent) == len(extent) or like.fits(*extent) < len(extent):
        return why, None
    says = (
        f"The person is {years} old, but what is bright in this scan is {_size(extent)}, as in"
        f" {like.people}. The model for {own.people} was used; if the age is wrong, choose another"
        " with --model."
    )
    return why, says


def _size(extent_mm: tuple[float, float]) -> str:
    return f"{extent_mm[0]:.0f} mm wide and {extent_mm[1]:.0f} mm long"


def _years(years: float) -> str:
    return f"{years:.3g} years"


def _within(value: float, limits: Range) -> bool:
    return limits[0] <= value <= limits[1]


def known_modalities(model: ModelFolder | None) -> tuple[str, ...]:
    """Those that a model looks at; None: that any of those to choose from does."""
    if model is not None:
        return model.card.looks_at
    found = (modality for name in MADE_FOR for modality in find_model(name).card.looks_at)
    return tuple(dict.fromkeys(found))


@dataclass(frozen=True, eq=False)
class Ready:
    """What one head will be segmented with.

    Attributes:
        segmenter: The model, on whatever it runs.
        images: Of the head.
        suited: Why that model, if it was chosen for the head.
        watch: Has taken the time so far.
    """

    segmenter: Segmenter
    images: Images
    suited: Suited | None = None
    watch: Watch = field(default_factory=Watch)

    def note(self, record: dict[str, Any]) -> None:
        """Say in the record of a result how the model was chosen."""
        if self.suited is not None:
            record["model"]["why"] = self.suited.why
            record["warnings"] += [self.suited.doubt] if self.suited.doubt else []


class Segmenters:
    """One model for all heads, or for each the one that suits it; each model is loaded once.

    Args:
        model: For all; None: choose for each.
        compute: What to run on.
    """

    def __init__(self, model: ModelFolder | None, compute: Compute) -> None:
        self._model, self._compute = model, compute
        self._loaded: dict[str, Segmenter] = {}

    def ready(self, images: Images) -> Ready:
        """Find the model for a head.

        Raises:
            ScanError: If the scan cannot be read.
            ModelFolderError: If a model cannot be run.
        """
        if self._model is not None:
            return Ready(self._load(self._model), images)
        self._load(find_model())  # most are adults, and it loads while the scan is read
        watch = Watch()
        with watch.stage("read"):
            scan = read_image(images.scan)
        with watch.stage("choose"):
            age = UNKNOWN if isinstance(images.scan, Scan) else age_of(images.scan)
            suited = choose_model(scan, age, images.others)
        return Ready(self._load(suited.model), replace(images, read=scan), suited, watch)

    def _load(self, model: ModelFolder) -> Segmenter:
        name = str(model.folder)
        if name not in self._loaded:
            self._loaded[name] = Segmenter(model, self._compute)
        return self._loaded[name]
