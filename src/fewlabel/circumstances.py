"""What is known of a scan besides its voxels, and whether a model was made for such scans."""

from collections.abc import Iterator
from dataclasses import dataclass

from fewlabel.card import AgeCard
from fewlabel.norms import Norms
from fewlabel.people import UNKNOWN, Age
from fewlabel.quality_rules import Finding

_COARSER = 3.0
_OLDER_YEARS = 10.0


@dataclass(frozen=True)
class Circumstances:
    """What is known of a scan besides its voxels.

    Attributes:
        spacing_mm: Of its own voxels.
        age: Of the person, as far as it is known.
        told_weeks: The age that the network tells, if it tells one.
        trained_on: The ages that it was trained on, if it tells ages.
    """

    spacing_mm: tuple[float, float, float]
    age: Age = UNKNOWN
    told_weeks: float | None = None
    trained_on: AgeCard | None = None


def unlike_checked(norms: Norms, about: Circumstances) -> Iterator[Finding]:
    """Voxels or people unlike those that the model was checked on."""
    largest = max(about.spacing_mm)
    if largest > _COARSER * norms.spacing_mm:
        says = (
            f"Voxels of {largest:.3g} mm are much larger than in the scans this model was checked"
            f" on ({norms.spacing_mm:.3g} mm): the expected Dice does not hold."
        )
        yield Finding("resolution", largest, _COARSER * norms.spacing_mm, says)
    years = about.age.years
    if years is None or norms.ages_years is None:
        return
    low, high = norms.ages_years[0] - _OLDER_YEARS, norms.ages_years[1] + _OLDER_YEARS
    if not low <= years <= high:
        limit = low if years < low else high
        says = (
            f"The person is {years:.3g} years old; this model was checked on people of"
            f" {norms.ages_years[0]:.3g} to {norms.ages_years[1]:.3g}."
        )
        yield Finding("age", years, limit, says)


def unlike_trained(about: Circumstances) -> Iterator[Finding]:
    """An age, known or else told by the network, that it was not trained on."""
    ages = about.trained_on
    if ages is None:
        return
    for weeks, whose in (
        (about.age.weeks, "The age at scan"),
        (about.told_weeks, "The age that the network tells"),
    ):
        if weeks is not None and not ages.low_weeks <= weeks <= ages.high_weeks:
            says = (
                f"{whose} is {weeks:.4g} weeks; this model was trained on {ages.low_weeks:.4g} to"
                f" {ages.high_weeks:.4g} weeks."
            )
            limit = ages.low_weeks if weeks < ages.low_weeks else ages.high_weeks
            yield Finding("age in weeks", weeks, limit, says)
            return
