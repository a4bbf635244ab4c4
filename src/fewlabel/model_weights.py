"""The network of a model folder for torch: from weights for torch, or else from its ONNX file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fewlabel.errors import ConfigError, ModelFolderError
from fewlabel.model import ModelFolder
from fewlabel.nets.mirror import Mirrored, last_of_one
from fewlabel.nets.unet import UNet, last_layer
from fewlabel.surgery import AGES, heads_of, shape_of

_WRAPPED = "network."  # `InOrder` and `Mirrored` keep what they wrap under this name
_FIX = "use --device cpu; to fine-tune, name the folder of its run."


def weights_of(model: ModelFolder) -> dict[str, Tensor]:
    """The weights of a U-Net by name, without what is wrapped around it.

    An ONNX file holds all that it needs to run: not the outputs of deep supervision.

    Raises:
        ModelFolderError: If they cannot be read, or are not those of a U-Net.
    """
    return read_weights(model)[0]


def network_of(model: ModelFolder) -> UNet | Mirrored:
    """The network as `segment` runs it, mirrored if it is, without the card's offsets.

    Raises:
        ModelFolderError: If it cannot be read, or is none that torch can run here.
    """
    weights, mirrored = read_weights(model)
    card = model.card
    heads = {name: card.heads[name] for name in heads_of(weights) if name in card.heads}
    network = UNet({name: head.n_classes for name, head in heads.items()}, **shape_of(weights))
    try:
        network.load_state_dict(weights)
    except RuntimeError as problem:
        raise ModelFolderError(
            f"The weights of {card.name} are not those of a whole network:"
            f" {str(problem).splitlines()[-1].strip()}.",
            fix="export the model again.",
        ) from None
    return Mirrored(network, heads) if mirrored else network


def read_weights(model: ModelFolder) -> tuple[dict[str, Tensor], bool]:
    """What `weights_of` gives, and whether the U-Net is averaged with its mirror image.

    Raises:
        ModelFolderError: If they cannot be read, or are not those of a U-Net.
    """
    if model.weights is not None:
        try:
            return {key: w.float() for key, w in load_file(model.weights).items()}, False
        except (OSError, SafetensorError) as problem:
            raise ModelFolderError(
                f"Cannot read {model.weights}: {problem}.", fix="copy the whole folder again."
            ) from None
    weights, mirrored = _unwrapped(stored_weights(model.onnx))
    if (age := model.card.age) is not None:
        weights[AGES] = torch.tensor([age.low_weeks, age.high_weeks])
    try:
        shape_of(weights)
    except ConfigError as problem:
        raise ModelFolderError(
            f"The model {model.card.name} is no U-Net that torch can run: {problem.what}", fix=_FIX
        ) from None
    return weights, mirrored


def _unwrapped(stored: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], bool]:
    """The same under the names that the U-Net itself gives, and whether it was mirrored."""
    weights = {key.removeprefix(_WRAPPED): value for key, value in stored.items()}
    if not any(key.startswith(_WRAPPED) for key in weights):
        return weights, False
    own = {key.removeprefix(_WRAPPED): value for key, value in weights.items()}
    for head in {key.split(".")[1] for key in own if key.startswith("last.")}:
        both = own.pop(f"last.{head}.weight"), own.pop(f"last.{head}.bias")
        output = last_layer(head)
        own[f"{output}.weight"], own[f"{output}.bias"] = last_of_one(*both)
    return own, True


def stored_weights(path: Path) -> dict[str, Tensor]:
    """The trained weights in an ONNX file, whatever their bits, by the names they had in torch.

    Raises:
        ModelFolderError: If it is not an ONNX file, or keeps weights in other files.
    """
    try:
        graph: Any = onnx.load(path, load_external_data=False).graph
        stored = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    except Exception as problem:  # whatever the parser raises on a damaged or strange file
        raise ModelFolderError(
            f"{path} cannot be read as ONNX: {problem}.", fix="export the model again."
        ) from None
    found = {}
    for name, values in stored.items():
        plain = name.removesuffix(".packed")
        if not plain.startswith(_WRAPPED) or plain.endswith(".scale"):
            continue
        weight = values.astype(np.float32)
        if (scale := stored.get(f"{plain}.scale")) is not None:
            weight *= scale.reshape(-1, *(1,) * (weight.ndim - 1))
        found[plain] = torch.from_numpy(weight)
    for node in graph.node:  # weights that equal others are stored once
        if node.op_type == "Identity" and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
    return found
