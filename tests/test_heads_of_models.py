"""A model with several outputs gives any of them."""

import pytest

from fewlabel.errors import ModelFolderError
from fewlabel.labels import load_protocol
from fewlabel.predict import giving
from tests.band_model import BANDS, band_model


def test_another_output_comes_first_and_the_others_stay(tmp_path):
    heads = {"bands": BANDS, "fsl15": load_protocol("fsl15")}
    model = band_model(tmp_path / "two", heads=heads)

    other = giving(model, "fsl15")

    assert (other.card.head, list(other.card.heads)) == ("fsl15", ["fsl15", "bands"])
    assert other.folder == model.folder
    assert giving(model, None) is model
    with pytest.raises(ModelFolderError, match="has no output 'aseg32'") as refusal:
        giving(model, "aseg32")
    assert "use 'bands' or 'fsl15'" in refusal.value.fix
