"""Weights of one U-Net for another that tells other structures apart or sees other modalities.

All inner weights are copied. In the last layers, the rows of structures that both networks know
are copied, and that of the background; what the new one draws in several parts is shared out evenly
among them; rows of other structures stay as they are in the new network. In the first layer,
filters are copied modality by modality.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from fewlabel.errors import ConfigError, ProtocolError
from fewlabel.labels import LabelProtocol, shared_protocol
from fewlabel.nets.unet import UNet

AGES = "age.ages_weeks"
Weights = Mapping[str, Tensor]
Heads = Mapping[str, LabelProtocol]


@dataclass(frozen=True)
class Sees:
    """What a network is for.

    Attributes:
        heads: Protocol of each head.
        modalities: Of each channel of its input.
    """

    heads: Heads
    modalities: tuple[str, ...]


@dataclass(frozen=True)
class Transplanted:
    """What became of a network's weights.

    Attributes:
        fresh: Names of weights that have nothing to start from, wholly or in part.
        notes: What people should know, as sentences.
    """

    fresh: tuple[str, ...]
    notes: tuple[str, ...]


def shape_of(weights: Weights) -> dict[str, Any]:
    """Arguments of `nets.unet.UNet` besides heads that fit weights by name.

    Raises:
        ConfigError: If they are not those of such a network.
    """
    first = [weights.get(f"encoder.levels.{n}.conv1.conv.weight") for n in range(_levels(weights))]
    found = [weight for weight in first if weight is not None]
    heads = heads_of(weights)
    if len(found) < 2 or not heads:
        raise ConfigError(
            f"These weights are not those of a U-Net: they begin with {next(iter(weights), '')!r}.",
            fix="fine-tune a model or run of supervised, synthetic, mo-net, neonatal or finetune.",
        )
    outs = {key.split(".")[3] for key in weights if key.startswith(f"decoders.{heads[0]}.outs.")}
    finest = weights.get(f"decoders.{heads[0]}.finest.up.conv.weight")
    return {
        "in_channels": found[0].shape[1],
        "channels": [weight.shape[0] for weight in found],
        "residual": "encoder.levels.1.conv3.conv.weight" in weights,
        "depths": len(outs),
        "fine": 0 if finest is None else finest.shape[1],
        "fine_norm": finest is None or f"decoders.{heads[0]}.finest.conv.adn.N.weight" in weights,
        "first": found[0].shape[2],
        "age": any(key.startswith("age.") for key in weights),
    }


def _levels(weights: Weights) -> int:
    numbers = [int(key.split(".")[2]) for key in weights if key.startswith("encoder.levels.")]
    return max(numbers, default=-1) + 1


def heads_of(weights: Weights) -> tuple[str, ...]:
    """Names of the decoders in weights by name."""
    return tuple(dict.fromkeys(key.split(".")[1] for key in weights if key.startswith("decoders.")))


def origins(source: LabelProtocol, target: LabelProtocol) -> dict[int, int]:
    """Class of `target` to the class of `source` that means the same, or holds it, background too.

    Structures meet as `shared_protocol` says, by a table or by name. What the target draws in
    several parts is where all of these come from; what the source draws in several parts is none
    of them. A side is never taken for the other.

    >>> from fewlabel.labels import Label
    >>> first = LabelProtocol("first", (Label(1, "CSF"), Label(2, "WM")))
    >>> origins(first, LabelProtocol("second", (Label(5, "WM"), Label(6, "GM"))))
    {0: 0, 1: 2}
    """
    try:
        shared = shared_protocol(source, target)
    except ProtocolError:
        return {0: 0}
    ours, theirs = (one.table_to(shared)[:-1] for one in (source, target))
    pairs = {0: 0}
    for number in range(1, shared.n_classes):
        from_class, to_class = np.flatnonzero(ours == number), np.flatnonzero(theirs == number)
        if len(from_class) == 1:
            pairs |= {int(part): int(from_class[0]) for part in to_class}
    return dict(sorted(pairs.items()))


@torch.no_grad()
def transplant(net: UNet, target: Sees, weights: Weights, source: Sees) -> Transplanted:
    """Give a network the weights of another, as far as they mean something there.

    A modality that the source knew keeps its filters. A new one beside it begins with zeros, so
    that the network first says what the source said. If none was known, the source's filters are
    added up and shared out evenly. Parts of what was one structure are equally likely at first, and
    together as likely as it was.

    Args:
        net: Network to alter, of the source's channels and kind of blocks.
        target: What it is for.
        weights: Of the source.
        source: What that one is for.

    Raises:
        ConfigError: If blocks differ in shape.
    """
    fresh: list[str] = []
    notes: list[str] = []
    filled: dict[str, Tensor] = {}
    own = net.state_dict()
    names = {name: _nearest_head(name, head, source.heads) for name, head in target.heads.items()}
    for name, head in target.heads.items():
        rows = origins(source.heads[names[name]], head)
        notes += _told(head, rows, names[name])
        filled |= _outputs(name, names[name], own, weights, rows, fresh)
    for key in own:
        if key in filled:
            continue
        before = weights.get(_key_there(key, names))
        if before is None:
            fresh.append(key)
        elif sees_image := _sees_image(key):
            others = 0 if sees_image == "only" else before.shape[1] - len(source.modalities)
            of_image = _filters(before[:, others:].float(), source.modalities, target.modalities)
            filled[key] = torch.cat((before[:, :others].float(), of_image), dim=1)
            fresh += [key] * (not set(target.modalities) <= set(source.modalities))
        else:
            filled[key] = before
    notes += _told_modalities(source.modalities, target.modalities)
    if AGES in filled:
        filled |= _same_ages(filled, own[AGES])
    _load(net, own | filled)
    trained = {name for name, _ in net.named_parameters()}
    return Transplanted(tuple(name for name in own if name in fresh and name in trained),
                        tuple(notes))  # fmt: skip


def _nearest_head(name: str, head: LabelProtocol, heads: Heads) -> str:
    """The source's head of that name, or the one that shares most structures with it."""
    return name if name in heads else max(heads, key=lambda n: len(origins(heads[n], head)))


