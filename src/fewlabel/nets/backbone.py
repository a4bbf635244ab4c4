"""ImageNet weights of VGG-16: finding, fetching, reading, and what input they expect.

Whoever published weights chose an order of colors and a scale of shades. Here all become weights
for shades from 0 to 255 in the order red, green, blue, by changing the first convolution.
"""

import os
import re
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from fewlabel.errors import ConfigError
from fewlabel.nets.vgg_fcn import STAGES

Order = Literal["rgb 0-255", "bgr 0-255", "rgb 0-1 std"]
State = dict[str, Tensor]

URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
SHA256 = "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0"
_STD = (0.229, 0.224, 0.225)  # that torchvision divides shades from 0 to 1 by
_GIVE_A_FILE = (
    "give a file with `--set backbone=PATH` (torchvision's vgg16-397923af.pth, or .safetensors,"
    " .npz or .h5), or choose `--set backbone=random` to start without ImageNet"
)
_WHAT_FITS = (
    "use torchvision's vgg16-397923af.pth, Keras's VGG16 weights, or a safetensors file with"
    " names like features.0.weight"
)


@dataclass(frozen=True, eq=False)
class Backbone:
    """Weights of VGG-16's convolutions, for shades from 0 to 255 in the order RGB.

    Attributes:
        state: By torchvision's names, float32: features.0.weight and so on.
        source: Where they are from, for the card.
    """

    state: State
    source: str


def find_backbone(wanted: str, cache: Path) -> Backbone | None:
    """The weights that a setting names.

    Args:
        wanted: "imagenet": torchvision's, from the cache or else from their publisher;
            "random": none; otherwise a path.
        cache: Folder for what is downloaded.

    Returns:
        The weights, or None if random ones are wanted.

    Raises:
        ConfigError: If there are none, or they are not VGG-16's.
    """
    if wanted == "random":
        return None
    if wanted == "imagenet":
        path = cache / "backbones" / Path(URL).name
        if not path.exists():
            download(URL, SHA256, path)
        return read_backbone(path)
    return read_backbone(Path(wanted))


def load_backbone(net: nn.Module, backbone: Backbone) -> None:
    """Put the weights into a network's convolutions, as many as it has."""
    own = net.state_dict()
    net.load_state_dict(own | {key: value for key, value in backbone.state.items() if key in own})


def download(url: str, expected: str, path: Path, timeout_s: float = 30.0) -> None:
    """Fetch a file, whole or not at all.

    Args:
        url: Where it is.
        expected: SHA-256 of its content.
        path: Where to put it.
        timeout_s: Longest silence of the server.

    Raises:
        ConfigError: If it cannot be fetched or written, or is not the file that was pinned.
    """
    digest, temporary = sha256(), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            urllib.request.urlopen(url, timeout=timeout_s) as source,
            tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as target,
        ):
            temporary = Path(target.name)
            while piece := source.read(1 << 20):
                digest.update(piece)
                target.write(piece)
            target.flush()
            os.fsync(target.fileno())
        if digest.hexdigest() != expected:
            raise ConfigError(
                f"{url} is not the file it should be: its SHA-256 begins with"
                f" {digest.hexdigest()[:12]}, needed is {expected[:12]}.",
                fix=f"try again, as a proxy may have answered instead; or {_GIVE_A_FILE}.",
            )
        temporary.replace(path)
    except OSError as problem:
        reason = problem.reason if isinstance(problem, urllib.error.URLError) else problem
        raise ConfigError(
            f"The ImageNet weights of VGG-16 are not in {path.parent}, and cannot be fetched"
            f" from {url}: {reason}.",
            fix=f"{_GIVE_A_FILE}.",
        ) from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def read_backbone(path: Path) -> Backbone:
    """Read weights of VGG-16 as torchvision, Keras or fewlabel's users store them.

    Raises:
        ConfigError: If the file cannot be read, lacks a layer, or does not tell what input its
            weights expect.
    """
    readers: dict[str, Callable[[Path], tuple[State, Order | None]]] = {
        ".safetensors": _read_safetensors,
        ".pth": _read_torch,
        ".pt": _read_torch,
        ".npz": _read_npz,
        ".h5": _read_h5,
        ".hdf5": _read_h5,
    }
    if path.suffix not in readers or not path.is_file():
        what = "is not there" if not path.is_file() else f"is a {path.suffix or 'nameless'} file"
        raise ConfigError(f"The backbone {path} {what}.", fix=f"{_GIVE_A_FILE}.")
    try:
        found, order = readers[path.suffix](path)
    except ConfigError:
        raise
    except Exception as problem:  # each format's reader has errors of its own
        raise ConfigError(
            f"Cannot read the backbone {path}: {type(problem).__name__} {problem}.",
            fix=f"copy the file again; or {_GIVE_A_FILE}.",
        ) from None
    keras = _from_keras(found)
    state = _checked(keras or found, path)
    order = "bgr 0-255" if keras else order
    if order is None:
        raise ConfigError(
            f"{path} does not say which input its weights expect.",
            fix="save it as safetensors with the metadata input = 'BGR, 0-255' or 'RGB, 0-255',"
            " or use torchvision's whole file.",
        )
    state["features.0.weight"] = _for_rgb(state["features.0.weight"], order)
    return Backbone(state, f"ImageNet, {path.name}")


