"""How much memory training takes with many classes."""

import json
import subprocess
import sys

import pytest

ONE_STEP = """
import json, torch
from pathlib import Path
from fewlabel.nets.unet import UNet
from fewlabel.objective import ObjectiveConfig, losses_of

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
    loss = losses_of(net, batch, ObjectiveConfig())["total"]
    loss.backward()
    optimizer.step()
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
peak = int(status["VmHWM"].split()[0])  # `ru_maxrss` counts from what the parent had at the fork
print(json.dumps({"loss": float(loss.detach()), "peak_gb": peak * 1024 / 1e9}))
"""


def test_memory_grows_with_the_patch_as_it_should():
    """An eighth of the voxels that 8 GB are meant for, and what torch takes by itself."""
    source = ONE_STEP.replace("MERGED", "139").replace("96", "48")

    found = json.loads(run_alone(source))

    assert 0 < found["loss"] < 20
    assert found["peak_gb"] < 8 / 8 + 0.8


def run_alone(source):
    command = [sys.executable, "-c", source]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
@pytest.mark.parametrize("merged", [139, 16], ids=["whole maps", "15 structures"])
def test_139_classes_on_96_voxel_cubes_train_in_less_than_8_gb(merged):
    source = ONE_STEP.replace("MERGED", str(merged))

    found = json.loads(run_alone(source))
    assert 0 < found["loss"] < 20
    assert found["peak_gb"] < 8
