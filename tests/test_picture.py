"""The picture that lets a person judge a result."""

import io

import numpy as np
import pytest
from PIL import Image

from fewlabel.picture import picture
from fewlabel.volume import LabelMap
from tests.band_model import BANDS, box_grid, head_at, turned_scan

RED, GREEN = BANDS.labels[0].color, BANDS.labels[1].color


@pytest.fixture
def head():
    return head_at(box_grid((3.0, 4.0, 3.0), 180.0))


def labels_of(scan):
    """The ball is red, the lump on its right green."""
    data = np.where(scan.data > 300, np.where(scan.data < 500, 1, 2), 0).astype(np.int16)
    return LabelMap(data, scan.grid, BANDS)


def drawn(scan, labels, **how):
    content = picture(scan, labels, **({"title": "head"} | how))
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def where(image, color):
    return np.argwhere(np.abs(image - color).max(axis=2) < 12)


def test_what_is_right_is_drawn_on_the_right_in_the_protocols_colors(head):
    image = drawn(head, labels_of(head))

    first_axial_row = image[64 : 64 + 264, 30 + 2 * 272 : 30 + 3 * 272]
    red, green = where(first_axial_row, RED), where(first_axial_row, GREEN)
    assert len(red) > 50
    assert len(green) > 50
    assert red[:, 1].mean() + 20 < green[:, 1].mean()


def test_the_picture_does_not_depend_on_how_the_scan_is_stored(head):
    labels = labels_of(head)
    order, signs = (2, 0, 1), (-1, 1, -1)
    turned = turned_scan(head, order, signs)
    flips = tuple(slice(None, None, sign) for sign in signs)
    classes = np.ascontiguousarray(labels.data.transpose(order)[flips])

    image = drawn(turned, LabelMap(classes, turned.grid, BANDS))

    assert np.array_equal(image, drawn(head, labels))


def test_a_result_without_structures_is_drawn_too(head):
    empty = LabelMap(np.zeros(head.grid.shape, np.int16), head.grid, BANDS)

    image = drawn(head, empty, lines=["model", "No brain was found in this scan."])

    assert not len(where(image, RED))
    assert image.max() > 100


def test_a_long_warning_is_cut_at_the_edge(head):
    lines = ["model 1.0", "A very long warning. " * 40, "another"]

    image = drawn(head, labels_of(head), lines=lines)

    assert image.shape == drawn(head, labels_of(head)).shape
