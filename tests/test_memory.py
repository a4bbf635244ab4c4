"""How much memory training takes with many classes."""

import json
import subprocess
import sys

import pytest

ONE_STEP = """
import json, resource, torch
from fewlabel.nets.unet import UNet
from fewlabel.recipes.supervised import loss_of

torch.manual_seed(0)
net = UNet({"all": 139})
classes = torch.randint(-1, 139, (1, 96, 96, 96))
merge = torch.arange(139)[None].clone()
merge[:, MERGED:] = 0
classes[classes >= MERGED] = 0
batch = {"image": torch.rand(1, 1, 96, 96, 96), "classes/all": classes, "merge/all": merge}
optimizer = torch.optim.AdamW(net.parameters())
for _ in range(2):
    optimizer.zero_grad()
    loss = loss_of(net, batch, 1.0)["total"]
    loss.backward()
    optimizer.step()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"loss": float(loss.detach()), "peak_gb": peak * 1024 / 1e9}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("merged", [139, 16], ids=["whole maps", "15 structures"])
def test_139_classes_on_96_voxel_cubes_train_in_less_than_8_gb(merged):
    source = ONE_STEP.replace("MERGED", str(merged))

    said = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True
    ).stdout

    found = json.loads(said)
    assert 0 < found["loss"] < 20
    assert found["peak_gb"] < 8
