"""Partially annotated images to pre-train on: of scans, made up from label maps, or both."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from fewlabel.contract import contract
from fewlabel.datasets.choice import DataConfig
from fewlabel.heads import Heads, read_heads
from fewlabel.labels import LabelProtocol, load_protocol
from fewlabel.painter import Painter
from fewlabel.palette import load_palette
from fewlabel.settings import Settings
from fewlabel.synthesis import SynthesisConfig
from fewlabel.train.stage import Batch, Draw

STAGE = "pretrain"
_BRAIN_MM = (192.0, 224.0, 192.0)
_PAINTED_IN = "aseg32"


class PartialConfig(Settings):
    """Stage 1: what it learns from, and how long."""

    data: DataConfig | None = None
    """Scans in which some structures were drawn, by a program say."""
    label_maps: Path | None = None
    """Folder of label maps (`*_dseg.nii.gz`, aseg) that images are made up from."""
    synthetic: float = Field(default=0.5, ge=0, le=1)
    """Share of made-up images, where there are both."""
    synthesis: SynthesisConfig = SynthesisConfig(translation_mm=35.0)
    """Made-up images are as large as patches; `translation_mm` spreads them over the brain."""
    steps: int = Field(default=12_000, ge=1)
    """3 epochs of 4,000 scans."""

    @model_validator(mode="after")
    def _some_source(self) -> "PartialConfig":
        if self.data is None and self.label_maps is None:
            raise ValueError("`pretraining` needs `data`, `label_maps` or both")
        return self

    @property
    def share(self) -> float:
        """Share of made-up images."""
        if self.label_maps is None:
            return 0.0
        return self.synthetic if self.data is not None else 1.0


@dataclass(frozen=True, eq=False)
class PartialImages:
    """Batches of stage 1: real patches or made-up images, by chance.

    Attributes:
        patches: Of scans; None: only made-up images.
        painter: Of made-up images; None: only scans.
        share: Of made-up images.
        head: Protocol of the partial annotations.
        z_score: Whether the network wants z-scores rather than intensities from 0 to 1.
    """

    patches: Draw | None
    painter: Painter | None
    share: float
    head: LabelProtocol
    z_score: bool

    def __call__(self, n: int) -> Batch:
        """Batch number n; `finish` makes it ready."""
        if self.painter is not None and self._by_chance(n) < self.share:
            return self.painter.draw(n)
        assert self.patches is not None
        return self.patches(n)

    def finish(self, batch: Batch) -> Batch:
        """Paint the image, if it is one to be painted, on the device of the batch."""
        if "rows" not in batch:
            return batch
        assert self.painter is not None
        image, classes = self.painter.paint(batch)
        if self.z_score:
            image = _z_score(image)
        terms = contract(self.head, load_protocol(_PAINTED_IN))
        table = torch.from_numpy(terms.labels).to(classes)
        merge = torch.from_numpy(terms.merge).to(image.device)
        name = self.head.name
        return {"image": image, f"classes/{name}": table[classes], f"merge/{name}": merge[None]}

    def _by_chance(self, n: int) -> float:
        seed = self.painter.seed if self.painter else 0
        return float(np.random.default_rng((seed, 2, n)).random())


def painter_of(
    config: PartialConfig, field: tuple[int, int, int], spacing_mm: float, seed: int
) -> Painter | None:
    """Paints images as large as patches; None if there are no label maps."""
    if config.label_maps is None:
        return None
    folder, palette = config.label_maps, load_palette("aseg", load_protocol(_PAINTED_IN))

    @cache  # building the networks needs no label maps
    def heads() -> Heads:
        return read_heads(folder, palette, _BRAIN_MM).for_spacing(spacing_mm)

    return Painter(palette, heads, config.synthesis, field, spacing_mm, seed)


def _z_score(image: Tensor) -> Tensor:
    """`intensity.z_score` on tensors."""
    inside = image[image != 0]
    if inside.numel() < 2:
        return torch.zeros_like(image)
    return (image - inside.mean()) / inside.std(correction=0).clamp(min=1e-6)
