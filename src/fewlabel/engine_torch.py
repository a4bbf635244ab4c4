"""Running a network with torch, where a GPU is asked for. Imported only then."""

import numpy as np
import torch
from jaxtyping import Float32
from torch import nn

from fewlabel.engine import AGE, Answer, Compute, Engine
from fewlabel.errors import ConfigError
from fewlabel.style import Offsets


def torch_engine(
    network: nn.Module,
    head: str,
    channels: int,
    compute: Compute,
    offsets: Offsets | None = None,
) -> Engine:
    """A network in memory.

    Args:
        network: From images to logits by head, and perhaps the age; see `model_weights.network_of`.
        head: Which output.
        channels: Of the image.
        compute: Device and precision.
        offsets: Added to the logits.

    Raises:
        ConfigError: If there is no GPU.
    """
    if compute.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is 'cuda', but torch finds no GPU here.", fix="use --device cpu.")
    network.eval().to(compute.device)
    half = compute.precision == "fast"
    added = torch.from_numpy(np.zeros(1, np.float32) if offsets is None else offsets)
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
    tells_age = getattr(network, "age", None) is not None
    return Engine(run, means, channels=channels, tells_age=tells_age)
