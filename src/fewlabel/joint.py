"""From partial to full annotations: what stage 2 starts from, and how two losses become one."""

from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor

from fewlabel.cohort import Cohort
from fewlabel.errors import ConfigError, OutputError
from fewlabel.losses import dice_and_cross_entropy
from fewlabel.nets.unet import UNet
from fewlabel.partial import STAGE, PartialConfig
from fewlabel.train.checkpoint import load_weights
from fewlabel.train.stage import Batch, Losses
from fewlabel.warm_start import cases_of_run


def missing_source(start: str, *, here: bool, there: bool, data: bool) -> str:
    """What is wrong about where a run starts from; nothing if all is well.

    Args:
        start: "joint", "finetune", "scratch" or "pretrain".
        here: Whether stage 1 is in this run.
        there: Whether it was another run.
        data: Whether there are scans with full labels.
    """
    if start == "pretrain":
        return "" if here and not there else "`start: pretrain` needs `pretraining`, nothing else"
    if not data:
        return f"`start: {start}` needs `data` with full labels"
    if start == "scratch":
        return "`start: scratch` takes no `pretraining` and no `pretrained`" * (here or there)
    if here == there:
        return (
            f"`start: {start}` needs stage 1: set either `pretraining`, to have it in this run, or"
            " `pretrained` to the folder of a run with `start: pretrain`"
        )
    return ""


def loss_weights(heads: Collection[str], partial: str, partial_weight: float) -> dict[str, float]:
    """How much the loss of each head counts, 1 in all.

    >>> loss_weights(("full", "other", "fsl15"), "fsl15", partial_weight=0.5)
    {'full': 0.25, 'other': 0.25, 'fsl15': 0.5}

    Args:
        heads: By name.
        partial: The one that learns the partial annotations, if it is among them.
        partial_weight: Its weight; the others share the rest.
    """
    if partial not in heads:
        return dict.fromkeys(heads, 1 / len(heads))
    rest = (1 - partial_weight) / max(1, len(heads) - 1)
    return {name: partial_weight if name == partial else rest for name in heads}


def joint_loss(net: UNet, batch: Batch, weights: Mapping[str, float], dice_weight: float) -> Losses:
    """Weighted sum of the losses of all heads.

    Args:
        net: Decoders as in `weights`.
        batch: "image", and for each head "classes/NAME" and "merge/NAME".
        weights: Of each head.
        dice_weight: Weight of a Dice loss beside the cross-entropy.

    Source:
        dai2019, eq. 2. Departs from it: means over voxels, and the Dice loss if there is one.
    """
    total = torch.zeros((), device=batch["image"].device)
    losses: Losses = {}
    for name, logits in net(batch["image"]).items():
        parts = dice_and_cross_entropy(logits, batch[f"classes/{name}"], batch[f"merge/{name}"])
        total = total + weights[name] * (parts.cross_entropy + dice_weight * parts.dice)
        losses |= {f"cross-entropy {name}": parts.cross_entropy, f"dice {name}": parts.dice}
    return {"total": total} | losses


def load_start(place: Path) -> Mapping[str, Tensor]:
    """The network that stage 1 of another run ended with.

    Args:
        place: The run folder, or the file of weights in it.

    Raises:
        ConfigError: If stage 1 is not finished there.
    """
    file = place / STAGE / "final.safetensors" if place.is_dir() else place
    if not file.is_file():
        raise ConfigError(
            f"Stage 2 starts from stage 1, but there is no {file}.",
            fix="run `fewlabel train` with `start: pretrain` first and set `pretrained` to its"
            " folder, or set `pretraining` to have stage 1 in this run, or learn from scratch"
            " with `start: scratch`.",
        )
    try:
        return load_weights(file)["net"]
    except (OutputError, KeyError):
        raise ConfigError(
            f"{file} does not hold the weights of a network.",
            fix="set `pretrained` to the folder of a run with `start: pretrain`.",
        ) from None


def start_from(net: UNet, before: Mapping[str, Tensor], partial: str) -> None:
    """Load encoder and every decoder from the network of stage 1.

    Only the last layers of decoders stay as they are, except that of the partial decoder, whose
    classes are those of stage 1.

    Args:
        net: Any decoders.
        before: Weights of a network of the same shape with one decoder.
        partial: The protocol of that decoder.

    Raises:
        ConfigError: If it has other channels, or another decoder.
    """
    prefix = f"decoders.{partial}."
    taught = {key.removeprefix(prefix): w for key, w in before.items() if key.startswith(prefix)}
    encoder = {
        key.removeprefix("encoder."): w for key, w in before.items() if key.startswith("encoder.")
    }
    try:
        net.encoder.load_state_dict(encoder)
        for name, decoder in net.decoders.items():
            own = {k: w for k, w in decoder.state_dict().items() if k.startswith("outs.")}
            decoder.load_state_dict(taught if name == partial else taught | own)
    except RuntimeError:
        heads = sorted({key.split(".")[1] for key in before if key.startswith("decoders.")})
        raise ConfigError(
            f"The pre-trained network (decoder {', '.join(heads) or 'none'}) does not fit one for"
            f" {partial} with these `channels`.",
            fix="give stage 2 the `channels`, modalities and `partial` of stage 1.",
        ) from None


def source_cases(config: PartialConfig | None, pretrained: Path | None, run: Path) -> Cohort:
    """The scans that stage 1 learns or has learned from, as far as they are known."""
    if config is not None and config.data is not None:
        return config.data.load(run / STAGE)
    return Cohort(()) if pretrained is None else cases_of_run(pretrained)
