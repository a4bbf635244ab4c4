"""A model folder whose network sorts intensities into bands, and a head to run it on."""

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from fewlabel.card import ModelCard
from fewlabel.conform import GridRule
from fewlabel.grid import Grid
from fewlabel.labels import Label, LabelProtocol
from fewlabel.model import ModelFolder, write_model
from fewlabel.volume import Scan

BANDS = LabelProtocol(
    "bands",
    (
        Label(7, "Ball", (220, 60, 60)),
        Label(46, "Right-Lump", (60, 200, 90)),
        Label(24, "CSF", (80, 120, 255)),
    ),
)
CENTERS = (0.0, 0.35, 0.65, 1.0)
"""Scaled intensity of background, then of each structure."""


def band_onnx(centers: tuple[float, ...] = CENTERS, head: str = "bands") -> bytes:
    """Logits -k (x - center)^2, less the common -k x^2: a convolution of one voxel."""
    at = np.array(centers, dtype=np.float32)
    sharpness = 40.0  # soft enough that probabilities tell where between voxels a border is
    weight = (2 * sharpness * at).reshape(-1, 1, 1, 1, 1).astype(np.float32)
    bias = (-sharpness * at**2).astype(np.float32)
    output = f"logits_{head}"
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "w", "b"], [output], kernel_shape=[1, 1, 1])],
        "bands",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, "i", "j", "k"])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [1, len(at), "i", "j", "k"])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    opset = helper.make_opsetid("", 17)
    content: bytes = helper.make_model(
        graph, opset_imports=[opset], ir_version=9
    ).SerializeToString()
    return content


def band_card(spacing_mm: float = 3.0, **changes: object) -> ModelCard:
    """The card of such a model."""
    said: dict[str, object] = {
        "name": "bands",
        "version": "1.0",
        "description": "Sorts intensities into three bands.",
        "input": "phantoms",
        "license": "Apache-2.0",
        "heads": {"bands": BANDS},
        "grid": GridRule(spacing_mm=spacing_mm),
        "intensity": "robust_scale",
    }
    return ModelCard.model_validate(said | changes)


def band_model(folder: Path, spacing_mm: float = 3.0, **changes: object) -> ModelFolder:
    """Write such a model."""
    return write_model(folder, band_card(spacing_mm, **changes), onnx=band_onnx())


def head_at(grid: Grid) -> Scan:
    """A ball of 350 round (0, 10, 20) mm, on its right a lump of 650 with a core of 1000.

    It is given by a formula in mm, so that any grid can sample it without interpolation. Its
    edges are 4 mm wide. Each part lies within the one before: between 0 and 650 at a border there
    would be a film of 350.
    """
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1)
    x, y, z = np.moveaxis(index @ grid.affine[:3, :3].T + grid.affine[:3, 3], -1, 0)
    ball = _inside(60 - np.sqrt(x**2 + ((y - 10) / 1.2) ** 2 + (z - 20) ** 2))
    from_lump = np.sqrt((x - 20) ** 2 + (y - 10) ** 2 + (z - 30) ** 2)
    lump, core = _inside(36 - from_lump), _inside(24 - from_lump)
    return Scan((350 * ball + 300 * lump + 350 * core).astype(np.float32), grid)


def _inside(depth_mm: np.ndarray) -> np.ndarray:
    return np.clip(depth_mm / 4 + 0.5, 0, 1)


def box_grid(
    spacing_mm: tuple[float, float, float] = (3.0, 3.0, 3.0), field_mm: float = 192.0
) -> Grid:
    """An upright grid round (0, 10, 20) mm."""
    i, j, k = (round(field_mm / mm) for mm in spacing_mm)
    affine = np.diag([*spacing_mm, 1.0])
    middle = (np.array([i, j, k]) - 1) / 2 * np.array(spacing_mm)
    affine[:3, 3] = np.array([0.0, 10.0, 20.0]) - middle
    return Grid((i, j, k), affine)


def turned_scan(scan: Scan, order: tuple[int, ...], signs: tuple[int, ...]) -> Scan:
    """The same head stored with axes in another order and direction."""
    flips = tuple(slice(None, None, sign) for sign in signs)
    data = scan.data.transpose(order)[flips]
    to_old = np.zeros((4, 4))
    to_old[3, 3] = 1
    for new, old in enumerate(order):
        to_old[old, new] = signs[new]
        to_old[old, 3] = 0 if signs[new] > 0 else scan.grid.shape[old] - 1
    i, j, k = data.shape
    return Scan(np.ascontiguousarray(data), Grid((i, j, k), scan.grid.affine @ to_old))
