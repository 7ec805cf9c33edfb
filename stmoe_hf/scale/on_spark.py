"""The engine of a Spark cluster, or of a Spark that is started on this machine: each shard is a job of one task."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class SparkEngine:
    """Shards as Spark jobs, `workers` at a time; the Python workers of Spark keep their weights between them.

    A job of its own for each shard, so that a worker that dies takes no other shard with it and shards are told as
    they are done.

    Args:
        master: of a new session, such as local[4]; None: the session that is there, else what the configuration says.
        workers: jobs at a time; None: as many as the cluster has cores.
    """

    def __init__(self, master: str | None = None, workers: int | None = None):
        try:
            from pyspark.sql import SparkSession
        except ImportError:
            raise ValueError("--engine spark needs PySpark and Java: pip install 'stmoe-hf[spark]'") from None
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        self._started = SparkSession.getActiveSession() is None
        builder = SparkSession.builder.appName("stmoe")
        if master is not None:
            builder = builder.master(master)
        self._session = builder.getOrCreate()
        self._context = self._session.sparkContext
        self.slots = workers or self._context.defaultParallelism
        self._threads = ThreadPoolExecutor(self.slots, thread_name_prefix="shards")

    def submit(self, function: Callable[[Any], Any], shard: Any) -> Future:
        return self._threads.submit(self._job, function, shard)

    def _job(self, function: Callable[[Any], Any], shard: Any) -> Any:
        return self._context.parallelize([shard], 1).map(function).collect()[0]

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)
        if self._started:
            self._session.stop()
