"""What a network sees of a scan: where it looks, how often, and with which contrast."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32

from fewlabel import intensity
from fewlabel.card import ModelCard
from fewlabel.conform import GridRule, conform
from fewlabel.contrast import exchanged, is_exchanged, sureness
from fewlabel.engine import Engine
from fewlabel.engine_slices import SliceEngine, look_at_slices
from fewlabel.field import first_look, look_again, main_body
from fewlabel.grid import Grid
from fewlabel.mni import onto_mni
from fewlabel.modalities import Images, require_enough, sorted_in
from fewlabel.shares import Probabilities
from fewlabel.slices import SliceRule, prepare
from fewlabel.style import lean
from fewlabel.volume import Scan

_MOST_LOOKS = 3
_CLEARLY_LESS = 0.01
"""Of probability, on average; the other contrast is usually the better one."""

Scans = Mapping[str, Scan]
"""Images of one head by modality."""
Image = Float32[np.ndarray, "channels i j k"]
Opened = Callable[[], Engine | SliceEngine]
"""Gives the network, as soon as it is ready."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What a network says of a scan.

    Attributes:
        shares: Probabilities of each class.
        field: Where they lie.
        looks: How often the network had to look to find the brain.
        image: What it looked at, of the first modality that is there.
        age_weeks: If it tells an age.
        exchanged: Whether bright and dark were exchanged in what it looked at.
    """

    shares: Probabilities
    field: Grid
    looks: int
    image: Float32[np.ndarray, "i j k"] | None = None
    age_weeks: float | None = None
    exchanged: bool = False


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


def look_at(scans: Scans, card: ModelCard, opened: Opened, watch: Watch) -> tuple[Seen, Grid]:
    """Let a network look at a head, and draw what it sees as the card says.

    Args:
        scans: Images of the head.
        card: Of the network.
        opened: Called when the images are ready.
        watch: Takes the time of each stage.

    Returns:
        What it sees, and the first scan's grid where it was placed for that.
    """
    if card.space == "mni-rigid":
        with watch.stage("register"):
            scans = _in_mni(scans)
    look = _in_slices if isinstance(card.grid, SliceRule) else _in_fields
    seen = look(scans, card, opened, watch)
    if card.slopes:
        with watch.stage("restore"):
            lean(seen.shares, card.style.slopes, seen.field)
    return seen, first_of(scans).grid


def by_modality(scan: Scan | Scans, card: ModelCard) -> Scans:
    """The images that a model looks at.

    Raises:
        ConfigError: If a modality is lacking, or not one of the model's.
    """
    if isinstance(scan, Scan):
        (name,) = sorted_in(Images(scan), card)
        return {name: scan}
    require_enough(scan, card)
    return scan


def first_of(scans: Scans) -> Scan:
    """The scan on whose grid the result lies."""
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


def _in_fields(scans: Scans, card: ModelCard, opened: Opened, watch: Watch) -> Seen:
    """Look at a field of cubic voxels, and again if the brain turns out to lie elsewhere."""
    assert isinstance(card.grid, GridRule)
    first = first_of(scans)
    there = [number for number, name in enumerate(card.modalities) if name in scans]
    field, looks = first_look(first, card.grid), 0
    while True:
        looks += 1
        with watch.stage("conform"):
            image = _image(scans, card, field)
        with watch.stage("start"):
            engine = opened()
        assert isinstance(engine, Engine)
        with watch.stage("network"):
            answer = engine.run(image)
        with watch.stage("restore"):
            shares = main_body(answer.shares)
            better = look_again(shares[0] < 128, field, first.grid)
        if better is None or looks == _MOST_LOOKS:
            seen = Seen(shares, field, looks, image[there[0]], answer.age_weeks)
            return _surer(seen, image, card, engine, watch)
        field = better


def _surer(seen: Seen, image: Image, card: ModelCard, engine: Engine, watch: Watch) -> Seen:
    """Look again with bright and dark exchanged, if they are, unless that makes it less sure."""
    if card.contrast is None or not is_exchanged(seen.shares, image[0], card):
        return seen
    with watch.stage("network"):
        other = engine.run(exchanged(image, seen.shares[0] < 128))
    with watch.stage("restore"):
        shares = main_body(other.shares)
        if sureness(shares) < sureness(seen.shares) - _CLEARLY_LESS:
            return seen
    return replace(seen, shares=shares, age_weeks=other.age_weeks, exchanged=True)


def _image(scans: Scans, card: ModelCard, field: Grid) -> Image:
    """What the network sees in a field; channels of modalities that are not there are zero."""
    scale = getattr(intensity, card.intensity)
    image = np.zeros((len(card.modalities), *field.shape), dtype=np.float32)
    for channel, name in zip(image, card.modalities, strict=True):
        if name in scans:
            channel[:] = scale(conform(scans[name], field).data)
    return image


def _in_slices(scans: Scans, card: ModelCard, opened: Opened, watch: Watch) -> Seen:
    """Look at three-slice images of the part of the scan that is not empty."""
    assert isinstance(card.grid, SliceRule)
    with watch.stage("conform"):
        volumes, field = prepare(scans, card.grid)
    with watch.stage("start"):
        engine = opened()
    assert isinstance(engine, SliceEngine)
    with watch.stage("network"):
        shares = look_at_slices(engine, volumes, card.grid, field)
    return Seen(shares, field, 1)
