"""Losses over what is labeled, whatever is missing.

Every loss takes the label contract: `classes` are -1 where nobody has looked, and `merge` says
for each sample which classes of the network its labels do not tell apart. A label then stands
for the set of network classes that merge into it, and its probability is the sum over that set.
A class that could be under any label (`merge` is -1) belongs to every set. A whole map in the
network's own protocol is the case where every set has one member. docs/labels-that-are-missing.md
tells the same in words; `contract.py` makes the tables.

Softmax, cross-entropy and Dice are computed in one pass over pieces of the image, and the
gradient is written down rather than traced: with 139 classes and a 96-voxel cube every copy of
the probabilities is 0.5 GB, and none is kept.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from fewlabel.labels import UNLABELED

Logits = Float[Tensor, "b n i j k"]
Classes = Int[Tensor, "b i j k"]
Merge = Int[Tensor, "b n"]
Scalar = Float[Tensor, ""]
Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]

_LEAST = 1e-6
"""Overlap below which its logarithm does not go on."""
_PIECE = 16_384  # voxels; 139 classes of them fit the cache of one core


class Parts(NamedTuple):
    """Two losses of one batch.

    Attributes:
        cross_entropy: Nats per labeled voxel.
        dice: One minus the mean overlap, or the mean of minus its logarithm.
    """

    cross_entropy: Scalar
    dice: Scalar


def cross_entropy(logits: Logits, classes: Classes, merge: Merge | None = None) -> Scalar:
    """Cross-entropy averaged over the voxels that carry a label.

    Args:
        logits: Unnormalized scores.
        classes: True class per voxel; -1 where nobody has looked.
        merge: For each sample and network class, the label that covers it, -1 if any label
            may; None if the labels tell all classes apart.

    Returns:
        Nats per labeled voxel; 0 if the batch has none, so that a batch which happens to
        miss every annotated slice does not turn the weights into NaN.

    Source:
        dai2019, eq. 1. Departs from it: the paper sums over voxels; we average, so that
        the learning rate does not depend on patch size.
    """
    if merge is not None:
        return dice_and_cross_entropy(logits, classes, merge).cross_entropy
    truth = classes.long()
    summed = F.cross_entropy(logits.float(), truth, ignore_index=UNLABELED, reduction="sum")
    return summed / torch.clamp((classes != UNLABELED).sum(), min=1)


def soft_dice(logits: Logits, classes: Classes, merge: Merge | None = None) -> Scalar:
    """One minus the Dice overlap of probabilities and labels, averaged over structures.

    Counted for each sample and each structure that its labeled voxels hold. Structures that
    are absent are left to the cross-entropy, as their overlap is 0 whatever the network says;
    so is the background, which is never scored.

    Args:
        logits: Unnormalized scores.
        classes: True class per voxel; -1 where nobody has looked.
        merge: As in `cross_entropy`.

    Returns:
        From 0 to 1; 0 if no sample has a structure.
    """
    return dice_and_cross_entropy(logits, classes, merge).dice


def dice_and_cross_entropy(
    logits: Logits, classes: Classes, merge: Merge | None = None, *, log: bool = False
) -> Parts:
    """`cross_entropy` and `soft_dice` for the price of one.

    Args:
        logits: Unnormalized scores, float32 or bfloat16.
        classes: True class per voxel; -1 where nobody has looked.
        merge: As in `cross_entropy`.
        log: Minus the logarithm of the overlap instead of one minus it: a structure that is
            missed altogether then pulls as hard as one that is half found, relative to its overlap.

    Source:
        `log`: the Dice part of the exponential logarithmic loss of Wong et al., MICCAI 2018, with
        an exponent of 1.
    """
    if merge is None:
        merge = torch.arange(logits.shape[1], device=logits.device).expand(logits.shape[:2])
    return Parts(*_OnePass.apply(logits, classes, merge, log))  # type: ignore[no-untyped-call]


class _Sums(NamedTuple):
    """What one sample adds up to."""

    overlap: Float[Tensor, "n"]  # probability of the truth, by true class
    predicted: Float[Tensor, "n"]  # probability of each class
    size: Float[Tensor, "n"]  # labeled voxels of each class


class _OnePass(torch.autograd.Function):
    """Cross-entropy and Dice of merged probabilities.

    With p the probabilities, y the label of a voxel, m(c) the label that covers class c (y itself
    where any label may) and q the sum of p over the classes that y covers, the losses depend on
    the logits only through log q, I[y] = sum of q and S[m] = sum of p. With a[m] the gradient
    with respect to I, b[m] that with respect to S and -w that with respect to log q, the
    gradient with respect to the logit of c is

        p[c] * (b[m(c)] + u + t * [m(c) = y]),   t = a[y] - w / q,
        u = w - a[y] * q - sum over c of p[c] b[m(c)].
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, classes: Tensor, merge: Tensor, log: bool
    ) -> tuple[Tensor, Tensor]:
        flat, truth = logits.detach().flatten(2), classes.flatten(1)
        sums, nats, normalizers = [], [], []
        for scores, label, covers in zip(flat, truth, merge, strict=True):
            total, nat, normalizer = _add_up(scores, label, covers)
            sums.append(total)
            nats.append(nat)
            normalizers.append(normalizer)
        labeled = (truth != UNLABELED).sum().clamp(min=1)
        by_class = _Sums(*(torch.stack(part) for part in zip(*sums, strict=True)))
        counted = by_class.size > 0
        counted &= torch.arange(flat.shape[1], device=flat.device) != merge[:, :1]
        n_counted = counted.sum().clamp(min=1)
        denominator = (by_class.predicted + by_class.size).clamp(min=1e-6)
        overlap = 2 * by_class.overlap / denominator
        weight = counted / n_counted
        pull = weight / overlap.clamp(min=_LEAST) if log else weight
        ctx.save_for_backward(
            logits, classes, merge, torch.stack(normalizers), labeled,
            -2 * pull / denominator, pull * overlap / denominator,
        )  # fmt: skip
        loss = torch.stack(nats).sum() / labeled
        dice = (weight * (-overlap.clamp(min=_LEAST).log() if log else 1 - overlap)).sum()
        return loss.float(), dice.float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_entropy: Tensor, of_dice: Tensor) -> tuple[Tensor | None, ...]:
        logits, classes, merge, normalizers, labeled, of_overlap, of_size = ctx.saved_tensors
        flat, truth = logits.flatten(2), classes.flatten(1)
        gradient = torch.zeros_like(flat, memory_format=torch.contiguous_format)
        weight = of_entropy / labeled
        for n in range(len(flat)):
            step = (weight, of_dice * of_overlap[n], of_dice * of_size[n])
            for piece, scores, label, known in _pieces(flat[n], truth[n]):
                log_p = scores - normalizers[n, piece][_where(known)]
                value = _gradient_of_piece(log_p, label, merge[n], step)
                _put(gradient[n, :, piece], known, value)
        return gradient.view_as(logits), None, None, None


