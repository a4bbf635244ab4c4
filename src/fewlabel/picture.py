"""One picture to judge a segmentation at a glance: slices with the structures' contours."""

import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int16, UInt8
from PIL import Image, ImageDraw, ImageFont

from fewlabel.conform import turned
from fewlabel.field import extent
from fewlabel.volume import LabelMap, Scan

_TILE, _GAP, _TOP, _SIDE = 264, 8, 64, 30
_SLICES = 6
_MARGIN_MM = 10.0
_PAPER, _INK, _FAINT, _ALARM = (0, 0, 0), (238, 238, 238), (150, 150, 156), (255, 178, 64)
# Plane, axis it cuts, axes shown to the right and up, and what lies at the left and right edge.
# The subject's left is on the left: seen from above, from behind, from the right.
_PLANES = (
    ("axial", 2, (0, 1), "L", "R"),
    ("coronal", 1, (0, 2), "L", "R"),
    ("sagittal", 0, (1, 2), "P", "A"),
)


def picture(scan: Scan, labels: LabelMap, *, title: str, lines: Sequence[str] = ()) -> bytes:
    """A PNG with three planes, six slices each, and the contours of all structures.

    The subject's left is on the left of the picture. Slices are spread over the labeled part.

    Args:
        scan: What was segmented.
        labels: The result, on the scan's grid.
        title: First line, such as the scan's name.
        lines: Further lines: the model, then warnings.
    """
    grid, data = turned(scan)
    classes = turned(labels)[1]
    low, high = _shown(classes, grid.spacing_mm)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    data, classes = data[box], classes[box]
    gray = _gray_levels(data)
    colors = np.array([(0, 0, 0), *(x.color for x in labels.protocol.labels)], dtype=np.uint8)
    width = _SIDE + _SLICES * (_TILE + _GAP) + _GAP
    sheet = Image.new("RGB", (width, _TOP + len(_PLANES) * (_TILE + _GAP)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    _write_heading(draw, title, lines, width)
    for row, (plane, axis, shown, left, right) in enumerate(_PLANES):
        top = _TOP + row * (_TILE + _GAP)
        _write_upwards(sheet, plane, (6, top), _TILE)
        aspect = [data.shape[n] * grid.spacing_mm[n] for n in shown]
        for column, number in enumerate(_spread(classes, axis)):
            cut = [slice(None)] * 3
            cut[axis] = slice(number, number + 1)
            flat = (gray[tuple(cut)].squeeze(axis), classes[tuple(cut)].squeeze(axis))
            tile = _tile(flat, colors, aspect)
            at = (_SIDE + column * (_TILE + _GAP), top)
            sheet.paste(
                tile, (at[0] + (_TILE - tile.width) // 2, at[1] + (_TILE - tile.height) // 2)
            )
            _mark(draw, at, left, right)
    stream = io.BytesIO()
    sheet.quantize(255, dither=Image.Dither.NONE).save(stream, "PNG", compress_level=4)
    return stream.getvalue()


def _shown(
    classes: Int16[np.ndarray, "i j k"], spacing: tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """The labeled part and 10 mm around it; everything if nothing is labeled."""
    shape = np.array(classes.shape)
    structures = classes > 0
    if not structures.any():
        return np.zeros(3, dtype=int), shape
    low, high = extent(structures)
    margin = np.ceil(_MARGIN_MM / np.array(spacing)).astype(int)
    return np.maximum(low - margin, 0), np.minimum(high + margin, shape)


def _gray_levels(data: np.ndarray) -> UInt8[np.ndarray, "i j k"]:
    sample = data[::3, ::3, ::3]
    dark, light = np.percentile(sample, (1, 99.5))
    scaled = (data - np.float32(dark)) * np.float32(150 / max(light - dark, 1e-6))
    levels: np.ndarray = np.clip(scaled, 0, 170, out=scaled).astype(np.uint8)
    return levels


def _spread(classes: Int16[np.ndarray, "i j k"], axis: int) -> list[int]:
    """Slices at equal distances over the labeled part, without its outermost tenth."""
    others = tuple(n for n in range(3) if n != axis)
    filled = np.flatnonzero((classes > 0).any(axis=others))
    first, last = (filled[0], filled[-1]) if len(filled) else (0, classes.shape[axis] - 1)
    inset = 0.1 * (last - first)
    return [round(float(n)) for n in np.linspace(first + inset, last - inset, _SLICES)]


def _tile(
    flat: tuple[np.ndarray, np.ndarray], colors: UInt8[np.ndarray, "classes 3"], aspect: list[float]
) -> Image.Image:
    """One slice: the scan enlarged smoothly, the labels' contours drawn at the final size."""
    scale = _TILE / max(aspect)
    size = (max(1, round(aspect[0] * scale)), max(1, round(aspect[1] * scale)))
    gray, classes = (np.ascontiguousarray(part.T[::-1]) for part in flat)
    base = np.asarray(Image.fromarray(gray).resize(size, Image.Resampling.BICUBIC))
    drawn = np.asarray(
        Image.fromarray(classes.astype(np.int32), "I").resize(size, Image.Resampling.NEAREST)
    )
    painted = np.repeat(base[:, :, None], 3, axis=2)
    edge = _inner_edge(drawn)
    painted[edge] = colors[np.maximum(drawn[edge], 0)]
    return Image.fromarray(painted)


def _inner_edge(classes: np.ndarray) -> np.ndarray:
    """Labeled pixels that touch another class."""
    around = np.pad(classes, 1, mode="edge")
    same = np.ones(classes.shape, dtype=bool)
    for rows, columns in ((0, 1), (2, 1), (1, 0), (1, 2)):
        neighbor = around[rows : rows + classes.shape[0], columns : columns + classes.shape[1]]
        same &= neighbor == classes
    return ~same & (classes > 0)


def _write_heading(draw: ImageDraw.ImageDraw, title: str, lines: Sequence[str], width: int) -> None:
    draw.text((_SIDE, 8), title, _INK, ImageFont.load_default(20))
    note = "the subject's left is on the left"
    small = ImageFont.load_default(13)
    draw.text((width - _GAP - draw.textlength(note, small), 12), note, _FAINT, small)
    at = float(_SIDE)
    for number, line in enumerate(lines):
        text = line
        while text and draw.textlength(text, small) > width - _GAP - at:
            text = text[:-2].rstrip() + "…" if len(text) > 2 else ""
        draw.text((at, 36), text, _ALARM if number else _FAINT, small)
        at += draw.textlength(text, small) + 18


def _write_upwards(sheet: Image.Image, text: str, at: tuple[int, int], height: int) -> None:
    strip = Image.new("RGB", (height, 20), _PAPER)
    font = ImageFont.load_default(14)
    draw = ImageDraw.Draw(strip)
    draw.text(((height - draw.textlength(text, font)) / 2, 1), text, _FAINT, font)
    sheet.paste(strip.rotate(90, expand=True), at)


def _mark(draw: ImageDraw.ImageDraw, at: tuple[int, int], left: str, right: str) -> None:
    font = ImageFont.load_default(14)
    draw.text((at[0] + 4, at[1] + 2), left, _INK, font)
    draw.text((at[0] + _TILE - 4 - draw.textlength(right, font), at[1] + 2), right, _INK, font)
