import csv

import numpy as np

from fewlabel.datasets.phantom import PhantomConfig, phantom, write_phantoms
from fewlabel.io import read_labels, read_scan
from fewlabel.labels import load_protocol

PROTOCOL = load_protocol("phantom8")


def test_a_person_is_always_the_same_and_another_is_different():
    first, labels = phantom(seed=0, person=1)
    again, _ = phantom(seed=0, person=1)
    other, others_labels = phantom(seed=0, person=2)

    assert np.array_equal(first.data, again.data)
    assert not np.array_equal(first.data, other.data)
    assert not np.array_equal(labels.data, others_labels.data)


def test_every_structure_is_there_and_left_is_on_the_left():
    for person in range(3):
        _, labels = phantom(seed=0, person=person)
        assert set(np.unique(labels.data)) == set(range(PROTOCOL.n_classes))
        for name in ("Cortex", "White", "Nucleus"):
            left = np.argwhere(labels.data == PROTOCOL.class_of(f"Left-{name}"))[:, 0].mean()
            right = np.argwhere(labels.data == PROTOCOL.class_of(f"Right-{name}"))[:, 0].mean()
            assert left < right


def test_white_matter_is_brighter_than_cortex_as_in_t1_weighted_images():
    scan, labels = phantom(seed=0, person=0)
    white = scan.data[labels.data == PROTOCOL.class_of("Left-White")].mean()
    cortex = scan.data[labels.data == PROTOCOL.class_of("Left-Cortex")].mean()

    assert white > 1.2 * cortex


def test_a_written_data_set_reads_back_as_scans_with_labels(tmp_path):
    folder = write_phantoms(tmp_path / "made", PhantomConfig(cases=4, validation=1, test=1))

    scan = read_scan(folder / "sub-03" / "anat" / "sub-03_T1w.nii.gz")
    truth = folder / "derivatives" / "manual" / "sub-03" / "anat"
    labels = read_labels(truth / "sub-03_desc-phantom8_dseg.nii.gz", PROTOCOL)
    assert scan.grid.matches(labels.grid)
    assert not scan.notes
    with (folder / "participants.tsv").open() as file:
        people = list(csv.DictReader(file, delimiter="\t"))
    assert [person["split"] for person in people] == ["test", "val", "train", "train"]
