"""The registration network of a model folder, ready for any number of pairs. Needs torch."""

import torch
from safetensors.torch import load_file
from torch import Tensor

from fewlabel.conform import GridRule
from fewlabel.errors import ModelFolderError
from fewlabel.field import around_body
from fewlabel.grid import Grid
from fewlabel.model import REGISTRATION, ModelFolder
from fewlabel.nets.register import RegistrationNet
from fewlabel.nets.spatial import Field
from fewlabel.volume import Scan


class NetworkDeformer:
    """What `register(..., model=...)` takes.

    Args:
        model: A folder with a registration network.

    Raises:
        ModelFolderError: If it has none, or its weights are those of another network.
    """

    def __init__(self, model: ModelFolder) -> None:
        card = model.card
        if card.registration is None or not isinstance(card.grid, GridRule):
            raise ModelFolderError(
                f"The model {card.name} has no registration network.",
                fix="use one that was trained with the recipe deep-atlas, or no model at all.",
            )
        self.name = card.name
        self.spacing_mm = card.grid.spacing_mm
        path = model.folder / REGISTRATION
        try:
            self.network = RegistrationNet(**card.registration)
            weights = load_file(path)
            self.network.load_state_dict({k: v.float() for k, v in weights.items()})
        except (RuntimeError, TypeError) as problem:
            raise ModelFolderError(
                f"{path} does not fit the network that the card describes: {problem}.",
                fix="export the model again.",
            ) from None
        self.network.eval()

    def field(self, fixed: Scan) -> Grid:
        """Voxels around all that is bright, of the model's size."""
        return around_body(fixed, self.spacing_mm, self.network.stride)

    @torch.inference_mode()
    def displacement(self, fixed: Tensor, moving: Tensor) -> Field:
        """In voxels, from two scans of shape (1, 1, i, j, k) with intensities from 0 to 1."""
        found: Tensor = self.network(fixed, moving)
        return found.clone()
