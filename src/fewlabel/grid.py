"""Where voxels lie in the world: shape and affine, and nothing about intensities."""

from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Float64

from fewlabel.errors import ScanError


@dataclass(frozen=True, eq=False)
class Grid:
    """The voxel lattice of a volume.

    Attributes:
        shape: Number of voxels along i, j, k.
        affine: Voxel index to world position in mm, RAS+ (x to the subject's right,
            y to the front, z up), shape (4, 4).
    """

    shape: tuple[int, int, int]
    affine: Float64[np.ndarray, "4 4"]

    def __post_init__(self) -> None:
        if abs(np.linalg.det(self.affine[:3, :3])) < 1e-9:
            raise ScanError(
                f"The affine is singular, so voxels have no volume: {self.affine.tolist()}.",
                fix="check the qform/sform of the file, for example with `fewlabel info SCAN`.",
            )
        own = self.affine.copy()
        own.setflags(write=False)
        object.__setattr__(self, "affine", own)

    def __str__(self) -> str:
        shape = "x".join(map(str, self.shape))
        spacing = "x".join(f"{mm:.3g}" for mm in self.spacing_mm)
        return f"{shape} voxels of {spacing} mm"

    def against(self, other: "Grid") -> str:
        """How two grids differ, for people.

        >>> one, moved = np.eye(4), np.eye(4)
        >>> moved[:3, 3] = 0, 3, 4
        >>> Grid((2, 2, 2), one).against(Grid((2, 2, 2), moved))
        '2x2x2 voxels of 1x1x1 mm, which lie up to 5 mm apart'
        """
        if str(self) != str(other):
            return f"{self} against {other}"
        far = np.linalg.norm(self.corners_mm() - other.corners_mm(), axis=1).max()
        return f"{self}, which lie up to {far:.3g} mm apart"

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres along i, j, k, in mm.

        >>> Grid((4, 4, 4), np.diag([2.0, 1.0, 0.5, 1.0])).spacing_mm
        (2.0, 1.0, 0.5)
        """
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(i), float(j), float(k)

    @property
    def voxel_mm3(self) -> float:
        """Volume of one voxel in mm3."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    def corners_mm(self) -> Float64[np.ndarray, "8 3"]:
        """World positions of the eight corner voxel centres, in mm."""
        index = np.array(list(product(*((0, n - 1) for n in self.shape))), dtype=float)
        corners: np.ndarray = index @ self.affine[:3, :3].T + self.affine[:3, 3]
        return corners

    def matches(self, other: "Grid", tolerance_mm: float = 1e-3) -> bool:
        """Whether both grids put every voxel in the same place.

        Judged at the corners in mm, because an error of 1e-4 in a rotation is nothing at
        the origin and a quarter of a voxel at the far end of a 256-voxel scan.
        """
        if self.shape != other.shape:
            return False
        return bool(np.abs(self.corners_mm() - other.corners_mm()).max() <= tolerance_mm)
