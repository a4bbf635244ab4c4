"""Tables and pictures of DeepAtlas's ablations."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, median, stdev

import matplotlib as mpl
import numpy as np
import torch

from benchmarks.papers.deepatlas2019_scores import Scans, bent
from fewlabel.volume import Scan
from fewlabel.warp import warp_labels, warp_scan

mpl.use("Agg")
ORDER = ("unsupervised", "weak", "segmentation", "held", "joint")
Row = Mapping[str, str]


def tables(table: Path) -> str:
    """Markdown: a table for each study, and how far joint training is ahead."""
    with table.open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    return "\n\n".join(
        _table(study, [row for row in rows if row["study"] == study])
        for study in dict.fromkeys(row["study"] for row in rows)
    )


def by_label(rows: Sequence[Row], task: str, group: str) -> dict[str, float]:
    """Mean Dice by labeled scan: the moving one of a pair, or the one segmentation saw."""
    chosen = [row for row in rows if row["task"] == task and row["group"] == group]
    keys = [row["moving"] if task == "registration" else row["labeled"] for row in chosen]
    return {
        key: mean(float(row["dice"]) for row, own in zip(chosen, keys, strict=True) if own == key)
        for key in dict.fromkeys(keys)
    }


def _by_case(rows: Sequence[Row], task: str, group: str) -> dict[tuple[str, str], float]:
    """Dice by labeled scan, as in `by_label`, and case."""
    return {
        (row["moving"] if task == "registration" else row["labeled"], row["case"]): float(
            row["dice"]
        )
        for row in rows
        if row["task"] == task and row["group"] == group
    }


def _table(study: str, rows: Sequence[Row]) -> str:
    lines = [
        f"### {study}",
        "",
        "| ablation | registration, new | new to new | unlabeled | folded % | s a pair"
        " | segmentation, new | unlabeled |",
        "|---|---|---|---|---|---|---|---|",
    ]
    of = {name: [row for row in rows if row["ablation"] == name] for name in ORDER}
    pairs = [row for row in of["unsupervised"] if row["task"] == "registration"]
    if pairs:
        cells = [_spread(_affine(pairs, group)) for group in ("new", "new to new", "unlabeled")]
        lines.append(f"| affine alone | {' | '.join(cells)} | 0 | | | |")
    for name in ORDER:
        own = of[name]
        if not own:
            continue
        cells = [_cell(own, "registration", g) for g in ("new", "new to new", "unlabeled")]
        bends = [row for row in own if row["task"] == "registration"]
        folded = f"{100 * mean(float(r['folded_share']) for r in bends):.3f}" if bends else ""
        pace = f"{median(float(r['seconds']) for r in bends):.2f}" if bends else ""
        cells += [folded, pace]
        cells += [_cell(own, "segmentation", group) for group in ("new", "unlabeled")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_ahead(of)])


def _affine(rows: Sequence[Row], group: str) -> list[float]:
    chosen = [row for row in rows if row["group"] == group]
    return [
        mean(float(row["dice_affine"]) for row in chosen if row["moving"] == moving)
        for moving in dict.fromkeys(row["moving"] for row in chosen)
    ]


def _cell(rows: Sequence[Row], task: str, group: str) -> str:
    return _spread(list(by_label(rows, task, group).values()))


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    return f"{mean(values):.3f} ± {stdev(values):.3f}" if len(values) > 1 else f"{values[0]:.3f}"


def _ahead(of: Mapping[str, Sequence[Row]]) -> list[str]:
    """Joint less separate training, in Dice points, by labeled scan, on what both were scored."""
    lines = []
    for task, other in (("registration", "unsupervised"), ("segmentation", "segmentation")):
        for group in ("new", "unlabeled"):
            a, b = _by_case(of[other], task, group), _by_case(of["joint"], task, group)
            both = {key: 100 * (b[key] - a[key]) for key in b if key in a}
            gains = [
                mean(gain for (of_label, _), gain in both.items() if of_label == own)
                for own in dict.fromkeys(of_label for of_label, _ in both)
            ]
            if gains:
                listed = ", ".join(f"{gain:+.1f}" for gain in gains)
                lines.append(
                    f"- joint less separate, {task}, {group}: {mean(gains):+.1f} points ({listed})"
                )
    return lines


def draw_pair(
    networks: Mapping[str, torch.nn.Module], moving: str, fixed: str, scans: Scans, path: Path
) -> None:
    """Moving, fixed and warped scan, the warped grid, and both label maps over the fixed one."""
    from matplotlib import pyplot as plt

    field, _ = bent(networks["register"], moving, fixed, scans)
    image = {name: scans.images[name][0, 0].numpy() for name in (moving, fixed)}
    warped = warp_scan(Scan(image[moving], scans.grid), field).data
    carried = warp_labels(scans.labels[moving], field).data
    with torch.inference_mode():
        logits = networks["segment"](scans.images[fixed])[scans.protocol.name][0]
    segmented = logits.argmax(0).numpy()
    middle = int(np.argwhere(scans.labels[fixed].data > 0)[:, 1].mean())
    figure, axes = plt.subplots(1, 6, figsize=(18, 3.4))
    shown = (
        ("moving", image[moving], None), ("fixed, drawn", image[fixed], scans.labels[fixed].data),
        ("moving, warped", warped, None), ("warped grid", warped, None),
        ("fixed, labels carried", image[fixed], carried),
        ("fixed, segmented", image[fixed], segmented),
    )  # fmt: skip
    for axis, (title, shade, labels) in zip(axes, shown, strict=True):
        axis.imshow(shade[:, middle].T, cmap="gray", origin="lower")
        if labels is not None:
            cut = np.ma.masked_less_equal(labels[:, middle].T, 0)
            axis.imshow(cut, cmap="tab20", alpha=0.5, origin="lower", interpolation="nearest")
        axis.set_title(title)
        axis.axis("off")
    voxels = field.mm[:, :, middle] / scans.grid.spacing_mm[0]
    i, k = np.meshgrid(*map(np.arange, voxels.shape[1:]), indexing="ij")
    x, z = i + voxels[0], k + voxels[2]
    for lines_x, lines_z in ((x[::4], z[::4]), (x.T[::4], z.T[::4])):
        axes[3].plot(lines_x.T, lines_z.T, color="tab:orange", linewidth=0.5)
    axes[3].set(xlim=axes[0].get_xlim(), ylim=axes[0].get_ylim())
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    plt.close(figure)
