"""Labels for a scan from one or several labeled ones: register each, then let them vote."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int16

from fewlabel.errors import CohortError, ProtocolError
from fewlabel.labels import UNLABELED
from fewlabel.register import Deformer, How, Registration, register
from fewlabel.volume import LabelMap, Scan, require_same_grid
from fewlabel.warp import at_voxels, vote

_SHARPNESS = 4
_LEAST = 1e-3
_PIECE = 500_000


@dataclass(frozen=True, eq=False)
class Atlas:
    """A scan that somebody has labeled."""

    scan: Scan
    labels: LabelMap


@dataclass(frozen=True, eq=False)
class Propagated:
    """What several atlases say about one scan.

    Attributes:
        labels: On the scan's grid.
        registrations: Of each atlas to the scan, in order.
        agreement: Share of voxels, among those that any atlas labels, where all say the same;
            low values warn of a bad registration. 1 for a single atlas.
    """

    labels: LabelMap
    registrations: tuple[Registration, ...]
    agreement: float


def propagate(
    atlases: Sequence[Atlas], scan: Scan, *, model: Deformer | None = None, how: How | None = None
) -> Propagated:
    """Carry the labels of atlases to a scan, and fuse them by locally weighted voting.

    An atlas counts for as much as it looks like the scan around the voxel: by the fourth power
    of the local correlation. Voxels that an atlas leaves unannotated are not its vote.

    Args:
        atlases: At least one, all under one protocol.
        scan: Any orientation.
        model: A trained registration network; None: optimization alone.
        how: Steps and voxel size.

    Raises:
        CohortError: If there is no atlas.
        ProtocolError: If their protocols differ.
        GridMismatch: If an atlas's labels are not on its scan's grid.

    Source:
        Artaechevarria et al. 2009, IEEE TMI 28(8), local weighted voting. Departs from it:
        local correlation instead of squared differences, as scales of scans differ.
    """
    check_atlases(atlases)
    done = tuple(
        register(atlas.scan, scan, labels=atlas.labels, model=model, how=how) for atlas in atlases
    )
    maps = [one.labels.data for one in done if one.labels is not None]
    weights = [_weight(one, scan) for one in done] if len(done) > 1 else []
    data = fuse(maps, weights) if weights else maps[0]
    labels = LabelMap(data, scan.grid, atlases[0].labels.protocol)
    return Propagated(labels, done, _unanimous(maps))


def check_atlases(atlases: Sequence[Atlas]) -> None:
    """Refuse atlases that cannot be used together, before hours are spent on them.

    Raises:
        CohortError: If there is none.
        ProtocolError: If their protocols differ.
        GridMismatch: If an atlas's labels are not on its scan's grid.
    """
    if not atlases:
        raise CohortError("There is no atlas to take labels from.", fix="give at least one.")
    first = atlases[0].labels.protocol
    for number, atlas in enumerate(atlases):
        require_same_grid(atlas.scan, atlas.labels, doing=f"atlas {number + 1} and its labels")
        if atlas.labels.protocol != first:
            raise ProtocolError(
                f"Atlas 1 is labeled in protocol {first.name!r}, atlas {number + 1} in"
                f" {atlas.labels.protocol.name!r}; votes need one.",
                fix="bring them to a common protocol first, with `LabelMap.to`.",
            )


def fuse(
    maps: Sequence[Int16[np.ndarray, "i j k"]], weights: Sequence[Float32[np.ndarray, "i j k"]]
) -> Int16[np.ndarray, "i j k"]:
    """The class with the largest sum of weights at each voxel; -1 where nobody has looked.

    Args:
        maps: Classes that each voter gives.
        weights: How much each counts, above 0.
    """
    flat, strength = [one.ravel() for one in maps], [one.ravel() for one in weights]
    differing = np.zeros(flat[0].size, dtype=bool)
    for other in flat[1:]:
        differing |= other != flat[0]
    fused, open_voxels = flat[0].copy(), np.flatnonzero(differing)
    for start in range(0, len(open_voxels), _PIECE):
        here = open_voxels[start : start + _PIECE]
        classes = np.stack([one[here] for one in flat])
        votes = np.stack([one[here] for one in strength])
        fused[here] = vote(classes, np.where(classes == UNLABELED, np.float32(0), votes))
    return fused.reshape(maps[0].shape)


def _weight(done: Registration, scan: Scan) -> Float32[np.ndarray, "i j k"]:
    looks = at_voxels(done.agreement.data[None], done.agreement.grid, scan.grid)[0]
    weight: np.ndarray = np.maximum(looks, 0) ** _SHARPNESS + np.float32(_LEAST)
    return weight


def _unanimous(maps: Sequence[np.ndarray]) -> float:
    anything, same = np.zeros(maps[0].shape, dtype=bool), np.ones(maps[0].shape, dtype=bool)
    for one in maps:
        anything |= one > 0
        same &= one == maps[0]
    return float(same[anything].mean()) if anything.any() else 1.0
