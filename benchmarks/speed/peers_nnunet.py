"""nnU-Net's side of peers.py: its predictor as it is; runs in nnU-Net's own environment.

    python peers_nnunet.py SETTINGS.json

The plan is one that its planner could have made: its reader, preprocessor, z-scores, resampling by
splines of order 3 (order 1 back), half a patch of overlap, Gaussian weights. Mirroring, which would
take eight times as long, is off.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

for name in ("raw", "preprocessed", "results"):
    os.environ.setdefault(f"nnUNet_{name}", "/tmp")


def main() -> None:
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    settings = json.loads(Path(sys.argv[1]).read_text())
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    torch.set_num_threads(settings["threads"])
    network = torch.jit.load(settings["network"]).eval()
    predictor = nnUNetPredictor(
        tile_step_size=0.5,
        use_gaussian=True,
        use_mirroring=False,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    plans = PlansManager(plans_of(settings))
    dataset = {
        "channel_names": {"0": "T1w"},
        "labels": {"background": 0} | {f"s{n}": n for n in range(1, settings["classes"])},
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    configuration = plans.get_configuration("3d_fullres")
    predictor.manual_initialization(
        network, plans, configuration, [network.state_dict()], dataset, "nnUNetTrainer", None
    )
    spent = timed(predictor)
    out = settings["nnunet"].removesuffix(".nii.gz")
    predictor.predict_from_files_sequential([[settings["scan"]]], [out])
    print(json.dumps({"network_s": sum(spent)}), file=answers)


def timed(predictor: Any) -> list[float]:
    """Note how long the predictor's sliding window takes."""
    spent: list[float] = []
    original = predictor.predict_sliding_window_return_logits

    def watched(*words: Any, **named: Any) -> Any:
        begin = time.perf_counter()
        found = original(*words, **named)
        spent.append(time.perf_counter() - begin)
        return found

    predictor.predict_sliding_window_return_logits = watched
    return spent


def plans_of(settings: dict[str, Any]) -> dict[str, Any]:
    mm = [settings["spacing_mm"]] * 3
    resampling = {"is_seg": False, "order_z": 0, "force_separate_z": None}
    fn = "resample_data_or_seg_to_shape"
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [settings["patch"]] * 3,
        "median_image_size_in_voxels": [160, 192, 160],
        "spacing": mm,
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": fn,
        "resampling_fn_data_kwargs": resampling | {"order": 3},
        "resampling_fn_seg": fn,
        "resampling_fn_seg_kwargs": resampling | {"order": 1, "is_seg": True},
        "resampling_fn_probabilities": fn,
        "resampling_fn_probabilities_kwargs": resampling | {"order": 1},
        "architecture": {"network_class_name": "", "arch_kwargs": {}, "_kw_requires_import": []},
        "batch_dice": False,
    }
    return {
        "dataset_name": "Dataset001_benchmark",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": mm,
        "original_median_shape_after_transp": [256, 256, 256],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": {}},  # z-scores need none
    }


if __name__ == "__main__":
    main()
