"""Shards extracted by several processes: one that dies is started again, and costs the others nothing."""

import contextlib
import functools
import multiprocessing
import os
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from mtjax.data.catalog import Clip
from preprocessing.extraction import backends
from preprocessing.extraction.progress import Progress
from preprocessing.extraction.shards import ShardReport, extract_shard

MAX_DEATHS = 3  # in one shard; whatever kills a worker every time would kill the next one, too


def extract_in_processes(
    job: Mapping[str, Any], shards: Mapping[int, Sequence[Clip]], num_workers: int, progress: Progress
) -> Iterator[ShardReport]:
    """Reports as shards end.

    Args:
      job: the arguments of `extract_shard` that all shards share.

    Raises:
      BrokenProcessPool: workers died of one shard again and again.
    """
    todo, deaths = deque(shards), Counter()
    workers = [_Worker(number, job) for number in range(min(num_workers, len(shards)))]
    try:
        for worker in workers:
            shard = todo.popleft()
            worker.begin(shard, shards[shard])
        while running := [w.future for w in workers if w.future]:
            done, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
            for number, worker in enumerate(workers):
                worker.report_to(progress)
                if worker.future not in done:
                    continue
                try:
                    yield worker.future.result()
                except BrokenProcessPool:
                    deaths[worker.shard] += 1
                    if deaths[worker.shard] == MAX_DEATHS:
                        raise
                    progress.add(-worker.written, -worker.failed)
                    progress.say(
                        f"worker {number} died in shard {worker.shard} (out of memory?) and is started again; "
                        f"{deaths.total()} so far"
                    )
                    todo.appendleft(worker.shard)
                    worker.close()
                    workers[number] = worker = _Worker(number, job)
                worker.future = None
                if todo:
                    shard = todo.popleft()
                    worker.begin(shard, shards[shard])
    except BaseException:
        # Ctrl-C or a full disk: the pools would first end the shards that they have begun.
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        for worker in workers:
            worker.close()


class _Worker:
    """One process, by a pool of its own: a pool whose process dies is lost as a whole.

    Attributes:
      shard: that it works on, and `future` its report; None when it has nothing to do.
      written, failed: clips of this shard so far.
    """

    def __init__(self, number: int, job: Mapping[str, Any]):
        # Spawned, because a fork of a process with threads (OpenCV's, PyTorch's) may hang.
        context = multiprocessing.get_context("spawn")
        self._events = context.Queue()  # its own: a process killed while it writes would block the others
        self._pool = ProcessPoolExecutor(
            1, mp_context=context, initializer=_start, initargs=(job, self._events, os.getpid(), number)
        )
        self.shard, self.future = -1, None
        self.written = self.failed = 0

    def begin(self, shard: int, clips: Sequence[Clip]) -> None:
        self.shard, self.written, self.failed = shard, 0, 0
        self.future: Future | None = self._pool.submit(_extract, shard, clips)

    def report_to(self, progress: Progress) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                written, failed = self._events.get_nowait()
                self.written, self.failed = self.written + written, self.failed + failed
                progress.add(written, failed)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._events.close()


_job = None  # of a worker process, sent once: with masks or a model it is large


def _start(job: Mapping[str, Any], events: multiprocessing.Queue, parent: int, number: int) -> None:
    global _job
    backends.use_device_of_worker(number)
    _job = functools.partial(extract_shard, **job, progress=lambda written, failed: events.put((written, failed)))

    def die_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)  # a killed parent's workers would otherwise hold their shards' locks

    threading.Thread(target=die_with_parent, daemon=True).start()


def _extract(shard: int, clips: Sequence[Clip]) -> ShardReport:
    return _job(shard=shard, clips=clips)
