"""Running a network with torch, where a GPU is asked for. Imported only then."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float32, Shaped, UInt8
from torch import Tensor

from fewlabel.engine import AGE, Answer, Compute, Engine
from fewlabel.engine_windows import Features, Parts, in_windows
from fewlabel.errors import ConfigError
from fewlabel.nets.mirror import Mirrored
from fewlabel.nets.unet import UNet
from fewlabel.shares import Index
from fewlabel.style import Offsets


def torch_engine(
    network: UNet | Mirrored,
    head: str,
    channels: int,
    compute: Compute,
    offsets: Offsets | None = None,
    window: Index | None = None,
) -> Engine:
    """A network in memory.

    Args:
        network: See `model_weights.network_of`.
        head: Which output.
        channels: Of the image.
        compute: Device and precision.
        offsets: Added to the logits.
        window: Voxels that it sees at once; None: all of an image.

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
    def asked(
        look: Callable[[Tensor], dict[str, Tensor]], image: Float32[np.ndarray, "channels i j k"]
    ) -> tuple[Tensor, float | None]:
        seen = torch.from_numpy(np.ascontiguousarray(image))[None].to(compute.device)
        with torch.autocast(compute.device, torch.bfloat16, enabled=half):
            found = look(seen)
        return found[head][0].float(), float(found[AGE][0]) if AGE in found else None

    def whole(image: Float32[np.ndarray, "channels i j k"]) -> Answer:
        logits, age = asked(network, image)
        return Answer(_shares(logits + added), age)

    def body(image: Float32[np.ndarray, "channels i j k"]) -> tuple[Features, float | None]:
        maps, age = asked(network.features, image)
        kept = maps.cpu().numpy()
        return lambda begin, end: kept[:, begin:end], age

    weight, bias = (one.detach() for one in network.last_of(head))
    weight, bias = weight.flatten(1), bias[:, None] + added.reshape(-1, 1)

    def last(some: Shaped[np.ndarray, "c voxels"]) -> UInt8[np.ndarray, "classes voxels"]:
        return _shares(weight @ torch.from_numpy(some).to(compute.device) + bias)

    means = f"torch {torch.__version__}, {'bf16' if half else 'f32'}"
    run = in_windows(Parts(body, last, len(weight), means), window) if window else whole
    return Engine(run, means, window, channels, tells_age=network.tells_age)


def _shares(logits: Tensor) -> UInt8[np.ndarray, "classes *voxels"]:
    shares: np.ndarray = (logits.softmax(0) * 255).round().byte().cpu().numpy()
    return shares
