"""The engine of one machine: each worker a process; with one worker, this process."""

from __future__ import annotations

import multiprocessing
import multiprocessing.context
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any


def _context() -> multiprocessing.context.BaseContext:
    """Processes are forked from one that has imported all and begun nothing, so that only the first takes seconds."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["stmoe_hf.scale.shards"])
    return context


class LocalEngine:
    """`workers` processes, each with a thread here that gives it one shard after another.

    A process that dies (killed, or out of memory) takes only its own shard with it: the thread begins another process.
    """

    def __init__(self, workers: int = 1):
        self.slots = workers
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="shards")
        self._own = threading.local()
        self._processes: set[ProcessPoolExecutor] = set()

    def submit(self, function: Callable[[Any], Any], shard: Any) -> Future:
        if self.slots == 1:
            return self._threads.submit(function, shard)
        return self._threads.submit(self._elsewhere, function, shard)

    def _elsewhere(self, function: Callable[[Any], Any], shard: Any) -> Any:
        process = getattr(self._own, "process", None)
        if process is None:
            process = ProcessPoolExecutor(1, _context())
            self._own.process = process
            self._processes.add(process)
        try:
            return process.submit(function, shard).result()
        except BrokenProcessPool:
            self._own.process = None
            self._processes.discard(process)
            raise RuntimeError("the process that did it died: killed, or out of memory") from None

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)
        for process in self._processes:
            process.shutdown(wait=False, cancel_futures=True)
