"""A toy brain of five structures in boxes of 2 mm voxels, whose every trait can be counted."""

import numpy as np

from fewlabel.grid import Grid
from fewlabel.labels import Label, LabelProtocol
from fewlabel.traits import Traits, measure_traits

TOY = LabelProtocol(
    "toy",
    (
        Label(1, "Left-Cortex"),
        Label(2, "Right-Cortex"),
        Label(3, "Left-Core"),
        Label(4, "Right-Core"),
        Label(5, "Stem"),
    ),
)
BOXES = {
    1: ((4, 4, 10), (16, 28, 26)),
    2: ((16, 4, 10), (28, 28, 26)),
    3: ((8, 6, 14), (14, 18, 22)),
    4: ((18, 6, 14), (24, 18, 22)),
    5: ((14, 18, 4), (18, 24, 10)),
}
"""First and one past the last voxel; later boxes lie over earlier ones."""
BRIGHTNESS = (0.0, 0.5, 0.5, 0.9, 0.9, 0.8)


def toy_field() -> Grid:
    """32 voxels of 2 mm along each axis; x = 0 runs between left and right."""
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = -31.0
    return Grid((32, 32, 32), affine)


def toy_classes(grow: int = 0) -> np.ndarray:
    """Classes; the cores grow by so many voxels at the front."""
    classes = np.zeros((32, 32, 32), np.int16)
    for number, (low, high) in BOXES.items():
        front = high[1] + (grow if number in (3, 4) else 0)
        classes[low[0] : high[0], low[1] : front, low[2] : high[2]] = number
    return classes


def toy_shares(classes: np.ndarray, sure: int = 255) -> np.ndarray:
    """Probabilities that give these classes, the rest on the background."""
    shares = np.zeros((6, *classes.shape), np.uint8)
    shares[0] = 255 - sure
    shares[0][classes == 0] = 255
    for number in range(1, 6):
        shares[number][classes == number] = sure
    return shares


def toy_image(classes: np.ndarray, seed: int = 0, noise: float = 0.02) -> np.ndarray:
    """Each structure in its brightness, and a little noise."""
    rng = np.random.default_rng(seed)
    image = np.array(BRIGHTNESS)[classes] + rng.normal(0, noise, classes.shape) * (classes > 0)
    return image.astype(np.float32)


def toy_traits(grow: int = 0, sure: int = 255, seed: int = 0, noise: float = 0.02) -> Traits:
    """What is measured on such a brain."""
    classes = toy_classes(grow)
    image = toy_image(classes, seed, noise)
    return measure_traits(toy_shares(classes, sure), toy_field(), TOY, image)