def _key_there(key: str, names: Mapping[str, str]) -> str:
    """Name of a weight in the source."""
    parts = key.split(".")
    if parts[0] == "decoders":
        parts[1] = names[parts[1]]
    return ".".join(parts)


def _outputs(
    name: str, there: str, own: Weights, weights: Weights, rows: Mapping[int, int], fresh: list[str]
) -> dict[str, Tensor]:
    """The output layers of a head with the rows that the source has; names what is not whole."""
    found: dict[str, Tensor] = {}
    to_rows, from_rows = list(rows), list(rows.values())
    parts = torch.tensor([from_rows.count(row) for row in from_rows])
    for key, value in own.items():
        if not key.startswith(f"decoders.{name}.outs."):
            continue
        before = weights.get(f"decoders.{there}.{key.split('.', 2)[2]}")
        if before is None or before.shape[1:] != value.shape[1:]:
            fresh.append(key)
            continue
        found[key] = value.clone()
        found[key][to_rows] = before[from_rows].to(value.dtype)
        if key.endswith(".bias"):
            found[key][to_rows] -= parts.log()
        if len(set(from_rows)) < len(value):
            fresh.append(key)
    return found


def _sees_image(key: str) -> Literal["only", "last", ""]:
    """Whether a layer sees the image: alone, or after features."""
    if key.startswith("encoder.levels.0.conv") and key.split(".")[3] in ("conv1", "conv3"):
        return "only"
    return "last" if key.endswith(".finest.conv.conv.weight") else ""


def _filters(before: Tensor, known: Sequence[str], wanted: Sequence[str]) -> Tensor:
    """Filters of the image, shape (features, modalities, ...), for other modalities."""
    if not set(wanted) & set(known):
        share = before.sum(1, keepdim=True) / len(wanted)
        return share.repeat_interleave(len(wanted), dim=1)
    parts = [
        before[:, known.index(m)] if m in known else torch.zeros_like(before[:, 0]) for m in wanted
    ]
    return torch.stack(parts, dim=1)


def _same_ages(weights: Weights, ages: Tensor) -> dict[str, Tensor]:
    """The last layer of an age head that says the same ages although it is made for others."""
    before = weights[AGES].float()
    (old_middle, old_spread), (middle, spread) = (
        (pair.mean(), ((pair[1] - pair[0]) / 2).clamp(min=1.0)) for pair in (before, ages)
    )
    gain = old_spread / spread
    return {
        "age.out.weight": weights["age.out.weight"] * gain,
        "age.out.bias": weights["age.out.bias"] * gain + (old_middle - middle) / spread,
        AGES: ages.clone(),
    }


def _told(head: LabelProtocol, rows: Mapping[int, int], there: str) -> list[str]:
    whole = list(rows.values())
    parts = sum(whole.count(row) > 1 for row in whole)
    new = [name for number, name in enumerate(head.names, start=1) if number not in rows]
    said = []
    if parts:
        said.append(f"{parts} begin as equal parts of a structure there")
    if new:
        listed = ", ".join(new[:5]) + (f" and {len(new) - 5} more" if len(new) > 5 else "")
        said.append(f"new are {listed}")
    if not said:
        return []
    kept = f"{len(rows) - 1 - parts} of {len(head.names)} structures of {head.name}"
    return ["; ".join((f"{kept} keep their rows from {there}", *said)) + "."]


def _told_modalities(known: Sequence[str], wanted: Sequence[str]) -> list[str]:
    new = [name for name in wanted if name not in known]
    if not new:
        return []
    begins = "zeros" if set(wanted) & set(known) else f"those for {' and '.join(known)}"
    return [f"The filters for {' and '.join(new)} begin as {begins}."]


def _load(net: UNet, state: Weights) -> None:
    try:
        net.load_state_dict(dict(state))
    except RuntimeError as problem:
        raise ConfigError(
            f"The source's weights do not fit this network: {str(problem).splitlines()[-1]}",
            fix="report this with the settings: the network takes its shape from the source.",
        ) from None
