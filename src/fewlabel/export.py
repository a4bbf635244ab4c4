"""From a run folder to a model folder: ONNX, checked against torch, with its card."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save as to_safetensors
from torch import nn

from fewlabel.cache import default_cache
from fewlabel.card import AgeCard, ModelCard
from fewlabel.errors import ConfigError, ModelFolderError
from fewlabel.model import ModelFolder, write_model
from fewlabel.nets.unet import UNet
from fewlabel.onnx_file import Bits, InOrder, differences, pack, round_weights, to_onnx
from fewlabel.recipes import Plan, read_plan
from fewlabel.run_folder import SETTINGS, require_same_protocols
from fewlabel.slices import SliceRule
from fewlabel.surgery import shape_of
from fewlabel.train.checkpoint import load_checkpoint, load_weights
from fewlabel.train.history import History, Row
from fewlabel.train.stage import Export, Workplace
from fewlabel.train.weights import State, load_state
from fewlabel.version import VERSION

LARGEST_DIFFERENCE, RELATIVE_DIFFERENCE = 1e-3, 1e-4
"""Of ONNX and torch: absolute, or as a part of the largest output, if that allows more."""
AGE_ERROR = "validation age error weeks"
"""The mean absolute error on held-out scans, in a run's history."""
_OF_90_PERCENT = 1.645 / 0.798
"""Of normally distributed errors, 90 % are smaller than so many times their mean."""


@dataclass(frozen=True)
class Choice:
    """Which weights to export.

    Attributes:
        stage: Name of the stage; None: the last one that has weights.
        weights: "best" by validation, "last", or "final": what the stage ended on.
        with_weights: Add `weights.safetensors` for torch.
        license: Terms of the model, for its card.
        bits: What weights are stored in; 8 is for large networks, see `onnx_file.pack`.
    """

    stage: str | None = None
    weights: Literal["best", "last", "final"] = "final"
    with_weights: bool = False
    license: str = "not stated"
    bits: Bits = 16


@dataclass(frozen=True)
class Exported:
    """A model folder and how faithful it is.

    Attributes:
        model: The folder.
        difference: Largest difference of a logit, or of an age in weeks, between ONNX and torch
            with equal weights.
        rounding: Largest such difference that storing weights in few bits makes.
        bits: How many.
    """

    model: ModelFolder
    difference: float
    rounding: float
    bits: Bits = 16

    def as_text(self) -> str:
        """For people."""
        what = "a logit or an age in weeks" if self.model.card.age else "a logit"
        return (
            f"{self.model.as_text()}\n"
            f"  ONNX and torch differ by at most {self.difference:.2g} in {what};\n"
            f"  storing weights in {self.bits} bits changes {what} by at most {self.rounding:.2g}"
        )


def export_run(run: Path, out: Path, choice: Choice | None = None) -> Exported:
    """Write the model folder of a run.

    Args:
        run: Run folder. Its data must still be where the settings say, as the recipe builds
            the networks anew.
        out: Model folder to write; replaced if it is one already.
        choice: Which weights.

    Raises:
        ConfigError: If the run has no such stage or weights, or weights for torch are wanted of a
            network that has none.
        ModelFolderError: If ONNX and torch differ by more than `LARGEST_DIFFERENCE` allows.
        OutputError: If `out` cannot be written.
    """
    choice = choice or Choice()
    plan = plan_of(run)
    stage, export = _trained(run, plan, choice)
    if choice.with_weights and not isinstance(export.network, UNet):
        raise ConfigError(
            "Weights for torch are kept of plain U-Nets only, not of networks that look at slices"
            " or average over mirror images.",
            fix="leave out --with-weights: a U-Net can be fine-tuned from its ONNX file, too.",
        )
    card = card_of(out.resolve().name, plan, stage, export, choice)
    if card.age is not None:
        error = error_weeks(History(run / "history.csv").rows(), stage, choice)
        age = card.age.model_copy(update={"error_weeks": error})
        card = card.model_copy(update={"age": age})
    return write_export(out, export, card, choice.bits)


def plan_of(run: Path) -> Plan:
    """The settings of a run.

    Raises:
        ConfigError: If `run` is no run folder, or a protocol table of its own has changed.
    """
    if not (run / SETTINGS).is_file():
        raise ConfigError(
            f"{run} is no run folder: it has no {SETTINGS}.",
            fix="give the folder that was `--out` of `fewlabel train`.",
        )
    plan = read_plan(run / SETTINGS)
    require_same_protocols(run, plan)
    return plan


def card_of(
    name: str, plan: Plan, stage: str, export: Export, choice: Choice = Choice()
) -> ModelCard:
    """What to say about the network of a run."""
    ages = export.ages_weeks
    return ModelCard(
        name=name.lower(),
        version="1.0",
        description=export.description,
        input=export.input,
        license=choice.license,
        heads=dict(export.heads),
        grid=export.grid,
        intensity=export.intensity,
        space=export.space,
        modalities=export.modalities,
        any_modality=export.any_modality,
        age=AgeCard(low_weeks=ages[0], high_weeks=ages[1]) if ages else None,
        contrast=export.contrast,
        network=shape_of(export.network.state_dict()) if choice.with_weights else None,
        registration=dict(export.registrar.settings) if export.registrar else None,
        provenance=_provenance(plan, stage, choice),
    )


