"""Scans in which bright and dark are exchanged, for networks that know one contrast best.

Most networks have seen more T1w images, with white matter brighter than the cortex, than all
others together. In a T2w image it is darker. Exchanging bright and dark then gives an image that
looks much like T1w, fluid included; whether it was the better one to look at, the network itself
can tell.
"""

import numpy as np
from jaxtyping import Bool, Float32

from fewlabel.card import ModelCard
from fewlabel.shares import Probabilities, every, largest, thinned

_STEP = 3
"""Every third voxel along each axis is enough for a median."""
_LIKELY = 128
_AIR = 0.1
"""Off the brain, what is no brighter is air, and stays dark; 1 is the brightest."""


def is_exchanged(
    shares: Probabilities, image: Float32[np.ndarray, "i j k"], card: ModelCard
) -> bool:
    """Whether what the network knows as brighter is darker in an image.

    Args:
        shares: Probabilities from 0 to 255, background first.
        image: What the network looked at, from 0 to 1.
        card: Says what is brighter than what. If one of them is nowhere, the answer is no.
    """
    assert card.contrast is not None
    thin = image[::_STEP, ::_STEP, ::_STEP]
    brighter, darker = (
        np.concatenate([thin[_likely(shares, card.protocol.class_of(name))] for name in names])
        for names in (card.contrast.brighter, card.contrast.darker)
    )
    if not len(brighter) or not len(darker):
        return False
    return bool(np.median(brighter) < np.median(darker))


def _likely(shares: Probabilities, number: int) -> Bool[np.ndarray, "a b c"]:
    found: np.ndarray = thinned(shares, number, _STEP) >= _LIKELY
    return found


def exchanged(
    image: Float32[np.ndarray, "channels i j k"], brain: Bool[np.ndarray, "i j k"]
) -> Float32[np.ndarray, "channels i j k"]:
    """Bright and dark exchanged in the head; the air around it stays dark.

    Args:
        image: From 0 to 1.
        brain: True where the network saw some.
    """
    turned: np.ndarray = np.where(brain | (image > _AIR), 1 - image, 0).astype(np.float32)
    return turned


def sureness(shares: Probabilities) -> float:
    """The mean probability of the most likely structure, where there is one, from 0 to 1."""
    some = every(shares, _STEP)
    background = next(some)
    best = largest(some)
    found = best[best > background]
    return float(found.mean()) / 255 if len(found) else 0.0
