"""Two scans in, one seen as the other: affine start, deformation, and what follows from them.

The affine start only changes where the moving scan is said to lie (`affine.moved`); then both
are conformed to one grid of cubic voxels, on which the deformation is found. The result is one
displacement field in mm, through which images and labels are looked up once.
"""

import time
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Float64

from fewlabel.affine import affine_between, moved
from fewlabel.conform import conform, upright
from fewlabel.errors import ConfigError
from fewlabel.field import around_body
from fewlabel.grid import Grid
from fewlabel.intensity import robust_scale
from fewlabel.volume import LabelMap, Scan, require_same_grid
from fewlabel.warp import (
    Displacement,
    Folds,
    folds,
    followed_by,
    on_grid,
    warp_labels,
    warp_scan,
)

_COARSEST_MM = 2.0
_ACROSS = 80
_BRIGHT = 0.1
_COARSE_STEPS, _STEPS = (20, 30), 20


@runtime_checkable
class Deformer(Protocol):
    """A trained registration network, ready for any number of pairs."""

    def field(self, fixed: Scan) -> Grid:
        """The voxels that it works on: cubic, upright, around the body."""
        ...

    def displacement(self, fixed: Any, moving: Any) -> Any:
        """In voxels, from two tensors of shape (1, 1, i, j, k) with intensities from 0 to 1."""
        ...


@dataclass(frozen=True)
class How:
    """How two scans are registered.

    Attributes:
        refine: Optimization steps at full resolution, after those on coarser voxels; None: 20,
            or none where a model has found the deformation.
        spacing_mm: Voxels that the deformation is found on; None: 2 mm for a whole brain and
            finer for smaller things, or what the model wants.
        deform: False for the affine start alone.
    """

    refine: int | None = None
    spacing_mm: float | None = None
    deform: bool = True

    def __post_init__(self) -> None:
        if self.refine is not None and not 0 <= self.refine <= 1000:
            raise ConfigError(f"refine is {self.refine} steps.", fix="give 0 to 1000.")
        if self.spacing_mm is not None and not 0.3 <= self.spacing_mm <= 8:
            raise ConfigError(f"spacing_mm is {self.spacing_mm:g}.", fix="give 0.3 to 8 mm.")


