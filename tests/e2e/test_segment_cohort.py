"""`fewlabel segment-cohort` in processes of its own, which are killed on the way."""

import csv
import importlib.util
import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest

from tests.band_model import band_model, box_grid, head_at

PROGRAM = Path(sys.executable).with_name("fewlabel")
PATIENCE_S = 600
pytestmark = pytest.mark.skipif(
    not importlib.util.find_spec("distributed"), reason="Dask is not installed"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Six small scans, the last one broken."""
    folder = tmp_path_factory.mktemp("data")
    head = head_at(box_grid((4.0, 4.0, 4.0), 192.0))
    image = nibabel.Nifti1Image(head.data.astype(np.int16), head.grid.affine)
    for n in range(1, 7):
        scan = folder / f"sub-{n:02d}" / "anat" / f"sub-{n:02d}_T1w.nii.gz"
        scan.parent.mkdir(parents=True)
        nibabel.save(image, scan)
    scan.write_bytes(b"not an image")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return band_model(tmp_path_factory.mktemp("models") / "bands", spacing_mm=4.0).folder


@pytest.fixture
def start(data, model, tmp_path):
    """Starts the command, whose output goes to files."""
    running = []

    def begin(*words):
        command = [str(PROGRAM), "segment-cohort", str(data), "--out", str(tmp_path / "out")]
        command += ["--model", str(model), "--threads", "1", *map(str, words)]
        with (tmp_path / "said").open("w") as said:
            process = subprocess.Popen(command, stdout=said, stderr=said, cwd=tmp_path)
        running.append(process)
        return process

    yield begin
    for process in running:
        process.kill()
        process.wait()


def whole(process, tmp_path):
    """Wait for the end, and check that all but the broken scan were segmented."""
    code = process.wait(PATIENCE_S)
    said = (tmp_path / "said").read_text()
    assert code == 1, said  # as one scan is broken
    with (tmp_path / "out" / "volumes.tsv").open() as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    assert [row["participant_id"] for row in rows] == [f"sub-{n:02d}" for n in range(1, 6)]
    assert len({row["Total-Brain"] for row in rows}) == 1
    assert len(finished(tmp_path)) == 5
    assert not list((tmp_path / "out").rglob(".*.sub-*")), "drafts are swept"
    with (tmp_path / "out" / "failures.tsv").open() as stream:
        (failure,) = csv.DictReader(stream, delimiter="\t")
    assert failure["scan"] == "sub-06/anat/sub-06_T1w.nii.gz"
    assert "is not an image that fewlabel reads" in failure["reason"]
    return said


def finished(tmp_path):
    """When each whole result was written."""
    records = (tmp_path / "out").rglob("*_dseg.json")
    return {path.name: path.stat().st_mtime_ns for path in records if path.name[0] != "."}


def wait_for_a_result(process, tmp_path):
    limit = time.monotonic() + PATIENCE_S
    while not finished(tmp_path) and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.01)


def workers_of(process):
    import psutil

    try:
        children = psutil.Process(process.pid).children(recursive=True)
        return [child for child in children if "spawn_main" in " ".join(child.cmdline())]
    except psutil.Error:
        return []


def test_a_killed_worker_and_a_killed_client_lose_nothing_that_was_finished(start, tmp_path):
    process = start("--workers", 2)
    wait_for_a_result(process, tmp_path)
    process.kill()
    process.wait()
    before = finished(tmp_path)

    process = start("--workers", 1)
    limit = time.monotonic() + PATIENCE_S
    while len(finished(tmp_path)) <= len(before) and process.poll() is None:
        assert time.monotonic() < limit
        time.sleep(0.01)
    for worker in workers_of(process)[:1]:
        worker.kill()

    whole(process, tmp_path)
    after = finished(tmp_path)
    assert {name: after[name] for name in before} == before, "what was finished is not redone"
    said = json.loads((tmp_path / "out" / "dataset_description.json").read_text())
    assert said["GeneratedBy"][0]["Name"] == "fewlabel"


@pytest.mark.slow
def test_a_scheduler_and_workers_that_were_started_separately_do_the_same(start, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    port = address.rpartition(":")[2]
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1"]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", address]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
    started = [subprocess.Popen([*dask, "--port", port, "--no-dashboard"], **quiet)]
    try:
        for n in range(2):
            command = [*worker, "--nthreads", "1", "--no-nanny", "--no-dashboard"]
            command += ["--local-directory", str(tmp_path / f"worker{n}")]
            started.append(subprocess.Popen(command, **quiet))
        process = start("--scheduler", address)
        wait_for_a_result(process, tmp_path)
        started[1].send_signal(signal.SIGKILL)

        whole(process, tmp_path)
    finally:
        for one in started:
            one.kill()
            one.wait()


def test_as_a_bids_app_only_those_who_are_named(data, model, tmp_path):
    words = [data, tmp_path / "out", "participant", "--participant-label", "02", "sub-05"]
    command = [PROGRAM, "segment-cohort", *words, "--model", model, "--workers", "1"]

    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert "2 of 2 scans: 2 segmented" in done.stdout
    assert sorted(finished(tmp_path)) == ["sub-02_dseg.json", "sub-05_dseg.json"]
    table = tmp_path / "out" / "volumes.tsv"
    table.unlink()
    command[4] = "group"
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    assert len(table.read_text().splitlines()) == 3


def test_strict_tells_of_results_with_warnings(data, model, tmp_path):
    words = [data, "--out", tmp_path / "out", "--model", model, "--workers", "1"]
    run = [str(word) for word in (PROGRAM, "segment-cohort", *words, "--participant-label", "02")]
    subprocess.run(run, check=True, capture_output=True)
    (record,) = (tmp_path / "out").glob("sub-02/anat/*_dseg.json")
    for warnings, code in (([], 0), (["odd"], 3)):
        said = json.loads(record.read_text())
        record.write_text(json.dumps(said | {"warnings": warnings}))
        done = subprocess.run([*run, "--strict"], capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        assert ("1 with warnings" in done.stdout) == bool(warnings)
