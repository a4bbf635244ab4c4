"""A problem of a few seconds for every recipe."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
import yaml

from fewlabel.cohort import write_cohort
from fewlabel.datasets.choice import DataConfig
from fewlabel.nets.unet import UNet
from fewlabel.train.checkpoint import save_weights

PHANTOMS = {"cases": 4, "spacing_mm": 5.0, "validation": 1, "test": 1}


def supervised(folder: Path) -> dict[str, Any]:  # noqa: ARG001
    return {
        "data": {"phantom": PHANTOMS},
        "protocols": ["phantom8"],
        "working": {"spacing_mm": 8.0},
        "patches": {"size": [16, 16, 16], "batch": 1},
        "channels": [4, 8],
        "steps": 40,
        "validate_every": 20,
        "optimizer": {"kind": "adamw", "learning_rate": 0.02, "ema": 0.9},
    }


def synthetic(folder: Path) -> dict[str, Any]:
    """Two hemispheres with a thalamus each, in a head."""
    classes = np.full((40, 40, 40), 511, dtype=np.int16)
    classes[8:20, 8:32, 8:32], classes[20:32, 8:32, 8:32] = 2, 41
    classes[13:18, 14:26, 14:26], classes[22:27, 14:26, 14:26] = 10, 49
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(classes, affine), folder / "sub-1_dseg.nii.gz")
    level = {"spacing_mm": 4.0, "steps": 40, "learning_rate": 0.02, "field_mm": [64.0, 64.0, 64.0]}
    return {
        "label_maps": str(folder),
        "channels": [4, 8],
        "levels": [level | {"spacing_mm": 8.0}, level],
        "optimizer": {"warmup_steps": 0},
    }


def slice_fcn(folder: Path) -> dict[str, Any]:
    phantoms = DataConfig.model_validate({"phantom": PHANTOMS}).load(folder)
    write_cohort(phantoms, folder / "cohort.tsv")
    return {
        "cohort": str(folder / "cohort.tsv"),
        "protocol": "phantom8",
        "backbone": "random",
        "stages": 1,
        "side_maps": 4,
        "even_stages": True,
        "steps": 40,
        "optimizer": {"kind": "adam", "learning_rate": 0.003, "weight_decay": 0, "accumulate": 1},
    }


def deep_atlas(folder: Path) -> dict[str, Any]:  # noqa: ARG001
    """One labeled phantom and others without labels."""
    return {
        "data": {"phantom": PHANTOMS},
        "protocol": "phantom8",
        "labeled": ["sub-03"],
        "working": {"spacing_mm": 8.0},
        "patches": {"size": [16, 16, 16], "batch": 1},
        "register_channels": [4, 8],
        "segment_channels": [4, 8],
        "ratio": [1, 1],
        "register_steps": 10,
        "segment_steps": 60,
        "joint_steps": 20,
        "optimizer": {"learning_rate": 0.01},
    }


def mo_net(folder: Path) -> dict[str, Any]:
    """Phantoms of which stage 1 is told two structures."""
    partial = folder / "partial2.tsv"
    partial.write_text("index\tname\n1\tVentricle\n2\tBrain-Stem\n")
    phantoms = {"data": {"phantom": PHANTOMS}}
    return phantoms | {
        "pretraining": phantoms | {"steps": 15},
        "protocols": ["phantom8"],
        "partial": str(partial),
        "working": {"spacing_mm": 8.0, "intensity": "z_score"},
        "patches": {"size": [16, 16, 16], "batch": 1},
        "channels": [4, 8],
        "dice_weight": 1.0,
        "steps": 30,
        "optimizer": {"kind": "adam", "learning_rate": 0.02},
    }


def neonatal(folder: Path) -> dict[str, Any]:  # noqa: ARG001
    """Phantoms without T2w, aged 20 years and more."""
    return {
        "data": {"phantom": PHANTOMS},
        "protocols": ["phantom8"],
        "working": {"spacing_mm": 8.0},
        "patches": {"size": [16, 16, 16], "batch": 1},
        "augment": {"margin_voxels": 2, "synthetic": 0.2},
        "channels": [4, 8, 8],
        "depths": 2,
        "field_mm": [168.0, 200.0, 168.0],
        "steps": 40,
        "validate_every": 20,
        "optimizer": {"kind": "adamw", "learning_rate": 0.02, "ema": 0.9},
    }


def finetune(folder: Path) -> dict[str, Any]:
    """A run of a network that was told two structures, on other people and as good as untrained."""
    partial = folder / "partial2.tsv"
    partial.write_text("index\tname\n1\tVentricle\n2\tBrain-Stem\n")
    run = folder / "source"
    torch.manual_seed(0)
    net = UNet({"partial2": 3}, channels=(4, 8, 8), depths=2)
    save_weights(run / "train" / "final.safetensors", {"net": net.state_dict()})
    told = {"recipe": "supervised", "protocols": [str(partial)], "working": {"spacing_mm": 8.0}}
    (run / "settings.yaml").write_text(yaml.safe_dump(told))
    return {
        "source": str(run),
        "strategy": "shallow",
        "data": {"phantom": PHANTOMS},
        "protocols": ["phantom8"],
        "patches": {"size": [16, 16, 16], "batch": 1},
        "steps": 40,
        "validate_every": 20,
        "optimizer": {"kind": "adamw", "learning_rate": 0.02},
    }


TOYS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "supervised": supervised,
    "synthetic": synthetic,
    "slice-fcn": slice_fcn,
    "deep-atlas": deep_atlas,
    "mo-net": mo_net,
    "neonatal": neonatal,
    "finetune": finetune,
}
"""Settings of each recipe, without its name, from a folder to put data in."""
