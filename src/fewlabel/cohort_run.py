"""Segmenting a cohort with Dask: each worker holds one model and does one scan at a time."""

from collections import deque
from collections.abc import Iterator, Sequence
from hashlib import sha256
from threading import Lock
from typing import Any

from distributed import Client, KilledWorker, WorkerPlugin, as_completed, get_worker

from fewlabel.derivatives import Job, Told, remove_drafts
from fewlabel.engine import Compute
from fewlabel.errors import ModelFolderError
from fewlabel.modalities import Images
from fewlabel.model import ModelFolder, read_model
from fewlabel.predict import segment_one
from fewlabel.segmenter import Segmenter
from fewlabel.suited import Ready

_AHEAD = 2
"""Scans per worker that the scheduler knows of: one in work, one waiting."""


class OneModel(WorkerPlugin):  # type: ignore[misc]
    """Gives a worker its model, which is loaded when the first scan arrives.

    Args:
        model: Where it lies; workers on other machines must see the same folder.
        compute: What to run it on; without threads, those of the worker are taken.
    """

    def __init__(self, model: ModelFolder, compute: Compute) -> None:
        self.folder, self.sha256 = model.folder.absolute(), model.card.sha256["model.onnx"]
        self.compute = compute
        about = f"{self.folder} {self.sha256} {compute!r}"
        self.name = f"fewlabel-{sha256(about.encode()).hexdigest()[:16]}"

    def setup(self, worker: Any) -> None:
        """Called by Dask when it has brought this object to a worker."""
        threads = self.compute.threads or worker.state.nthreads
        self.compute = self.compute.model_copy(update={"threads": threads})
        self._one_at_a_time = Lock()
        self._segmenter: Segmenter | None = None

    def segment(self, job: Job) -> Told:
        """Segment one scan."""
        with self._one_at_a_time:
            remove_drafts(job.paths)
            outcome = segment_one(job.images, job.paths, self._ready, overwrite=True)
        if outcome.error is not None:
            return Told(job.scan, "failed", outcome.error.what, outcome.error.fix)
        warnings = outcome.segmentation.warnings if outcome.segmentation else ()
        return Told(job.scan, "segmented", " ".join(warnings))

    def _ready(self, images: Images) -> Ready:
        if self._segmenter is None:
            model = read_model(self.folder)
            if model.card.sha256["model.onnx"] != self.sha256:
                raise ModelFolderError(
                    f"{self.folder} holds another model here than where the cohort was started.",
                    fix="put the model on a file system that all machines share.",
                )
            self._segmenter = Segmenter(model, self.compute)
        return Ready(self._segmenter, images)


def segment_jobs(jobs: Sequence[Job], worker: OneModel, client: Client) -> Iterator[Told]:
    """Segment what is not finished; one scan that fails does not stop the others.

    Scans are handed out as workers get free, so a cohort of any size is as little trouble to the
    scheduler as a small one. A worker that is lost gives its scan back; a scan that has cost
    several workers their lives counts as failed.

    Args:
        jobs: The scans.
        worker: What is run on each.
        client: Knows the workers; more of them may come and go.

    Yields:
        What became of each scan, as they end.

    Raises:
        ModelFolderError: If the model cannot be run, which other scans would not change.
    """
    waiting = deque(jobs)
    client.register_plugin(worker)
    running: dict[Any, Job] = {}
    ended = as_completed()
    _hand_out(waiting, running, ended, worker, client)
    for future in ended:
        job = running.pop(future)
        _hand_out(waiting, running, ended, worker, client)
        yield _told(job, future)


def _hand_out(
    waiting: deque[Job], running: dict[Any, Job], ended: Any, worker: OneModel, client: Client
) -> None:
    expected = len(getattr(client.cluster, "worker_spec", ()))  # jobs may still be queued
    enough = _AHEAD * max(1, expected, len(client.nthreads()))
    while waiting and len(running) < enough:
        job = waiting.popleft()
        # The same name whoever asks: a client that was killed and started again takes up what
        # is still being worked on.
        place = f"{worker.name} {job.paths.labels.absolute()}"
        key = f"segment-{sha256(place.encode()).hexdigest()[:32]}"
        future = client.submit(_segment, worker.name, job, key=key)
        running[future] = job
        ended.add(future)


def _segment(plugin: str, job: Job) -> Told:
    found: Told = get_worker().plugins[plugin].segment(job)
    return found


def _told(job: Job, future: Any) -> Told:
    if future.cancelled():
        return Told(
            job.scan, "failed", "The scheduler was lost.", "start it and this command again."
        )
    problem = future.exception()
    if problem is None:
        found: Told = future.result()
        return found
    if isinstance(problem, ModelFolderError):
        raise problem
    if isinstance(problem, KilledWorker):
        what = "Each worker that had this scan was lost, perhaps for want of memory."
        return Told(job.scan, "failed", what, "take fewer workers, or set --max-memory.")
    return Told(
        job.scan,
        "failed",
        f"{type(problem).__name__}: {problem}",
        "report this with the scan, if you may share it.",
    )
