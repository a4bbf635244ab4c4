"""What a model is unsure of in a scan, slice by slice; and its answer, to be corrected."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float32

from fewlabel.brain_extent import extent_of
from fewlabel.budget import Brain, doubt_by_slice
from fewlabel.cohort import Case
from fewlabel.conform import turned
from fewlabel.grid import Grid
from fewlabel.io import read_scan
from fewlabel.labels import LabelProtocol
from fewlabel.resample import resample
from fewlabel.segmenter import Segmenter
from fewlabel.shares import Probabilities, every, largest, thinned
from fewlabel.volume import LabelMap, Scan, require_same_grid


def look_with(segmenter: Segmenter) -> Callable[[Case, str], Brain]:
    """Find brains, and what is doubted in them, with a model.

    A voxel's doubt is 1 less its largest probability.
    """

    def look(case: Case, modality: str) -> Brain:
        seen, placed = segmenter.look(_images(segmenter, case, modality))
        upright = _upright(placed)
        brain = resample(thinned(seen.shares, 0, 1) < 128, seen.field, upright, 0.0) > 0.5
        doubt = resample(_doubt(seen.shares), seen.field, upright, 0.0)
        native = read_scan(case.scans[modality]).grid
        return Brain(native, extent_of(brain, upright), doubt_by_slice(doubt, upright))

    return look


def propose_with(
    segmenter: Segmenter, protocol: LabelProtocol, modality: str
) -> Callable[[Case], LabelMap]:
    """Let a model fill in the planned slices.

    Args:
        segmenter: Its structures become those of `protocol`; what it lacks stays background.
        protocol: What is to be drawn.
        modality: The scan on whose voxels.
    """

    def propose(case: Case) -> LabelMap:
        images = _images(segmenter, case, modality)
        found = segmenter(images).labels.to(protocol)
        require_same_grid(read_scan(case.scans[modality]), found, doing=f"sheet of {case.id}")
        return found

    return propose


def not_drawn(segmenter: Segmenter, protocol: LabelProtocol) -> list[str]:
    """Structures that a model does not draw, or only in part."""
    own = segmenter.model.card.protocol
    covered = protocol.names if own == protocol else own.covers(protocol)
    return [name for name in protocol.names if name not in covered]


def _images(segmenter: Segmenter, case: Case, modality: str) -> Scan | dict[str, Scan]:
    """What the model looks at: the scan, and others of the case if it wants several."""
    scan = read_scan(case.scans[modality])
    known = segmenter.model.card.looks_at
    if len(known) == 1:
        return scan
    others = {m: read_scan(path) for m, path in case.scans.items() if m in known and m != modality}
    return {modality: scan} | others


def _upright(grid: Grid) -> Grid:
    nothing = np.broadcast_to(np.float32(0), grid.shape)
    return turned(Scan(nothing, grid))[0]


def _doubt(shares: Probabilities) -> Float32[np.ndarray, "i j k"]:
    """1 less the largest probability of each voxel."""
    doubt: np.ndarray = (255 - largest(every(shares, 1))).astype(np.float32) / 255
    return doubt
