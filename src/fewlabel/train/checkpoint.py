"""Checkpoints and weights of a run, written whole or not at all."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from fewlabel.errors import OutputError
from fewlabel.whole import write_whole


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write everything needed to go on: tensors, numbers, strings, lists and dicts of them.

    Raises:
        OutputError: If the disk is full, say; what was at `path` before is untouched.
    """
    _write(path, lambda draft: torch.save(dict(content), draft))


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote; nothing in the file is executed.

    Raises:
        OutputError: If the file is not a checkpoint.
    """
    try:
        content: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as problem:
        raise OutputError(
            f"Cannot read the checkpoint {path}: {_first_line(problem)}.",
            fix="delete it to train this stage from its start.",
        ) from problem
    return content


def save_weights(path: Path, state: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Write weights and buffers of networks as safetensors, named `network.weight`.

    Raises:
        OutputError: If the disk is full, say; what was at `path` before is untouched.
    """
    flat = {
        f"{name}.{key}": value.detach().cpu().contiguous().clone()
        for name, part in state.items()
        for key, value in part.items()
    }
    _write(path, lambda draft: draft.write_bytes(to_bytes(flat)))


def load_weights(path: Path) -> dict[str, dict[str, Tensor]]:
    """Read what `save_weights` wrote, by network.

    Raises:
        OutputError: If the file is not one of weights.
    """
    state: dict[str, dict[str, Tensor]] = {}
    try:
        flat = load_file(path)
    except (OSError, SafetensorError) as problem:
        raise OutputError(
            f"Cannot read the weights {path}: {_first_line(problem)}.",
            fix="take up the run with `--resume`, which writes them.",
        ) from problem
    for full, value in flat.items():
        name, key = full.split(".", 1)
        state.setdefault(name, {})[key] = value
    return state


def sweep(folder: Path) -> None:
    """Remove drafts of files that a killed process left behind."""
    for name in ("last.pt", "best.safetensors", "final.safetensors"):
        for draft in folder.glob(f".????????.{name}"):
            draft.unlink(missing_ok=True)


def cannot_write(path: Path, problem: Exception) -> OutputError:
    """The refusal when a file of a run cannot be written."""
    own = problem.what if isinstance(problem, OutputError) else ""
    return OutputError(
        own or f"Cannot write {path}: {_first_line(problem)}.",
        fix="make room, then go on with `--resume`; the last complete checkpoint is untouched.",
    )


def _write(path: Path, write: Callable[[Path], object]) -> None:
    try:
        with write_whole(path) as draft:
            write(draft)
    except (OutputError, RuntimeError, SafetensorError) as problem:  # a full disk is any of these
        raise cannot_write(path, problem) from problem


def _first_line(problem: Exception) -> str:
    words = getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
    return words.splitlines()[0].rstrip(".")