Piece = tuple[slice, Float[Tensor, "n v"], Int[Tensor, "v"], Bool[Tensor, "v"] | None]


def _pieces(scores: Tensor, label: Tensor) -> Iterator[Piece]:
    """Pieces of one sample, with unlabeled voxels taken out.

    Yields:
        The voxels; scores and labels of the labeled ones; which those are, None for all.
    """
    size = _PIECE if scores.device.type == "cpu" else 64 * _PIECE
    precise = torch.float64 if scores.dtype == torch.float64 else torch.float32
    for start in range(0, len(label), size):
        piece = slice(start, start + size)
        known = label[piece] != UNLABELED
        here, now = scores[:, piece], label[piece].long()
        if known.all():
            yield piece, here.to(precise), now, None
        elif known.any():
            yield piece, here[:, known].to(precise), now[known], known


def _where(known: Tensor | None) -> Any:
    return slice(None) if known is None else known


def _put(target: Tensor, known: Tensor | None, value: Tensor) -> None:
    if known is None:
        target.copy_(value)
    else:
        target[:, known] = value.to(target.dtype)


def _covered(covers: Tensor, label: Tensor) -> Bool[Tensor, "n v"] | None:
    """Which network classes each voxel's label covers; None if each covers only itself."""
    if torch.equal(covers, torch.arange(len(covers), device=covers.device, dtype=covers.dtype)):
        return None
    return (covers[:, None] == label) | (covers[:, None] < 0)


def _add_up(
    scores: Tensor, label: Tensor, covers: Tensor
) -> tuple[_Sums, Tensor, Float[Tensor, "v"]]:
    """Sums over one sample, its cross-entropy in nats, the normalizer of each voxel."""
    precise = torch.float64 if scores.dtype == torch.float64 else torch.float32
    normalizers = torch.zeros(len(label), dtype=precise, device=scores.device)
    zeros = torch.zeros(len(scores), dtype=precise, device=scores.device)
    overlap, by_class, size, anywhere = zeros, zeros, zeros, zeros
    nats, free = zeros.new_zeros(()), covers < 0
    any_free = bool(free.any())
    for piece, here, now, known in _pieces(scores, label):
        normalizer = here.logsumexp(0)
        normalizers[piece][_where(known)] = normalizer
        log_q = _log_truth(here, now, covers) - normalizer
        nats = nats - log_q.sum()
        overlap = overlap + torch.bincount(now, log_q.exp(), minlength=len(scores))
        size = size + torch.bincount(now, minlength=len(scores))
        p = (here - normalizer).exp_()
        by_class = by_class + p.sum(1)
        if any_free:
            anywhere = anywhere + torch.bincount(now, p[free].sum(0), minlength=len(scores))
    predicted = anywhere.index_add(0, covers[~free].long(), by_class[~free])
    return _Sums(overlap, predicted, size), nats, normalizers


def _log_truth(scores: Tensor, label: Tensor, covers: Tensor) -> Float[Tensor, "v"]:
    """Log of the summed exponentials of the classes that the label covers."""
    covered = _covered(covers, label)
    if covered is None:
        return scores.gather(0, label[None])[0]
    return scores.masked_fill(~covered, -torch.inf).logsumexp(0)


def _gradient_of_piece(
    log_p: Tensor, label: Tensor, covers: Tensor, step: tuple[Tensor, Tensor, Tensor]
) -> Float[Tensor, "n v"]:
    """The formula in `_OnePass`, for the labeled voxels of a piece."""
    weight, of_overlap, of_size = step
    covered = _covered(covers, label)
    log_q = _log_truth(log_p, label, covers)
    p, free = log_p.exp(), covers < 0
    by_class = of_size[covers.clamp(min=0).long()].to(p.dtype)[:, None]
    if free.any():
        by_class = torch.where(free[:, None], of_size[label].to(p.dtype), by_class)
    mean = (p * by_class).sum(0)
    a, q = of_overlap[label].to(p.dtype), log_q.exp()
    value = p * (by_class + (weight - a * q - mean))
    if covered is None:
        return value.scatter_add_(0, label[None], (a * q - weight)[None])
    # p / q within the covered set, taken from logarithms: q may be too small to divide by
    within = (log_p - log_q).masked_fill_(~covered, -torch.inf).exp_()
    return value.add_(within.mul_(a * q - weight))


__all__ = ["Loss", "Parts", "cross_entropy", "dice_and_cross_entropy", "soft_dice"]
