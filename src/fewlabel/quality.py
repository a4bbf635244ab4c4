"""Is this result to be trusted? Rules that say what they looked at, and the Dice to expect."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fewlabel import quality_rules as rules
from fewlabel.circumstances import Circumstances, unlike_checked, unlike_trained
from fewlabel.norms import Norms
from fewlabel.quality_rules import Finding
from fewlabel.traits import Traits
from fewlabel.volume import LabelMap

_UNLIKE = {"contrast", "resolution", "age"}
"""Rules by which a scan is unlike those of the calibration."""


@dataclass(frozen=True)
class Expected:
    """The Dice that a structure would have if there were a truth, and its 90 % interval."""

    dice: float
    low: float
    high: float


@dataclass(frozen=True)
class Quality:
    """What is to be thought of a result.

    Attributes:
        findings: The rules that were broken.
        expected_dice: By structure, where the model was calibrated.
        calibrated_on: Which scans the model's norms come from, or None if it has none.
        noise: See `Traits`.
    """

    findings: tuple[Finding, ...]
    expected_dice: dict[str, Expected]
    calibrated_on: str | None = None
    noise: float | None = None

    @property
    def mean_dice(self) -> float | None:
        """Mean expected Dice over structures; None if it is not known, or does not hold."""
        found = [one.dice for one in self.expected_dice.values()]
        unlike = any(one.rule in _UNLIKE for one in self.findings)
        return float(np.mean(found)) if found and not unlike else None

    def as_json(self) -> dict[str, Any]:
        """For the record; numbers with four digits."""
        return {
            "findings": [
                asdict(one) | {"value": _digits(one.value), "limit": _digits(one.limit)}
                for one in self.findings
            ],
            "mean_expected_dice": _digits(self.mean_dice),
            "expected_dice": {
                name: {key: _digits(value) for key, value in asdict(one).items()}
                for name, one in self.expected_dice.items()
            },
            "calibrated_on": self.calibrated_on,
            "noise": _digits(self.noise),
        }


def judge(
    labels: LabelMap, traits: Traits, norms: Norms | None, about: Circumstances | None = None
) -> Quality:
    """Look for everything that makes a result doubtful.

    Rules that need to know what is usual are left out for models without norms.

    Args:
        labels: The result, on the scan's own grid.
        traits: Of the result, on the network's field.
        norms: What is usual for the model.
        about: What else is known.
    """
    if not (labels.data > 0).any():
        says = "No brain was found in this scan."
        return Quality((Finding("no brain", 0.0, 1.0, says),), {}, norms.scans if norms else None)
    findings = [*rules.cut(labels), *rules.sides(traits)]
    findings += unlike_trained(about) if about else ()
    expected = {}
    if norms is not None:
        expected = _expected(traits, norms)
    if norms is not None and norms.usual:
        findings += [
            *rules.structures(traits, norms),
            *rules.whole(traits, norms),
            *rules.image(traits, norms),
            *(unlike_checked(norms, about) if about else ()),
            *_doubt(expected, norms),
        ]
    noise = traits.noise if math.isfinite(traits.noise) else None
    return Quality(tuple(findings), expected, norms.scans if norms else None, noise)


def _expected(traits: Traits, norms: Norms) -> dict[str, Expected]:
    found = {}
    for name, overlap in zip(traits.names, traits.overlap, strict=True):
        interval = norms.interval(name, float(overlap))
        if interval is not None:
            found[name] = Expected(*interval)
    return found


def _doubt(expected: dict[str, Expected], norms: Norms) -> Iterator[Finding]:
    if not expected:
        return
    mean = float(np.mean([one.dice for one in expected.values()]))
    if mean < norms.expected_dice:
        says = (
            f"The network is in doubt: expected Dice {mean:.2f}, less than the usual"
            f" {norms.expected_dice:.2f}."
        )
        yield Finding("doubt", mean, norms.expected_dice, says)


def _digits(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.4g}")
