"""Running a network with torch, where a GPU is asked for. Imported only then."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from safetensors.torch import load_file

from fewlabel.engine import AGE, Answer, Compute, Engine, Offsets
from fewlabel.errors import ConfigError, ModelFolderError
from fewlabel.nets.unet import UNet


def torch_engine(
    weights: Path,
    settings: Mapping[str, Any],
    heads: Mapping[str, int],
    head: str,
    compute: Compute,
    offsets: Offsets | None = None,
) -> Engine:
    """A U-Net from a safetensors file.

    Args:
        weights: Its weights, in any precision.
        settings: Arguments of `UNet`.
        heads: Number of classes of each head.
        head: Which output.
        compute: Device and precision.
        offsets: Added to the logits.

    Raises:
        ConfigError: If there is no GPU.
        ModelFolderError: If the weights are those of another network.
    """
    if compute.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is 'cuda', but torch finds no GPU here.", fix="use --device cpu.")
    network = UNet(heads, **settings)
    try:
        network.load_state_dict({k: v.float() for k, v in load_file(weights).items()})
    except RuntimeError as problem:
        raise ModelFolderError(
            f"{weights} does not fit the network that the card describes: {problem}.",
            fix="export the model again.",
        ) from None
    network.eval().to(compute.device)
    half = compute.precision == "fast"
    added = torch.zeros(heads[head]) if offsets is None else torch.from_numpy(offsets)
    added = added.to(compute.device).reshape(-1, 1, 1, 1)

    @torch.inference_mode()
    def run(image: Float32[np.ndarray, "channels i j k"]) -> Answer:
        batch = torch.from_numpy(np.ascontiguousarray(image))[None].to(compute.device)
        with torch.autocast(compute.device, torch.bfloat16, enabled=half):
            found = network(batch)
        logits = found[head][0].float() + added
        shares: np.ndarray = (logits.softmax(0) * 255).round().byte().cpu().numpy()
        return Answer(shares, float(found[AGE][0]) if AGE in found else None)

    means = f"torch {torch.__version__}, {'bf16' if half else 'f32'}"
    channels = int(settings.get("in_channels", 1))
    return Engine(run, means, channels=channels, tells_age=bool(settings.get("age")))
