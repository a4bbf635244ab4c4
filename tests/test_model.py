"""Model folders: written whole, checked when read, found by name."""

import json
from pathlib import Path

import pytest

from fewlabel.card import AgeCard, Measured
from fewlabel.errors import ModelFolderError, OutputError
from fewlabel.model import (
    copy_model,
    find_model,
    list_models,
    models_folder,
    read_model,
    rewrite_card,
    unreadable_models,
    write_model,
)
from tests.band_model import BANDS, band_card, band_model, band_onnx


@pytest.fixture
def model(tmp_path):
    return band_model(tmp_path / "bands")


def changed(model, **changes):
    path = model.folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return model.folder


def test_a_card_comes_back_as_it_was_written(model):
    again = read_model(model.folder)

    assert again.card == model.card
    assert again.card.protocol == BANDS
    assert again.card.head == "bands"
    assert again.weights is None
    assert len(again.card.sha256["model.onnx"]) == 64


def test_weights_for_torch_are_optional(tmp_path):
    model = write_model(tmp_path / "m", band_card(), onnx=band_onnx(), weights=b"w")

    assert read_model(model.folder).weights == tmp_path / "m" / "weights.safetensors"


def test_writing_again_replaces_the_folder_and_leaves_nothing_beside_it(model):
    write_model(model.folder, band_card(version="2.0"), onnx=band_onnx())

    assert read_model(model.folder).card.version == "2.0"
    assert [path.name for path in model.folder.parent.iterdir()] == ["bands"]


def test_what_people_read_is_what_the_card_says(model, tmp_path):
    seen = [
        Measured(data="ten scans", metric="mean Dice", value=0.8),
        Measured(data="two scans", metric="surface distance", value=0.75, unit="mm"),
    ]
    age = AgeCard(low_weeks=28, high_weeks=44, error_weeks=1.2)
    told = model.card.model_copy(update={"version": "2.7", "measured": tuple(seen), "age": age})

    rewritten = rewrite_card(model, told)
    copied = copy_model(rewritten, tmp_path / "copy", rewritten.card)

    assert read_model(model.folder).card == told
    for one in (rewritten, copied):
        text = (one.folder / "README.md").read_text()
        assert text.startswith(f"# {told.name} 2.7\n")
        assert f"--model {one.folder.name}`" in text
        assert "- Age: told from 28 to 44 weeks; 90 % error 1.2 weeks.\n" in text
        assert "- mean Dice 0.8 on ten scans\n- surface distance 0.75 mm on two scans\n" in text


@pytest.mark.parametrize("name", ["adult-aseg32", "neonate-drawem9"])
def test_that_holds_for_the_models_that_ship(name):
    found = find_model(name)

    assert (found.folder / "README.md").read_text() == found.card.readme(name)


def test_a_folder_of_something_else_is_not_replaced(tmp_path):
    (tmp_path / "photos").mkdir()

    with pytest.raises(OutputError, match="exists and is no model folder"):
        write_model(tmp_path / "photos", band_card(), onnx=b"")


def test_what_else_lies_in_a_model_folder_is_not_lost(model):
    (model.folder / "NOTES_by_hand.md").write_text("mine")
    (model.folder / "figures").mkdir()

    with pytest.raises(OutputError, match=r"would be lost: NOTES_by_hand\.md, figures"):
        copy_model(model, model.folder, model.card)

    assert (model.folder / "NOTES_by_hand.md").read_text() == "mine"


def test_of_a_linked_folder_what_it_leads_to_is_replaced(model, tmp_path):
    link = tmp_path / "links" / "bands"
    link.parent.mkdir()
    link.symlink_to(model.folder)

    write_model(link, band_card(version="2.0"), onnx=band_onnx())

    assert link.is_symlink()
    assert read_model(model.folder).card.version == "2.0"
    assert [path.name for path in link.parent.iterdir()] == ["bands"]


