"""Freed memory is kept on glibc, unless the environment says how to allocate."""

import os
import platform
import subprocess
import sys

import pytest

from stmoe_hf.training import memory

FAULTS = """
import resource, torch
from stmoe_hf.training.memory import keep_freed_memory
def allocate():
    for _ in range(5):
        torch.ones(64, 2**20, dtype=torch.uint8)
before = keep_freed_memory()
allocate()
start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
allocate()
print(before, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start)
"""


def faults(**environment: str) -> tuple[str, int]:
    """Whether memory is kept, and how often the system gave a page of five tensors of 64 MiB."""
    usual = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    call = [sys.executable, "-c", FAULTS]
    kept, count = subprocess.run(
        call, env=usual | environment, capture_output=True, text=True, check=True
    ).stdout.split()
    return kept, int(count)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is glibc's")
def test_large_tensors_that_are_freed_are_given_again_without_the_system():
    kept, few = faults()
    assert kept == "True" and few < 10
    kept, many = faults(MALLOC_TRIM_THRESHOLD_="131072")
    assert kept == "False" and many > 100


def test_elsewhere_nothing_is_changed(monkeypatch):
    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("", ""))
    assert memory.keep_freed_memory() is False
