"""The engine of a Ray cluster, or of a Ray that is started on this machine: each shard is a task."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class RayEngine:
    """Shards as Ray tasks of one core each; the processes of Ray keep their weights between them.

    Args:
        address: of a cluster; None: that of RAY_ADDRESS, else one that is started on this machine.
        workers: tasks at a time; None: all cores of the cluster.
        gpus: of a GPU that a task needs, such as 0.25.
    """

    def __init__(self, address: str | None = None, workers: int | None = None, gpus: float = 0):
        try:
            import ray
        except ImportError:
            raise ValueError("--engine ray needs Ray: pip install 'stmoe-hf[ray]'") from None
        self._ray: Any = ray
        self._started = not self._ray.is_initialized()
        if self._started:
            address = address or os.environ.get("RAY_ADDRESS")  # as set by `ray job submit`
            own: dict[str, Any] = (
                {"address": address} if address else {"num_cpus": workers, "include_dashboard": False}
            )
            self._ray.init(log_to_driver=False, logging_level="warning", **own)
        self.slots = workers or int(self._ray.cluster_resources().get("CPU", 1))
        # We count the tries ourselves, the same on all engines.
        self._remote = self._ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(_call)

    def submit(self, function: Callable[[Any], Any], shard: Any) -> Future:
        return self._remote.remote(function, shard).future()

    def close(self) -> None:
        if self._started:
            self._ray.shutdown()


def _call(function: Callable[[Any], Any], shard: Any) -> Any:
    return function(shard)
