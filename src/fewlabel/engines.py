"""The network of a model folder, ready to run on what was asked for."""

import math

from fewlabel.card import ModelCard
from fewlabel.conform import GridRule
from fewlabel.engine import Compute, Engine
from fewlabel.engine_slices import SliceEngine
from fewlabel.engine_stream import stream_engine
from fewlabel.errors import ConfigError, ModelFolderError
from fewlabel.model import ModelFolder
from fewlabel.shares import Index
from fewlabel.slices import SliceRule


def open_engine(model: ModelFolder, compute: Compute) -> Engine | SliceEngine:
    """Load and compile a network.

    Raises:
        ConfigError: If there is no such device or too little memory.
        ModelFolderError: If the network cannot be run so, or is not what the card says.
    """
    card = model.card
    if isinstance(card.grid, SliceRule):
        return _slice_engine(model, compute)
    if compute.device == "cpu":
        engine = stream_engine(model.onnx, card.head, card.grid, compute, card.class_offsets)
    else:
        window = card.grid.seen
        engine = _torch_engine(model, compute, None if window == card.grid.field else window)
    _require_described(model, engine)
    return engine


def tight(engine: Engine | SliceEngine, card: ModelCard) -> list[str]:
    """A warning if memory was limited so that the network saw less at once than in training."""
    if not isinstance(card.grid, GridRule) or not isinstance(engine, Engine):
        return []
    if engine.window is None or math.prod(engine.window) >= math.prod(card.grid.seen):
        return []
    seen, trained = (" x ".join(map(str, size)) for size in (engine.window, card.grid.seen))
    return [
        f"To stay within the limit of memory the network saw {seen} voxels at once, not {trained}"
        " as in training: labels can be much worse than without the limit."
    ]


def _torch_engine(model: ModelFolder, compute: Compute, window: Index | None) -> Engine:
    try:
        from fewlabel.engine_torch import torch_engine
        from fewlabel.model_weights import network_of
    except ModuleNotFoundError as missing:
        raise ConfigError(
            f"A GPU needs {missing.name}, which is not installed.",
            fix="pip install 'fewlabel[train]', or use --device cpu.",
        ) from None
    card = model.card
    channels, offsets = len(card.modalities), card.class_offsets
    return torch_engine(network_of(model), card.head, channels, compute, offsets, window)


def _slice_engine(model: ModelFolder, compute: Compute) -> SliceEngine:
    if compute.device != "cpu":
        raise ModelFolderError(
            f"The model {model.card.name} looks at slices, which is done on the CPU only.",
            fix="use --device cpu.",
        )
    return SliceEngine(model.onnx, model.card.head, compute, model.card.class_offsets)


def _require_described(model: ModelFolder, engine: Engine) -> None:
    """Refuse a network with other channels than the card names, or without the age it promises."""
    card, fix = model.card, "export the model again with this version of fewlabel."
    if engine.channels != len(card.modalities):
        raise ModelFolderError(
            f"The network of {card.name} looks at {engine.channels} channels; its card names"
            f" {len(card.modalities)} ({', '.join(card.modalities)}).",
            fix=fix,
        )
    if card.age is not None and not engine.tells_age:
        raise ModelFolderError(
            f"The card of {card.name} promises an age, which its network does not tell.", fix=fix
        )
