"""Arrays that know where they are: intensities and label maps."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int16

from fewlabel.errors import GridMismatch, ScanError
from fewlabel.grid import Grid
from fewlabel.labels import LabelProtocol


@dataclass(frozen=True, eq=False)
class Scan:
    """One modality of one subject.

    Attributes:
        data: Intensities, arbitrary units, shape (i, j, k) of `grid`.
        grid: Where the voxels lie.
        notes: What was odd in the file and what was done about it, as sentences.
    """

    data: Float32[np.ndarray, "i j k"]
    grid: Grid
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_fits(self.data.shape, self.grid)


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Network classes on a grid; files hold `protocol` values instead.

    Attributes:
        data: 0 background, 1..n structures in protocol order, -1 not annotated.
        grid: Where the voxels lie.
        protocol: What the classes mean.
    """

    data: Int16[np.ndarray, "i j k"]
    grid: Grid
    protocol: LabelProtocol

    def __post_init__(self) -> None:
        _check_fits(self.data.shape, self.grid)

    def to(self, protocol: LabelProtocol) -> "LabelMap":
        """The same map under another protocol; structures it lacks become background."""
        if protocol == self.protocol:
            return self
        return LabelMap(self.protocol.table_to(protocol)[self.data], self.grid, protocol)


def require_same_grid(first: Scan | LabelMap, second: Scan | LabelMap, *, doing: str) -> None:
    """Refuse to go on unless two volumes share their voxels.

    Args:
        first: One volume.
        second: The other.
        doing: What the caller is about to do, for the message ("scoring case sub-01").

    Raises:
        GridMismatch: If any corner voxel differs by more than 0.001 mm.
    """
    if first.grid.matches(second.grid):
        return
    raise GridMismatch(
        f"Cannot go on with {doing}: the volumes do not share voxels"
        f" ({first.grid.against(second.grid)}).",
        fix="use the scan that the labels were made for, or resample one onto the other.",
    )


def _check_fits(shape: tuple[int, ...], grid: Grid) -> None:
    if shape != grid.shape:
        raise ScanError(
            f"The array has shape {shape} but its grid has {grid.shape}.",
            fix="build the grid from the same file as the array.",
        )
