"""Scans in which bright and dark are exchanged are looked at again."""

import json

import numpy as np
import pytest

from fewlabel.contrast import exchanged, is_exchanged, sureness
from fewlabel.engine import Answer, Compute, Engine
from fewlabel.errors import ModelFolderError
from fewlabel.look import Watch, look_at
from fewlabel.model import read_model
from fewlabel.segmenter import Segmenter
from fewlabel.volume import Scan
from tests.band_model import band_card, band_model, box_grid, head_at

CONTRAST = {"brighter": ["Right-Lump"], "darker": ["Ball"]}
AIR, BALL, LUMP, FLUID = range(4)


def turned_over(scan):
    """What is bright in the head is dark, and the air stays black."""
    return Scan(np.where(scan.data > 50, 1100 - scan.data, 0).astype(np.float32), scan.grid)


def parts(grid_scan, card):
    """Which of the classes each voxel of the field is, from the scan as it is."""
    found = []

    def run(image):
        bright = image[0]
        found.append(np.digitize(bright, [0.15, 0.5, 0.82]))
        return Answer(shares_of(found[-1], 200))

    look_at({"T1w": grid_scan}, card, lambda: Engine(run, "by hand"), Watch())
    return found[0]


def shares_of(classes, sure):
    """Probabilities of four classes: one of them `sure`, the next one the rest."""
    shares = np.zeros((4, *classes.shape), dtype=np.uint8)
    np.put_along_axis(shares, classes[None], sure, axis=0)
    np.put_along_axis(shares, (classes[None] + 1) % 4, 255 - sure, axis=0)
    return shares


def knowing(classes, sure, seen):
    """A network that knows where everything is, more or less surely by the contrast it sees."""

    def run(image):
        seen.append(image[0])
        lump, ball = (np.median(image[0][classes == n]) for n in (LUMP, BALL))
        return Answer(shares_of(classes, sure[0] if lump > ball else sure[1]))

    return Engine(run, "by hand")


@pytest.fixture(scope="module")
def card():
    return band_card(contrast=CONTRAST)


@pytest.fixture(scope="module")
def scan():
    return head_at(box_grid())


def test_a_scan_in_the_contrast_that_a_network_knows_is_looked_at_once(scan, card):
    classes, seen = parts(scan, card), []
    found, _ = look_at({"T1w": scan}, card, lambda: knowing(classes, (230, 150), seen), Watch())

    assert len(seen) == 1
    assert not found.exchanged


def test_the_other_contrast_is_turned_over_and_the_surer_answer_kept(scan, card):
    classes, seen = parts(scan, card), []
    engine = knowing(classes, (230, 150), seen)
    found, _ = look_at({"T1w": turned_over(scan)}, card, lambda: engine, Watch())

    assert len(seen) == 2
    assert found.exchanged
    assert found.shares.max() == 230
    np.testing.assert_array_equal(found.image, seen[0])  # as it is, for what is measured on it


def test_an_answer_that_is_less_sure_is_not_kept(scan, card):
    classes, seen = parts(scan, card), []
    engine = knowing(classes, (150, 230), seen)
    found, _ = look_at({"T1w": turned_over(scan)}, card, lambda: engine, Watch())

    assert len(seen) == 2
    assert not found.exchanged
    assert found.shares.max() == 230


def test_without_a_contrast_in_its_card_nothing_is_turned_over(scan, card):
    classes, seen = parts(scan, card), []
    engine = knowing(classes, (230, 150), seen)
    found, _ = look_at({"T1w": turned_over(scan)}, band_card(), lambda: engine, Watch())

    assert len(seen) == 1
    assert not found.exchanged


def test_the_air_stays_dark_and_the_brain_does_not():
    image = np.array([[[[0.0, 0.05, 0.6, 0.03, 1.0]]]], dtype=np.float32)
    brain = np.array([[[False, False, False, True, True]]])

    np.testing.assert_allclose(exchanged(image, brain)[0, 0, 0], [0, 0, 0.4, 0.97, 0])


def test_what_is_nowhere_cannot_be_brighter(card):
    shares = shares_of(np.full((9, 9, 9), BALL), 250)

    assert not is_exchanged(shares, np.ones((9, 9, 9), dtype=np.float32), card)


def test_sureness_is_that_of_structures_not_of_air():
    classes = np.zeros((9, 9, 9), dtype=int)
    shares = shares_of(classes, 255)
    assert sureness(shares) == 0.0
    classes[:, :, :5] = LUMP
    assert sureness(shares_of(classes, 204)) == pytest.approx(0.8)


def test_the_record_tells_whether_it_was_turned_over(tmp_path, scan):
    result = Segmenter(band_model(tmp_path / "m", contrast=CONTRAST), Compute(threads=1))(scan)

    assert result.record["bright_and_dark_exchanged"] is False


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"contrast": {"brighter": ["Vermis"], "darker": ["Ball"]}}, "names Vermis, which"),
        ({"contrast": CONTRAST, "modalities": ["T1w", "T2w"]}, "needs one modality"),
        ({"contrast": CONTRAST, "intensity": "z_score"}, "needs one modality and `robust_scale`"),
    ],
)
def test_a_contrast_that_cannot_be_used_is_refused(tmp_path, changes, said):
    model = band_model(tmp_path / "m")
    card = json.loads((model.folder / "model.json").read_text())
    (model.folder / "model.json").write_text(json.dumps(card | changes))

    with pytest.raises(ModelFolderError, match=said):
        read_model(model.folder)
