"""Registration side by side: fewlabel at several settings, and antspyx SyN with its defaults.

    python -m benchmarks.speed.register ../shared/data/malc [--out FILE.csv]
        [--ants-python PATH]   python of a separate environment with antspyx, which needs an
                               older NumPy and SciPy than fewlabel is tested with
        [--model FOLDER] [--threads 2] [--fixed 4]

Carries the labels of the first training scan to others, all as read from disk at 1 mm. Time is
from two scans and labels in memory to labels on the fixed scan's voxels; reading and scoring are
outside of it, for both; so is loading a tool, which each does once before the first pair. Rows
that the CSV has already are not run again; means are printed.
"""

import argparse
import csv
import json
import os
import subprocess
import tempfile
import time
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import mean

from benchmarks.common import RESULTS, add_rows, provenance

PROTOCOL = "neuromorphometrics138"
ANTS = """
import json, sys, time
import ants, numpy as np
fixed, moving, labels, out = sys.argv[1:]
f, m, l = (ants.image_read(p) for p in (fixed, moving, labels))
wall, cpu = time.perf_counter(), time.process_time()
found = ants.registration(f, m, type_of_transform="SyN")
moved = ants.apply_transforms(f, l, found["fwdtransforms"], interpolator="genericLabel")
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
size = ants.create_jacobian_determinant_image(f, found["fwdtransforms"][0]).numpy()
folded = float((size[f.numpy() > 0] <= 0).mean())
ants.image_write(moved, out)
print("RESULT" + json.dumps({"wall_s": wall, "cpu_s": cpu, "folded_share": folded}))
"""


def settings():
    from fewlabel.register import How

    return {
        "fewlabel, affine alone": How(deform=False),
        "fewlabel, refine 5": How(refine=5),
        "fewlabel, defaults": How(),
        "fewlabel, refine 60": How(refine=60),
        "fewlabel, 1.5 mm": How(spacing_mm=1.5),
        "fewlabel, 1 mm": How(spacing_mm=1.0),
    }


def paths(root, person):
    scan = next((root / person / "anat").glob("*_T1w.nii.gz"))
    labels = next((root / "derivatives/manual" / person / "anat").glob("*_dseg.nii.gz"))
    return scan, labels


def mean_dice(labels, truth):
    import numpy as np

    from fewlabel.metrics import dice

    found = dice(labels, truth)
    return float(np.nanmean([found[one.name] for one in truth.protocol.labels if one.scored]))


def ours(how, model, moving, fixed, protocol):
    from fewlabel.io import read_labels, read_scan
    from fewlabel.register import register

    source, target = read_scan(moving[0]), read_scan(fixed[0])
    labels = read_labels(moving[1], protocol)
    wall, cpu = time.perf_counter(), time.process_time()
    done = register(source, target, labels=labels, model=model, how=how)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    score = mean_dice(done.labels, read_labels(fixed[1], protocol))
    return {"wall_s": wall, "cpu_s": cpu, "folded_share": done.folds.share, "dice": score}


def theirs(python, moving, fixed, protocol):
    from fewlabel.io import read_labels

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "labels.nii.gz"
        command = [python, "-c", ANTS, *map(str, (fixed[0], moving[0], moving[1], out))]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found = json.loads(said.split("RESULT")[1])
        score = mean_dice(read_labels(out, protocol), read_labels(fixed[1], protocol))
        return found | {"dice": score}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS / "register.csv")
    parser.add_argument("--ants-python")
    parser.add_argument("--model", help="a model folder with a registration network")
    parser.add_argument("--note", default="")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--fixed", type=int, default=4)
    asked = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(asked.threads)
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(asked.threads)

    from fewlabel.labels import load_protocol

    protocol = load_protocol(PROTOCOL)
    people = sorted(path.name for path in asked.data.glob("sub-*"))
    moving, others = people[0], people[1 : 1 + asked.fixed]
    tools = tools_of(asked, protocol)
    done = {(row["tool"], row["fixed"], row["threads"]) for row in rows_of(asked.out)}
    for fixed in others:
        for tool, run in tools.items():
            if (tool, fixed, str(asked.threads)) in done:
                continue
            row = run(paths(asked.data, moving), paths(asked.data, fixed))
            about = {"tool": tool, "moving": moving, "fixed": fixed, "threads": asked.threads}
            numbers = {
                key: round(row[key], 6) for key in ("wall_s", "cpu_s", "dice", "folded_share")
            }
            add_rows(asked.out, [{**provenance(asked.note), **about, **numbers}])
            print(f"{tool}: {fixed}: {row['wall_s']:.1f} s, Dice {row['dice']:.3f}", flush=True)
    print(table(rows_of(asked.out)))


def tools_of(asked, protocol):
    """Each tool at each setting, as a function of the files of a pair; ours is loaded first."""
    from fewlabel.register import How

    for module in ("fewlabel.refine", "fewlabel.nets.spatial", "scipy.ndimage", "scipy.optimize"):
        import_module(module)
    tools = {name: partial(ours, how, None, protocol=protocol) for name, how in settings().items()}
    if asked.model:
        from fewlabel.deformer import NetworkDeformer
        from fewlabel.model import find_model

        net = NetworkDeformer(find_model(asked.model))
        for steps in (0, 10):
            name = f"fewlabel, {net.name}, refine {steps}"
            tools[name] = partial(ours, How(refine=steps), net, protocol=protocol)
    if asked.ants_python:
        tools["antspyx SyN, defaults"] = partial(theirs, asked.ants_python, protocol=protocol)
    return tools


def rows_of(path):
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def table(rows):
    lines = [
        "| tool | pairs | seconds | CPU seconds | Dice | folded % |",
        "|---|---|---|---|---|---|",
    ]
    for tool in dict.fromkeys(row["tool"] for row in rows):
        own = [row for row in rows if row["tool"] == tool]
        wall, cpu, score, folded = (
            mean(float(row[key]) for row in own)
            for key in ("wall_s", "cpu_s", "dice", "folded_share")
        )
        lines.append(
            f"| {tool} | {len(own)} | {wall:.1f} | {cpu:.1f} | {score:.3f} | {100 * folded:.3f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