def test_an_exchanged_network_is_refused(model):
    model.onnx.write_bytes(b"something else")

    with pytest.raises(ModelFolderError, match=r"model\.onnx is damaged or was exchanged"):
        read_model(model.folder)


def test_a_missing_network_is_refused(model):
    model.onnx.unlink()

    with pytest.raises(ModelFolderError, match=r"lacks model\.onnx, which its card names"):
        read_model(model.folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 2}, "its format is 2, needed is 1"),
        ({"format": None}, "its format is None"),
        ({"intensity": "os.system"}, "does not make sense at 'intensity'"),
        ({"surprise": 1}, "does not make sense at 'surprise'"),
        ({"heads": {}}, "does not make sense at 'heads'"),
        ({"sha256": {}}, "does not give the hash of model.onnx"),
        ({"sha256": {"model.onnx": "0", "../x": "0"}}, "model.onnx is damaged"),
    ],
)
def test_a_card_that_makes_no_sense_is_refused(model, changes, words):
    with pytest.raises(ModelFolderError, match=words):
        read_model(changed(model, **changes))


def test_a_file_outside_of_the_folder_is_never_read(model):
    hashes = model.card.sha256 | {"../outside": "0"}

    with pytest.raises(ModelFolderError, match=r"lacks \.\./outside"):
        read_model(changed(model, sha256=hashes))


@pytest.mark.parametrize("content", ["{", "[1]", "\udcff"])
def test_foreign_json_is_refused(model, content):
    (model.folder / "model.json").write_bytes(content.encode("utf-8", "surrogateescape"))

    with pytest.raises(ModelFolderError, match="is not"):
        read_model(model.folder)


def test_a_folder_without_a_card_is_refused(tmp_path):
    with pytest.raises(ModelFolderError, match="is no model folder"):
        read_model(tmp_path)


def test_models_in_the_users_folder_are_found_by_name(model, monkeypatch):
    monkeypatch.setenv("FEWLABEL_MODELS", str(model.folder.parent))

    assert find_model("bands").folder == model.folder
    assert "bands" in [found.card.name for found in list_models()]
    assert "structures  3 (bands)" in model.as_text()


def test_an_unknown_name_suggests_the_nearest(model, monkeypatch):
    monkeypatch.setenv("FEWLABEL_MODELS", str(model.folder.parent))

    with pytest.raises(ModelFolderError, match="There is no model 'band'") as refusal:
        find_model("band")
    assert "write 'bands'" in refusal.value.fix


def test_a_path_is_taken_as_a_folder(model):
    assert find_model(model.folder).card.name == "bands"
    assert find_model(str(model.folder)).card.name == "bands"


def test_models_of_the_user_that_cannot_be_read_are_left_out_and_told(model, monkeypatch):
    place = model.folder.parent
    for name in ("broken", "cut", ".bands.0a1b2c3d"):
        copy_model(model, place / name, model.card)
    (place / "broken" / "model.json").write_text("{")
    (place / "cut" / "model.onnx").unlink()
    monkeypatch.setenv("FEWLABEL_MODELS", str(place))

    own = [found.folder.name for found in list_models() if found.folder.parent == place]

    assert own == ["bands"]
    told = [refusal.what for refusal in unreadable_models()]
    assert "broken/model.json is not JSON" in told[0]
    assert "cut lacks model.onnx" in told[1]
    assert len(told) == 2


def test_a_model_that_ships_is_not_passed_over(tmp_path, monkeypatch):
    shipped = band_model(tmp_path / "shipped" / "bands").folder
    monkeypatch.setattr("fewlabel.model._SHIPPED", shipped.parent)
    (shipped / "model.json").write_text("{")

    with pytest.raises(ModelFolderError, match="is not JSON"):
        list_models()


def test_without_a_home_there_are_the_models_that_ship(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.delenv("FEWLABEL_MODELS", raising=False)
    assert models_folder() is None
    assert find_model().card.name == "adult-aseg32"

    monkeypatch.setenv("FEWLABEL_MODELS", "/models")
    assert models_folder() == Path("/models")
