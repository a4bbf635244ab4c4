"""Batches drawn ahead of time, so that training does not wait for data."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from fewlabel.train.stage import Batch

Job = Callable[[], Batch]


class Ahead:
    """Runs jobs in threads, a few ahead, and hands out their results in order.

    Threads do, because NumPy and torch let go of Python's lock while they compute, and
    because draws share no state: the order in which they run changes nothing.

    Args:
        jobs: Makers of batches, in the order of use.
        workers: Threads.

    Attributes:
        waited_s: Time spent in `next` until a batch was there.
    """

    def __init__(self, jobs: Iterator[Job], workers: int = 1) -> None:
        self.waited_s = 0.0
        self._jobs = jobs
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="fewlabel-draw")
        self._pending: deque[Future[Batch]] = deque()
        self._depth = workers + 1

    def __enter__(self) -> "Ahead":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def next(self) -> Batch:
        """The next batch.

        Raises:
            StopIteration: If the jobs are done.
        """
        while len(self._pending) < self._depth and (job := next(self._jobs, None)):
            self._pending.append(self._pool.submit(job))
        if not self._pending:
            raise StopIteration
        before = time.perf_counter()
        batch = self._pending.popleft().result()
        self.waited_s += time.perf_counter() - before
        return batch