def _layers() -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Torchvision's name, Keras's name and the shape of each convolution's weight."""
    widths = (3, *(channels for stage in STAGES for channels in stage))
    shapes = [(after, before, 3, 3) for before, after in pairwise(widths)]
    number, n = 0, 0
    for stage, channels in enumerate(STAGES, start=1):
        for place in range(1, len(channels) + 1):
            yield f"features.{number}", f"block{stage}_conv{place}", shapes[n]
            number, n = number + 2, n + 1
        number += 1  # the pooling


def _checked(found: Mapping[str, Tensor], path: Path) -> State:
    state: State = {}
    for name, _, shape in _layers():
        for key, wanted in ((f"{name}.weight", shape), (f"{name}.bias", shape[:1])):
            if key not in found or tuple(found[key].shape) != wanted:
                has = f"is {tuple(found[key].shape)}" if key in found else "is missing"
                raise ConfigError(
                    f"{path} does not hold VGG-16: {key} {has}, needed is {wanted}.",
                    fix=f"{_WHAT_FITS}.",
                )
            state[key] = found[key].float()
            if not torch.isfinite(state[key]).all():
                raise ConfigError(
                    f"{path} holds values in {key} that are no numbers.",
                    fix="copy the file again.",
                )
    return state


def _for_rgb(weight: Tensor, order: Order) -> Tensor:
    if order == "bgr 0-255":
        return weight.flip(1)
    if order == "rgb 0-1 std":
        return weight / (255 * torch.tensor(_STD).view(1, 3, 1, 1))
    return weight


def _read_safetensors(path: Path) -> tuple[State, Order | None]:
    from safetensors import safe_open

    with safe_open(path, "pt") as stored:
        state = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
        said = (stored.metadata() or {}).get("input", "").lower().replace(",", "")
    known: tuple[Order, ...] = ("bgr 0-255", "rgb 0-255", "rgb 0-1 std")
    return state, next((order for order in known if said.startswith(order)), None)


def _read_torch(path: Path) -> tuple[State, Order | None]:
    """Torchvision's files hold the classifier too; NaN in it marks the weights from Caffe."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    whole = state.get("classifier.0.weight")
    if whole is None:
        return state, None
    return state, "rgb 0-1 std" if torch.isfinite(whole).all() else "rgb 0-255"


def _read_npz(path: Path) -> tuple[State, Order | None]:
    with np.load(path, allow_pickle=False) as stored:
        return {key: torch.from_numpy(stored[key]) for key in stored.files}, None


def _read_h5(path: Path) -> tuple[State, Order | None]:
    try:
        import h5py
    except ImportError:
        raise ConfigError(
            f"Reading {path} needs the package h5py, which is not installed.",
            fix="run `pip install h5py`, or store the weights as .npz with the same names.",
        ) from None
    found: State = {}

    def keep(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = torch.from_numpy(np.asarray(item))

    with h5py.File(path, "r") as stored:
        stored.visititems(keep)
    return found, None


def _from_keras(found: Mapping[str, Tensor]) -> State:
    """The same weights by torchvision's names; empty if the names are not Keras's.

    Keras stores height, width, in, out, and its names vary around block1_conv1: a kernel has
    four dimensions and a bias one, whatever they are called.
    """
    names = {keras: torchs for torchs, keras, _ in _layers()}
    state: State = {}
    for key, value in found.items():
        named = re.search(r"block\d_conv\d", key)
        if named and named[0] in names and value.ndim in (1, 4):
            name = names[named[0]]
            if value.ndim == 4:
                state[f"{name}.weight"] = value.permute(3, 2, 0, 1).contiguous()
            else:
                state[f"{name}.bias"] = value
    return state