def write_export(out: Path, export: Export, card: ModelCard, bits: Bits = 16) -> Exported:
    """Write a model folder from a network in memory, and check it against torch.

    Args:
        out: Model folder to write.
        export: The network.
        card: What to say about it; weights for torch are added if it has `network`.
        bits: What weights are stored in.

    Raises:
        ModelFolderError: If ONNX and torch differ by more than `LARGEST_DIFFERENCE` allows.
        OutputError: If `out` cannot be written.
    """
    network = export.network.cpu().float().eval()
    rounded = copy.deepcopy(network)
    round_weights(rounded, bits)
    heads, age = tuple(export.heads), export.ages_weeks is not None
    whole = to_onnx(
        rounded, heads, export.grid.multiple, export.channels, _dimensions(export), age=age
    )
    content = pack(whole, bits)
    difference, rounding, largest = _compare(content, network, rounded, export)
    allowed = max(LARGEST_DIFFERENCE, RELATIVE_DIFFERENCE * largest)
    if not difference < allowed:
        raise ModelFolderError(
            f"ONNX and torch differ by {difference:.2g} in a logit; allowed is {allowed:.2g}.",
            fix="report this with the versions of torch and openvino, and the network.",
        )
    weights = _packed(network) if card.network is not None else None
    bends = _packed(export.registrar.network) if export.registrar else None
    checked = card.provenance | {"largest difference of ONNX and torch": f"{difference:.2g}"}
    card = card.model_copy(update={"provenance": checked})
    model = write_model(out, card, onnx=content, weights=weights, registration=bends)
    return Exported(model, difference, rounding, bits)


def _packed(network: nn.Module) -> bytes:
    state = network.cpu().state_dict().items()
    content: bytes = to_safetensors({key: value.half() for key, value in state})
    return content


# The networks of a run


def _trained(run: Path, plan: Plan, choice: Choice) -> tuple[str, Export]:
    """The stage that was chosen, with its weights, and what is to be exported of it."""
    begun = {path.parent.name for path in run.glob("*/last.pt")}
    begun |= {path.parent.name for path in run.glob("*/final.safetensors")}
    if choice.stage is not None and choice.stage not in begun:
        raise ConfigError(
            f"The run {run} has no weights of a stage {choice.stage!r}.",
            fix=f"use one of {', '.join(sorted(begun)) or 'those that it will have once trained'}.",
        )
    left = set(begun)
    work = Workplace(run, default_cache())
    for stage in plan.recipe.stages(plan.config, plan.header.seed, work):
        left.discard(stage.name)
        if stage.name == choice.stage or (choice.stage is None and not left):
            load_state(stage.networks, _weights(run / stage.name, choice))
            return stage.name, plan.recipe.exports(plan.config, stage.networks)
        load_state(stage.networks, load_weights(run / stage.name / "final.safetensors"))
    raise ConfigError(
        f"The recipe has no stage {choice.stage!r}.", fix="export the run with its own settings."
    )


def _weights(folder: Path, choice: Choice) -> State:
    if choice.weights == "last" and (folder / "last.pt").is_file():
        content = load_checkpoint(folder / "last.pt", torch.device("cpu"))
        state: State = content["mean"] or content["networks"]
        return state
    path = folder / f"{choice.weights}.safetensors"
    if not path.is_file():
        there = [name for name in ("final", "best") if (folder / f"{name}.safetensors").is_file()]
        there += ["last"] * (folder / "last.pt").is_file()
        raise ConfigError(
            f"Stage {folder.name!r} has no {choice.weights} weights; it has"
            f" {' and '.join(there) or 'none'}.",
            fix="choose others with `--weights`, or let the stage come to its end.",
        )
    return load_weights(path)


def _provenance(plan: Plan, stage: str, choice: Choice) -> dict[str, str | int | float | None]:
    return {
        "recipe": plan.header.recipe,
        "seed": plan.header.seed,
        "stage": stage,
        "weights": choice.weights,
        "fewlabel": VERSION,
        "torch": version("torch"),
    }


def _compare(
    content: bytes, network: nn.Module, rounded: nn.Module, export: Export
) -> tuple[float, float, float]:
    """Largest differences of ONNX and of rounding, and outputs, on random images of two sizes."""
    m, rng = export.grid.multiple, torch.Generator().manual_seed(0)
    images = [
        torch.rand((1, export.channels, *shape[: _dimensions(export)]), generator=rng)
        for shape in ((2 * m, 2 * m, 3 * m), (4 * m, 3 * m, 2 * m))
    ]
    heads, age = tuple(export.heads), export.ages_weeks is not None
    before, after = (InOrder(net, heads, age=age) for net in (network, rounded))
    return differences(content, before, after, images)


def error_weeks(rows: Sequence[Row], stage: str, choice: Choice) -> float | None:
    """90 % of errors on held-out scans are smaller, by the validation of the weights chosen.

    Args:
        rows: Of the run's history.
        stage: Which stage is exported.
        choice: "last" weights go with the last validation, others with the one that scored best.
    """
    errors, scores = (
        {step: value for name, step, said, value in rows if (name, said) == (stage, quantity)}
        for quantity in (AGE_ERROR, "validation score")
    )
    if not errors:
        return None
    best = max(scores, key=scores.__getitem__, default=None)
    step = best if choice.weights != "last" and best in errors else max(errors)
    return _OF_90_PERCENT * errors[step]


def _dimensions(export: Export) -> Literal[2, 3]:
    return 2 if isinstance(export.grid, SliceRule) else 3
