"""Made-up brains: enough anatomy to try things out, never to claim anything.

A phantom is a handful of ellipsoids with a left and a right side, folded a little and different
in every person, and a T1-like image of them. Results on phantoms are never clinical results.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from jaxtyping import Float32
from pydantic import Field
from scipy.ndimage import gaussian_filter

from fewlabel.grid import Grid
from fewlabel.io import write_labels, write_whole
from fewlabel.labels import load_protocol
from fewlabel.settings import Settings
from fewlabel.volume import LabelMap, Scan
from fewlabel.whole import write_text

PROTOCOL = "phantom8"
_ABOUT = "dataset_description.json"
_BRIGHTNESS = {"Cortex": 550.0, "White": 850.0, "Nucleus": 680.0, "Ventricle": 150.0}


class PhantomConfig(Settings):
    """Which made-up people are scanned."""

    cases: int = Field(default=12, ge=1)
    spacing_mm: float = Field(default=4.0, gt=0)
    seed: int = 0
    validation: int = Field(default=2, ge=0)
    """How many of them are for validation."""
    test: int = Field(default=2, ge=0)


@dataclass(frozen=True)
class _Part:
    """An ellipsoid: its label, middle and half axes in mm; x counts away from the midline."""

    name: str
    middle_mm: tuple[float, float, float]
    radii_mm: tuple[float, float, float]


_PARTS = (
    _Part("Cortex", (0.0, 0.0, 8.0), (66.0, 82.0, 60.0)),
    _Part("White", (0.0, 0.0, 8.0), (54.0, 70.0, 48.0)),
    _Part("Nucleus", (24.0, 4.0, 4.0), (14.0, 22.0, 15.0)),
)
_MIDDLE = (
    _Part("Ventricle", (0.0, 0.0, 14.0), (12.0, 32.0, 11.0)),
    _Part("Brain-Stem", (0.0, -14.0, -46.0), (14.0, 14.0, 28.0)),
)


def phantom(seed: int, person: int, spacing_mm: float = 4.0) -> tuple[Scan, LabelMap]:
    """One made-up person.

    Args:
        seed: Of all people together.
        person: Which one; always the same.
        spacing_mm: Edge of a voxel.

    Returns:
        A T1-like image and its labels, upright, in protocol `phantom8`.
    """
    rng = np.random.default_rng((seed, person))
    shape = tuple(round(mm / spacing_mm) for mm in (168.0, 200.0, 168.0))
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = [-(n - 1) / 2 * spacing_mm for n in shape]
    grid = Grid((shape[0], shape[1], shape[2]), affine)
    labels = _draw(grid, rng)
    return Scan(_paint(labels, rng), grid), labels


def write_phantoms(folder: Path, config: PhantomConfig) -> Path:
    """Write a BIDS data set of made-up people.

    Args:
        folder: Where to; images under `sub-*/anat`, labels under `derivatives/manual`.
        config: How many, and how they are split.

    Returns:
        `folder`.

    Raises:
        OutputError: If the folder cannot be written.
    """
    lines = ["participant_id\tage\tsex\tsplit"]
    for person in range(config.cases):
        scan, labels = phantom(config.seed, person, config.spacing_mm)
        name = f"sub-{person + 1:02d}"
        image = nibabel.Nifti1Image(scan.data.astype(np.int16), scan.grid.affine)
        for part in (folder, folder / "derivatives" / "manual"):
            (part / name / "anat").mkdir(parents=True, exist_ok=True)
        with write_whole(folder / name / "anat" / f"{name}_T1w.nii.gz") as temporary:
            nibabel.save(image, temporary)
        truth = folder / "derivatives" / "manual" / name / "anat"
        write_labels(labels, truth / f"{name}_desc-{PROTOCOL}_dseg.nii.gz")
        lines.append(f"{name}\t{20 + person}\tn/a\t{_split_of(person, config)}")
    write_text(folder / "participants.tsv", "\n".join(lines) + "\n")
    write_text(folder / _ABOUT, _about(config))  # last: it says that all the rest is there
    return folder


def are_written(folder: Path, config: PhantomConfig) -> bool:
    """Whether a folder holds just these made-up people, all of them."""
    about = folder / _ABOUT
    return about.is_file() and about.read_text(encoding="utf-8") == _about(config)


def _about(config: PhantomConfig) -> str:
    about = {"Name": "Made-up brains", "BIDSVersion": "1.10.0", "DatasetType": "raw"}
    return json.dumps(about | {"Phantom": config.model_dump(mode="json")}, indent=1) + "\n"


def _split_of(person: int, config: PhantomConfig) -> str:
    if person < config.test:
        return "test"
    return "val" if person < config.test + config.validation else "train"


def _draw(grid: Grid, rng: np.random.Generator) -> LabelMap:
    """Labels of ellipsoids in a head that is shifted, stretched and folded."""
    protocol = load_protocol(PROTOCOL)
    index = np.indices(grid.shape).reshape(3, -1)
    x, y, z = (grid.affine[:3, :3] @ index + grid.affine[:3, 3:]).reshape(3, *grid.shape)
    folds = [_smooth(grid, rng, 8.0) * 5.0 for _ in range(3)]
    stretch, shift = rng.uniform(0.9, 1.1, 3), rng.uniform(-6.0, 6.0, 3)
    x, y, z = (
        (axis - off) / size + fold
        for axis, off, size, fold in zip((x, y, z), shift, stretch, folds, strict=True)
    )
    classes = np.zeros(grid.shape, dtype=np.int16)
    for part in _PARTS:
        growth = rng.uniform(0.92, 1.08)
        inside = _inside(part, (np.abs(x), y, z), growth)
        classes[inside & (x < 0)] = protocol.class_of(f"Left-{part.name}")
        classes[inside & (x >= 0)] = protocol.class_of(f"Right-{part.name}")
    for part in _MIDDLE:
        inside = _inside(part, (x, y, z), rng.uniform(0.85, 1.15))
        classes[inside] = protocol.class_of(part.name)
    return LabelMap(classes, grid, protocol)


def _inside(
    part: _Part, places: tuple[np.ndarray, np.ndarray, np.ndarray], growth: float
) -> np.ndarray:
    steps = zip(places, part.middle_mm, part.radii_mm, strict=True)
    terms = [((axis - middle) / (radius * growth)) ** 2 for axis, middle, radius in steps]
    inside: np.ndarray = np.sum(terms, axis=0) <= 1
    return inside


def _paint(labels: LabelMap, rng: np.random.Generator) -> Float32[np.ndarray, "i j k"]:
    """A T1-like image: partial volume, a bias field and noise."""
    names = ["", *labels.protocol.names]
    kinds = [name.split("-")[-1] for name in names]
    bright = np.array([_BRIGHTNESS.get(kind, 720.0 if kind == "Stem" else 0.0) for kind in kinds])
    bright[1:] *= rng.uniform(0.93, 1.07)
    image = gaussian_filter(bright[labels.data], 0.5)
    image = image * np.exp(0.15 * _smooth(labels.grid, rng, 40.0))
    noisy: np.ndarray = np.maximum(image + rng.normal(0, 25.0, image.shape), 0)
    return noisy.astype(np.float32)


def _smooth(grid: Grid, rng: np.random.Generator, width_mm: float) -> np.ndarray:
    """Noise without detail finer than `width_mm`, with a standard deviation of 1."""
    noise = gaussian_filter(rng.normal(size=grid.shape), width_mm / grid.spacing_mm[0])
    smooth: np.ndarray = noise / max(float(noise.std()), 1e-9)
    return smooth
