"""Throughput of `fewlabel segment-cohort`, and what is left when processes are killed.

    python -m benchmarks.speed.cohort [--scans 200] [--model NAME|FOLDER]

A BIDS data set of small scans is made (the embedded example at 2 mm, a little noise each), and
segmented four times: by one worker, by two, by two with `kill -9` of a worker and of the client on
the way, and by a Dask scheduler with two workers that were started separately, of which one is
killed. Each worker has one thread. Of each run: scans per minute, whether every scan was done
exactly once, and whether labels equal those of the first run. Throughput counts from the first to
the last record, so that starting is left out; `wall_s` has it. What two cores can give at most is
seen when one or two processes of `fewlabel segment` share the scans, without a cohort. Rows go to
benchmarks/results/cohort_speed.csv.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path

import nibabel
import numpy as np
import psutil

from benchmarks.common import RESULTS, add_rows, provenance
from fewlabel.conform import conform, upright
from fewlabel.io import read_scan
from fewlabel.predict import EXAMPLE

PROGRAM = Path(sys.executable).with_name("fewlabel")
LIMITS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def write_data(folder: Path, count: int, spacing_mm: float) -> None:
    """The data set."""
    example = read_scan(EXAMPLE)
    small = conform(example, upright(example.grid, spacing_mm))
    rng = np.random.default_rng(0)
    for n in range(count):
        noisy = small.data + rng.normal(0, 0.01 * small.data.max(), small.data.shape)
        image = nibabel.Nifti1Image(noisy.clip(0).astype(np.int16), small.grid.affine)
        place = folder / f"sub-{n:04d}" / "anat"
        place.mkdir(parents=True)
        nibabel.save(image, place / f"sub-{n:04d}_T1w.nii.gz")
    described = {"Name": "small heads", "BIDSVersion": "1.10.0"}
    (folder / "dataset_description.json").write_text(json.dumps(described))


def start(data: Path, out: Path, words: list[str], asked: argparse.Namespace) -> subprocess.Popen:
    """The command, on its way."""
    command = [str(PROGRAM), "segment-cohort", str(data), "--out", str(out), *words]
    command += ["--threads", "1", *(["--model", asked.model] if asked.model else [])]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | LIMITS)


def records(out: Path) -> dict[str, int]:
    """When each record was written, in ns."""
    return {path.name: path.stat().st_mtime_ns for path in out.rglob("sub-*_dseg.json")}


def wait_for(process: subprocess.Popen, out: Path, count: int) -> None:
    """Until so many scans are finished."""
    while process.poll() is None and len(records(out)) < count:
        time.sleep(0.02)


def plain(data: Path, out: Path, asked: argparse.Namespace, workers: int) -> str:
    """So many local workers, left alone."""
    code = start(data, out, ["--workers", str(workers)], asked).wait()
    return "" if code == 0 else f"exit code {code}"


def with_kills(data: Path, out: Path, asked: argparse.Namespace) -> str:
    """A worker and then the client are killed; then the command is given again."""
    process = start(data, out, ["--workers", "2"], asked)
    wait_for(process, out, asked.scans // 5)
    workers = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "spawn_main" in " ".join(child.cmdline())
    ]
    workers[0].kill()
    wait_for(process, out, asked.scans // 2)
    process.kill()
    process.wait()
    before = records(out)
    again = plain(data, out, asked, 2)
    redone = sum(records(out)[name] != then for name, then in before.items())
    return again or (f"{redone} done twice" if redone else "")


def separately(data: Path, out: Path, asked: argparse.Namespace) -> str:
    """A scheduler and two workers of their own, one of which is killed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    address = f"tcp://127.0.0.1:{port}"
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1"]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1"]
    commands = [[*dask, "--port", port, "--no-dashboard"]]
    commands += [
        [*worker, "--no-nanny", "--no-dashboard", "--local-directory", str(out.parent)]
    ] * 2
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started = [subprocess.Popen(c, env=os.environ | LIMITS, **quiet) for c in commands]
    try:
        process = start(data, out, ["--scheduler", address], asked)
        wait_for(process, out, asked.scans // 2)
        started[1].kill()
        code = process.wait()
    finally:
        for one in started:
            one.kill()
            one.wait()
    return "" if code == 0 else f"exit code {code}"


def by_hand(data: Path, out: Path, asked: argparse.Namespace, processes: int) -> str:
    """No cohort: `fewlabel segment` on equal parts of the scans, at the same time."""
    scans = sorted(map(str, data.rglob("*_T1w.nii.gz")))
    words = ["--threads", "1", *(["--model", asked.model] if asked.model else [])]
    started = [
        subprocess.Popen(
            [str(PROGRAM), "segment", *scans[n::processes], "--out", str(out / str(n)), *words],
            stdout=subprocess.DEVNULL,
            env=os.environ | LIMITS,
        )
        for n in range(processes)
    ]
    codes = [one.wait() for one in started]
    return "" if not any(codes) else f"exit codes {codes}"


def contents(out: Path) -> dict[str, str]:
    """Hash of each label map and table of volumes."""
    files = [*out.rglob("sub-*_dseg.nii.gz"), *out.rglob("sub-*_volumes.tsv")]
    return {file.name: sha256(file.read_bytes()).hexdigest() for file in files}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scans", type=int, default=200)
    parser.add_argument("--spacing", type=float, default=2.0, help="mm")
    parser.add_argument("--model", help="by default the embedded one")
    parser.add_argument("--only", default="", help="ways that have this in their names")
    parser.add_argument("--place", type=Path, help="where the data set and results go")
    parser.add_argument("--note", default="", help="what else the machine was doing")
    asked = parser.parse_args()
    ways = {
        "1 worker": lambda data, out: plain(data, out, asked, 1),
        "2 workers": lambda data, out: plain(data, out, asked, 2),
        "2 workers, a worker and the client killed": lambda d, out: with_kills(d, out, asked),
        "separate scheduler, a worker killed": lambda data, out: separately(data, out, asked),
        "no cohort, 1 process": lambda data, out: by_hand(data, out, asked, 1),
        "no cohort, 2 processes": lambda data, out: by_hand(data, out, asked, 2),
    }
    ways = {way: run for way, run in ways.items() if asked.only in way}
    with tempfile.TemporaryDirectory(dir=asked.place) as temporary:
        data, first, single = Path(temporary) / "data", None, 0.0
        write_data(data, asked.scans, asked.spacing)
        for way, run in ways.items():
            out = Path(temporary) / "out"
            begin = time.perf_counter()
            wrong = run(data, out)
            wall = time.perf_counter() - begin
            times = sorted(records(out).values())
            rate = 60e9 * (len(times) - 1) / max(1, times[-1] - times[0])
            found = contents(out)
            first, single = first or found, single or rate
            table = out / "volumes.tsv"
            listed = len(table.read_text().splitlines()) - 1 if table.exists() else ""
            row = provenance(asked.note) | {
                "way": way,
                "scans": asked.scans,
                "finished": len(times),
                "in_table": listed,
                "wrong": wrong or "nothing",
                "equal_to_first": str(found == first),
                "wall_s": f"{wall:.1f}",
                "scans_per_minute": f"{rate:.1f}",
                "times_one_worker": f"{rate / single:.2f}",
            }
            add_rows(RESULTS / "cohort_speed.csv", [row])
            print({key: row[key] for key in list(row)[5:]}, flush=True)
            shutil.rmtree(out)


if __name__ == "__main__":
    main()
