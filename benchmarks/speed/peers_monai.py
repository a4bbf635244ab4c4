"""MONAI's side of peers.py: its transforms and its sliding window, from file to file.

python peers_monai.py SETTINGS.json
"""

import json
import sys
import time
from pathlib import Path

import torch
from monai.data import MetaTensor, decollate_batch
from monai.inferers import SlidingWindowInferer
from monai.transforms import (
    AsDiscreted,
    Compose,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
    SaveImage,
    Spacingd,
)


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(settings["threads"])
    before = Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            Orientationd("image", axcodes="RAS", labels=None),
            Spacingd("image", pixdim=(settings["spacing_mm"],) * 3, mode="bilinear"),
            NormalizeIntensityd("image", nonzero=True, channel_wise=True),
        ]
    )
    after = Compose(
        [
            Invertd("pred", before, "image", nearest_interp=False, to_tensor=True),
            AsDiscreted("pred", argmax=True),
        ]
    )
    network = torch.jit.load(settings["network"]).eval()
    infer = SlidingWindowInferer(
        (settings["patch"],) * 3, sw_batch_size=1, overlap=0.25, mode="gaussian"
    )
    data = before({"image": settings["scan"]})
    begin = time.perf_counter()
    with torch.inference_mode():
        logits = infer(data["image"][None], network)
    network_s = time.perf_counter() - begin
    data["pred"] = decollate_batch(MetaTensor(logits, meta=data["image"].meta))[0]
    out = Path(settings["monai"])
    found = after(data)["pred"]
    save = SaveImage(
        out.parent, output_dtype="uint8", output_postfix="", separate_folder=False, print_log=False
    )
    save(found, filename=str(out).removesuffix(".nii.gz"))
    print(json.dumps({"network_s": network_s}))


if __name__ == "__main__":
    main()
