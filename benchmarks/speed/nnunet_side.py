"""nnU-Net's half of train_vs_nnunet.py; runs in nnU-Net's own environment.

    python nnunet_side.py prepare SETTINGS.json    plan and preprocess with nnU-Net's own functions
    python nnunet_side.py train SETTINGS.json      train in blocks of steps

Training is nnU-Net's trainer as it is: `on_train_start`, `on_train_epoch_start`, then its
`train_step` on what its data loader hands out, as `run_training` does. Of its plan only what the
comparison has in common is set: patch size, batch size and the network's size.

While training, a line on standard input says how many steps to take, and a line of JSON on
standard output says how long they took. What nnU-Net prints goes to standard error.
"""

import copy
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

DATASET = 1


def main() -> None:
    settings = json.loads(Path(sys.argv[2]).read_text())
    place = Path(settings["place"])
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str(place / name)
        (place / name).mkdir(parents=True, exist_ok=True)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    if sys.argv[1] == "prepare":
        prepare()
    else:
        train(settings, place, answers)


def prepare() -> None:
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprints,
        plan_experiments,
        preprocess,
    )

    extract_fingerprints([DATASET], num_processes=1)
    plan_experiments([DATASET])
    preprocess([DATASET], configurations=("3d_fullres",), num_processes=(1,))


def train(settings: dict[str, Any], place: Path, answers: Any) -> None:
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    torch.set_num_threads(settings["threads"])  # as nnUNetv2_train does on a CPU, for all cores
    folder = next((place / "preprocessed").iterdir())
    plans = altered(json.loads((folder / "nnUNetPlans.json").read_text()), settings)
    dataset = json.loads((folder / "dataset.json").read_text())
    trainer = nnUNetTrainer(plans, "3d_fullres", "all", dataset, torch.device("cpu"))
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    print(json.dumps(size_of(trainer.network, settings["patch"])), file=answers)
    for line in sys.stdin:
        waited = 0.0
        begin = time.perf_counter()
        for _ in range(int(line)):
            before = time.perf_counter()
            batch = next(trainer.dataloader_train)
            waited += time.perf_counter() - before
            loss = trainer.train_step(batch)["loss"]
        took = time.perf_counter() - begin
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        said = {"took": took, "waited": waited, "loss": float(loss), "peak_mb": peak_mb}
        print(json.dumps(said), file=answers)


def size_of(network: Any, patch: int) -> dict[str, float]:
    """Weights, and billions of multiplications and additions of a patch's way forward."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counted, torch.device("meta"):
        copy.deepcopy(network).to("meta")(torch.zeros(1, 1, patch, patch, patch))
    weights = sum(weight.numel() for weight in network.parameters())
    return {"weights": weights, "gflop": counted.get_total_flops() / 1e9}


def altered(plans: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """The plan with the common patch, batch and network in place of what the planner chose."""
    configuration = plans["configurations"]["3d_fullres"]
    configuration["patch_size"] = [settings["patch"]] * 3
    configuration["batch_size"] = settings["batch"]
    levels = len(settings["channels"])
    configuration["architecture"]["network_class_name"] = (
        "dynamic_network_architectures.architectures.unet.PlainConvUNet"
    )
    configuration["architecture"]["arch_kwargs"] |= {
        "n_stages": levels,
        "features_per_stage": list(settings["channels"]),
        "kernel_sizes": [[3, 3, 3]] * levels,
        "strides": [[1, 1, 1]] + [[2, 2, 2]] * (levels - 1),
        "n_conv_per_stage": [2] * levels,
        "n_conv_per_stage_decoder": [2] * (levels - 1),
        "conv_bias": False,  # without effect before a norm layer, and ours has none
    }
    return plans | {"continue_training": False}


if __name__ == "__main__":
    main()
