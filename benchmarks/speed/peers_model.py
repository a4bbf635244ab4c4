"""The network and the scan of peers.py."""

from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import torch

from benchmarks.models.robustness import with_skull
from benchmarks.speed.train_vs_nnunet import cases_in
from fewlabel.card import ModelCard
from fewlabel.conform import GridRule, conform
from fewlabel.export import write_export
from fewlabel.grid import Grid
from fewlabel.intensity import robust_scale
from fewlabel.io import read_labels, read_scan
from fewlabel.labels import LabelProtocol, load_protocol
from fewlabel.losses import dice_and_cross_entropy
from fewlabel.nets.unet import UNet
from fewlabel.source import read_source
from fewlabel.surgery import Sees, transplant
from fewlabel.train.stage import Export

CHANNELS = (16, 32, 64, 128, 160)
FIELD_MM = (160.0, 192.0, 160.0)
PATCH = 96
PROTOCOLS = {33: "aseg32", 139: "neuromorphometrics138"}


def head_scan(place: Path, data: Path, kind: str) -> Path:
    """A scan of the data set on 256 x 256 x 256 voxels of 1 mm, 16-bit and gzipped.

    A `brain` alone, as the data set has it, or a `head`: with a skull drawn around the brain.
    """
    file = place / f"{kind}_T1w.nii.gz"
    if not file.exists():
        scan = read_scan(cases_in(data, 1, place)[0].scans["T1w"])
        if kind == "head":
            scan, _ = with_skull(scan)
        affine = np.eye(4)
        affine[:3, 3] = scan.grid.corners_mm().mean(axis=0) - 127.5
        moved = conform(scan, Grid((256, 256, 256), affine))
        largest = float(moved.data.max())
        whole = (np.clip(moved.data, 0, None) * (4000 / largest)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(whole, affine), file)
    return file


def trained(n_classes: int, place: Path, steps: int, data: Path, start: Path | None) -> Path:
    """A model folder whose U-Net knows the structures more or less; made once.

    Steps on every second voxel, then a sixth as many on all of them; from a model of the same
    shape, if there is one.
    """
    folder = place / f"unet{n_classes}"
    if folder.exists():
        return folder
    torch.manual_seed(0)
    protocol = load_protocol(PROTOCOLS[n_classes])
    network = UNet({protocol.name: protocol.n_classes}, channels=CHANNELS)
    if start is not None:
        source, sees = read_source(start), Sees({protocol.name: protocol}, ("T1w",))
        transplant(network, sees, source.weights, source.sees)
    heads = loaded(place, data, protocol)
    first = 1e-2 if start is None else 3e-3
    for every, count, rate in ((2, steps, first), (1, max(2, steps // 6), 3e-3)):
        optimizer = torch.optim.AdamW(network.parameters(), lr=rate)
        plan = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=count)
        for step, (image, classes) in enumerate(patches(heads, count, every)):
            with torch.autocast("cpu", torch.bfloat16):
                logits = network(image)[protocol.name]
            loss = sum(dice_and_cross_entropy(logits, classes))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            plan.step()
            if step % 20 == 0:
                said = f"every {every}, step {step}, loss {loss.item():.3f}"
                print(f"training {n_classes} classes: {said}", flush=True)
    write(folder, network, protocol)
    return folder


def loaded(place: Path, data: Path, protocol: LabelProtocol) -> list[tuple[np.ndarray, np.ndarray]]:
    """Intensities and classes of two scans at 1 mm."""
    found = []
    for case in cases_in(data, 2, place):
        scan, labels = read_scan(case.scans["T1w"]), read_labels(case.labels, case.drawn_in())
        middle = scan.grid.corners_mm().mean(axis=0)
        affine = np.eye(4)
        affine[:3, 3] = middle - 95.5
        grid = Grid((192, 192, 192), affine)
        image = robust_scale(conform(scan, grid).data)
        classes = nearest(labels.to(protocol).data, labels.grid, grid)
        found.append((image, classes))
    return found


def patches(
    heads: list[tuple[np.ndarray, np.ndarray]], steps: int, every: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Random parts, of which every so many voxels along each axis are seen."""
    rng = np.random.default_rng(0)
    for step in range(steps):
        image, classes = heads[step % len(heads)]
        at = rng.integers(0, 192 - PATCH, 3)
        cut = tuple(slice(a, a + PATCH, every) for a in at)
        picture = torch.from_numpy(image[cut].copy())[None, None]
        yield picture, torch.from_numpy(classes[cut].astype(np.int64))[None]


def nearest(classes: np.ndarray, source: Grid, target: Grid) -> np.ndarray:
    """Classes on another grid, by the nearest voxel."""
    from scipy.ndimage import affine_transform

    matrix = np.linalg.inv(source.affine) @ target.affine
    moved: np.ndarray = affine_transform(
        classes, matrix[:3, :3], matrix[:3, 3], target.shape, order=0
    )
    return moved


def write(folder: Path, network: UNet, protocol: LabelProtocol) -> None:
    rule, heads = GridRule(spacing_mm=1.0, field_mm=FIELD_MM), {protocol.name: protocol}
    card = ModelCard(
        name=folder.name, version="0", description="Trained for minutes.", input="T1w",
        license="none", heads=heads, grid=rule, intensity="robust_scale",
    )  # fmt: skip
    write_export(folder, Export(network, heads, rule), card)
