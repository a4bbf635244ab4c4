"""Going on from the weights of a finished run, without learning from people who are scored."""

from pathlib import Path

from torch import Tensor

from fewlabel import cohort as cohorts
from fewlabel.cohort import Case, Cohort
from fewlabel.errors import ConfigError
from fewlabel.finer import begin_finer
from fewlabel.nets.unet import UNet
from fewlabel.splits import require_no_leak
from fewlabel.surgery import shape_of
from fewlabel.train.checkpoint import load_weights

_AGES = "age.ages_weeks"  # what a network expects, rather than what it has learned


def start_from_run(net: UNet, run: Path, stage: str, everybody: Cohort) -> None:
    """Load the weights that a run ended with, on larger voxels say.

    Args:
        net: Of the same shape, or one that `begin_finer` can fill with such weights. It goes on
            expecting its own ages.
        run: Run folder.
        stage: The run's stage to go on from.
        everybody: Cases of the new run; those held out must be new to the network.

    Raises:
        CohortError: Naming people that the run has seen and that are held out now.
        ConfigError: If the run is not finished, or its network has another shape.
    """
    require_new_people(cases_of_run(run), everybody)
    file = run / stage / "final.safetensors"
    fix = "name the folder of a finished run with the same `channels`, `depths` and `protocols`."
    if not file.is_file():
        raise ConfigError(f"`start` needs trained weights, but there is no {file}.", fix=fix)
    own: dict[str, Tensor] = {key: w for key, w in net.state_dict().items() if key == _AGES}
    try:
        found = {**load_weights(file)["net"], **own}
        if net.in_windows and not shape_of(found)["fine"]:
            begin_finer(net, found)
        else:
            net.load_state_dict(found)
    except (KeyError, RuntimeError):
        raise ConfigError(f"The network in {file} has another shape.", fix=fix) from None


def cases_of_run(run: Path) -> Cohort:
    """The cases that a run has learned from, as far as they are known.

    Args:
        run: Run folder, or a file of weights in it.
    """
    folder = run if run.is_dir() else run.parent.parent
    manifest = folder / "cohort.tsv"
    return cohorts.read_cohort(manifest) if manifest.is_file() else Cohort(())


def require_new_people(source: Cohort, target: Cohort) -> None:
    """Refuse to score people that a network has seen before.

    Args:
        source: What the network has learned from.
        target: What it will learn from, and be scored on.

    Raises:
        CohortError: Naming them.
    """
    held_out: dict[str, tuple[Case, ...]] = {s: target.part(s) for s in ("val", "test")}
    require_no_leak({"pre-training": source.part("train")} | held_out)