@dataclass(frozen=True, eq=False)
class Registration:
    """What came of registering a moving scan to a fixed one.

    Attributes:
        warped: The moving scan on the fixed scan's grid.
        labels: The moving labels on that grid, if there were any.
        displacement: From fixed to moving positions, affine start included, on the grid that
            it was found on; between its voxels it is linear.
        affine: The affine start alone, from fixed to moving positions in mm.
        folds: Within the fixed body.
        similarity: Mean squared local correlation within it, 0 to 1, before and after.
        agreement: The squared local correlation at each voxel of the body, on cubic voxels.
        seconds: By step.
    """

    warped: Scan
    labels: LabelMap | None
    displacement: Displacement
    affine: Float64[np.ndarray, "4 4"]
    folds: Folds
    similarity: tuple[float, float]
    agreement: Scan
    seconds: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The numbers, for a record."""
        return {
            "affine_fixed_to_moving_mm": self.affine.round(6).tolist(),
            "spacing_mm": self.displacement.grid.spacing_mm[0],
            "similarity_affine": round(self.similarity[0], 4),
            "similarity": round(self.similarity[1], 4),
            "folded_voxels": self.folds.voxels,
            "folded_share": self.folds.share,
            "seconds": {key: round(value, 3) for key, value in self.seconds.items()},
        }


def register(
    moving: Scan,
    fixed: Scan,
    *,
    labels: LabelMap | None = None,
    model: Deformer | None = None,
    how: How | None = None,
) -> Registration:
    """Find where the tissue of a fixed scan is in a moving one, and look that up.

    Args:
        moving: Any orientation and field of view. Its contrast should resemble the fixed one's
            for the deformation; the affine start does not need that.
        fixed: Any orientation; results are on its grid.
        labels: Of the moving scan.
        model: A trained registration network; None: optimization alone.
        how: Steps and voxel size.

    Raises:
        ScanError: If a scan shows nothing.
        GridMismatch: If the labels are not on the moving scan's grid.
        ConfigError: If torch is missing, which the deformation needs.
    """
    how = how or How()
    if labels is not None:
        require_same_grid(moving, labels, doing="registering: the moving scan and its labels")
    watch = _Watch()
    affine = affine_between(moving, fixed)
    watch.lap("affine")
    grid = model.field(fixed) if model else _working_grid(fixed, how.spacing_mm)
    pair = _Pair.of(moved(moving, affine), fixed, grid)
    own = pair.deformation(model, how)
    watch.lap("deformation")
    before, after = pair.agreement(None), pair.agreement(own)
    cover = upright(fixed.grid, grid.spacing_mm[0])
    native = followed_by(on_grid(own, fixed.grid), affine)
    warped = warp_scan(moving, native)
    carried = None if labels is None else warp_labels(labels, native)
    watch.lap("warping")
    return Registration(
        warped=warped,
        labels=carried,
        displacement=followed_by(on_grid(own, cover), affine),
        affine=affine,
        folds=folds(own, pair.body),
        similarity=(_mean(before, pair.body), _mean(after, pair.body)),
        agreement=Scan(after, grid),
        seconds=watch.seconds,
    )


@dataclass(frozen=True, eq=False)
class _Pair:
    """Both scans on the grid that the deformation is found on, intensities from 0 to 1.

    Attributes:
        fixed: The fixed scan.
        moving: The moving one after the affine start.
        grid: Cubic voxels, upright.
    """

    fixed: Float32[np.ndarray, "i j k"]
    moving: Float32[np.ndarray, "i j k"]
    grid: Grid

    @classmethod
    def of(cls, moving: Scan, fixed: Scan, grid: Grid) -> "_Pair":
        still, other = conform(fixed, grid).data, conform(moving, grid).data
        return cls(robust_scale(still), robust_scale(other), grid)

    @property
    def body(self) -> Bool[np.ndarray, "i j k"]:
        """Where the fixed scan shows something; everywhere, if it is dark throughout."""
        bright: np.ndarray = self.fixed > _BRIGHT
        return bright if bright.any() else ~bright

    def deformation(self, model: Deformer | None, how: How) -> Displacement:
        """From the fixed scan to the moving one as the affine start left it."""
        torch, refine = _torch(), import_module("fewlabel.refine")
        fixed, moving = self._tensors()
        found = torch.zeros(1, 3, *self.grid.shape)
        steps = how.refine if how.refine is not None else (0 if model else _STEPS)
        if how.deform and model:
            found = model.displacement(fixed, moving)
        if how.deform and steps:
            plan = (steps,) if model else (*_COARSE_STEPS, steps)
            found = refine.refine(fixed, moving, refine.RefineConfig(steps=plan), found)
        mm = found[0].numpy() * np.float32(self.grid.spacing_mm[0])
        return Displacement(mm, self.grid)

    def agreement(self, own: Displacement | None) -> Float32[np.ndarray, "i j k"]:
        """Squared local correlation at each voxel, without and with the deformation."""
        torch, refine = _torch(), import_module("fewlabel.refine")
        fixed, moving = self._tensors()
        if own is not None:
            voxels = torch.from_numpy(own.mm / np.float32(self.grid.spacing_mm[0]))[None]
            moving = import_module("fewlabel.nets.spatial").warp(moving, voxels)
        found: np.ndarray = refine.local_correlation(fixed, moving)[0, 0].numpy()
        return found

    def _tensors(self) -> tuple[Any, Any]:
        torch = _torch()
        fixed, moving = (np.ascontiguousarray(data) for data in (self.fixed, self.moving))
        return torch.from_numpy(fixed)[None, None], torch.from_numpy(moving)[None, None]


class _Watch:
    """Seconds by step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, step: str) -> None:
        now = time.perf_counter()
        self.seconds[step] = now - self._since
        self._since = now


def _working_grid(fixed: Scan, spacing_mm: float | None) -> Grid:
    if spacing_mm is None:
        across = float(np.ptp(fixed.grid.corners_mm(), axis=0).max()) / _ACROSS
        spacing_mm = min(_COARSEST_MM, max(across, *fixed.grid.spacing_mm))
    return around_body(fixed, spacing_mm)


def _mean(values: np.ndarray, where: np.ndarray) -> float:
    return float(values[where].mean())


def _torch() -> Any:
    try:
        return import_module("torch")
    except ModuleNotFoundError:
        raise ConfigError(
            "Registration needs torch, which is not installed.",
            fix="install it with pip install 'fewlabel[train]'.",
        ) from None
