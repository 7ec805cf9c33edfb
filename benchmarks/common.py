"""What the benchmarks share: the machine in a line, arguments, tables, and sides of a comparison that run in turns.

Each side is a process of its own, so that a peak of memory is its own, and the sides run in turns, so that a busy
machine slows all of them alike; a figure is a median.
"""

import argparse
import importlib
import importlib.metadata
import inspect
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]

# What can be timed: a function sets a thing up, and gives the call to be timed and facts about it. With the fact
# `one_thread` the seconds are those of the processor.
Measure = tuple[Callable[[], object], dict]


def machine(*packages: str) -> str:
    """The machine, and the versions of these packages: what a figure must stand beside."""
    versions = [f"{package} {importlib.metadata.version(package)}" for package in packages]
    parts = (platform.machine(), f"{os.cpu_count()} cores", f"Python {platform.python_version()}", *versions)
    return ", ".join(parts)


def arguments(about: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the docstring of the script, as it stands there."""
    return argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)


def timing_arguments(about: str | None, seconds: float) -> argparse.ArgumentParser:
    """The same, with how long the sides are to run."""
    parser = arguments(about)
    parser.add_argument(
        "--seconds", type=float, default=seconds, help=f"run the sides for so long in all (default {seconds:g})"
    )
    return parser


def table(*titles: str) -> None:
    """The two lines that open a markdown table; `row` prints the others."""
    row(*titles)
    row(*["---"] * len(titles))


def row(*cells: object) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


class Side:
    """One side of a comparison: a process that sets a thing up, then runs it once for every line it is sent.

    `measure` is a function of a script of this folder, `given` its arguments, of JSON's types.
    """

    def __init__(self, measure: Callable[..., Measure], *given, **more):
        script = inspect.getsourcefile(measure) or ""
        command = [sys.executable, __file__, Path(script).stem, measure.__name__, json.dumps([given, more])]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (read when the process fails)
        self._process = subprocess.Popen(
            command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
        )
        self.seconds: list[float] = []
        self.mb = float("nan")
        self.facts = self._answer() or {}
        self.run()  # warms up
        self.seconds = []

    def run(self) -> None:
        if self._process.poll() is None:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
            if answer := self._answer():
                self.seconds.append(answer["seconds"])
                self.mb = answer["mb"]

    def _answer(self) -> dict | None:
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            print(f"(did not run: {(self._errors.read().strip().splitlines() or ['killed'])[-1][:200]})")
        return json.loads(line) if line else None

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()

    @property
    def median(self) -> float:
        return float(np.median(self.seconds)) if self.seconds else float("nan")


def take_turns(sides: dict[str, Side], seconds: float = 20, turns: int = 3) -> dict[str, Side]:
    """Run all sides in turns, at least `turns` times and for `seconds` in all; then end their processes."""
    start = time.monotonic()
    done = 0
    while done < turns or (time.monotonic() - start < seconds and done < 50):
        for side in sides.values():
            side.run()
        done += 1
    for side in sides.values():
        side.close()
    return sides


def ratio(slow: Side, fast: Side) -> float:
    """Median, over the turns, of how many times longer `slow` took."""
    pairs = list(zip(slow.seconds, fast.seconds, strict=False))
    return float(np.median([a / b for a, b in pairs])) if pairs else float("nan")


def serve(script: str, name: str, given: list, more: dict) -> None:
    """The process of a side: set up, then a run for each line of the input, answered by its seconds and the peak."""
    call, facts = getattr(importlib.import_module(script), name)(*given, **more)
    print(json.dumps(facts), flush=True)
    now = cpu_seconds if facts.get("one_thread") else time.perf_counter
    for _ in sys.stdin:
        _synchronise()
        start = now()
        call()
        _synchronise()
        seconds = now() - start
        print(json.dumps({"seconds": seconds, "mb": _peak_mb()}), flush=True)


def _on_gpu() -> bool:
    return "torch" in sys.modules and sys.modules["torch"].cuda.is_available()


def cpu_seconds() -> float:
    """Of this process and its ended children: what other processes of the machine do not lengthen."""
    return sum(os.times()[:4])


def _synchronise() -> None:
    if _on_gpu():
        sys.modules["torch"].cuda.synchronize()


def _peak_mb() -> float:
    """Of this process alone: what `getrusage` says includes what its parent held when it was started."""
    if _on_gpu():
        return sys.modules["torch"].cuda.max_memory_allocated() / 2**20
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], *json.loads(sys.argv[3]))
