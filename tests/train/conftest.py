"""A recipe small enough to train in a test."""

import hashlib
from pathlib import Path

import pytest

from fewlabel.recipes import RECIPES

MEASURED = ("steps per second", "share waiting for data")


@pytest.fixture(autouse=True)
def _tiny_is_a_recipe(monkeypatch):
    monkeypatch.setitem(RECIPES, "tiny", "tests.train.tiny")


@pytest.fixture
def settings(tmp_path):
    """Writes a settings file for the tiny recipe."""

    def write(text: str = "") -> Path:
        path = tmp_path / "settings.yaml"
        path.write_text(f"recipe: tiny\n{text}\n")
        return path

    return write


@pytest.fixture
def outcome():
    """Hashes of the final weights, and the history without what a clock measured."""

    def of(run: Path) -> tuple[dict[str, str], list[str]]:
        weights = {
            path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in run.glob("*/final.safetensors")
        }
        lines = (run / "history.csv").read_text().splitlines()
        return weights, [x for x in lines if not any(word in x for word in MEASURED)]

    return of
