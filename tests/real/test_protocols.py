"""The shipped protocols against the data sets that they describe."""

from pathlib import Path

import nibabel
import numpy as np
import pytest

from fewlabel.evaluate import label_files
from fewlabel.io import read_labels
from fewlabel.labels import load_protocol

DATA = Path(__file__).parents[2] / "../shared/data"


def first_file(dataset, protocol):
    folder = DATA / dataset / "derivatives" / "manual"
    if not folder.is_dir():
        pytest.skip(f"{dataset} is not here")
    return next(iter(label_files(folder, load_protocol(protocol)).values()))


@pytest.mark.parametrize(
    ("dataset", "protocol"),
    [
        ("malc", "neuromorphometrics138"),
        ("oasis-trt", "dktaseg"),
        ("ibsr18", "tissue3"),
        ("label-maps", "asegextra"),
        ("neonatal-templates", "drawem9"),
        ("fetal-spina-bifida", "fetal8"),
        ("hippocampus", "hippocampus2"),
    ],
)
def test_every_value_of_a_data_set_is_in_its_protocol(dataset, protocol):
    labels = read_labels(first_file(dataset, protocol), load_protocol(protocol))

    assert len(np.unique(labels.data)) >= 0.95 * len(labels.protocol.names)


@pytest.mark.parametrize(
    ("dataset", "protocol", "left"),
    [
        ("malc", "neuromorphometrics138", "Left Putamen"),
        ("oasis-trt", "dktaseg", "Left-Putamen"),
        ("label-maps", "asegextra", "Left-Putamen"),
    ],
)
def test_left_lies_left(dataset, protocol, left):
    labels = read_labels(first_file(dataset, protocol), load_protocol(protocol))
    x = []
    for name in (left, left.replace("Left", "Right")):
        index = np.argwhere(labels.data == labels.protocol.class_of(name)).mean(0)
        x.append(nibabel.affines.apply_affine(labels.grid.affine, index)[0])

    assert x[0] < x[1]
