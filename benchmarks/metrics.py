"""Time and memory of the metrics, beside the official package where it is installed.

    python benchmarks/metrics.py

The official package is `geobleu` by LY Corporation (setup.cfg names its repository as the extra `geobleu`). Both
sides score the same generated days on one core in one run.
"""

import inspect
import os
import resource
import time

import numpy as np
import pandas as pd

from common import machine, row, table
from stmoe_hf.metrics import EDITIONS, score
from stmoe_hf.metrics.score import _table

RECORDS_A_DAY = (8, 16, 24, 48)
OFFICIAL_DAYS, OUR_DAYS = 8, 4000
USERS, DAYS, RECORDS = 3000, 15, 20


def days(count: int, records: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Generated and true cells [count, records, 2]: two days among the same few places, with jitter."""
    places = random.integers(60, 140, (count, 4, 2))
    return tuple(
        np.take_along_axis(places, random.integers(0, 4, (count, records, 1)), 1)
        + random.integers(-1, 2, (count, records, 2))
        for _ in range(2)
    )


def seconds(call, times: int) -> float:
    """The shortest of some runs, in seconds."""
    shortest = np.inf
    for _ in range(times):
        start = time.perf_counter()
        call()
        shortest = min(shortest, time.perf_counter() - start)
    return shortest


def main() -> None:
    start = time.perf_counter()
    from stmoe_hf.metrics._kernels import dtw_day, geobleu_day

    random = np.random.default_rng(0)
    weights = _table(0.5)
    a, b = days(1, 8, random)
    geobleu_day(a[0], b[0], 3, 0.5, False, weights), dtw_day(a[0], b[0], 0.5, True)
    print(machine())
    print(f"compiling, or loading what was compiled: {time.perf_counter() - start:.1f} s\n")
    try:
        from geobleu import calc_dtw_orig, calc_geobleu_orig

        orders = inspect.signature(calc_geobleu_orig).parameters["max_n"].default
        edition = next(name for name, rules in EDITIONS.items() if rules.order == orders)
    except ImportError:
        calc_geobleu_orig, edition = None, "humob2024"
        print("the official package is not installed: its columns are empty\n")
    rules = EDITIONS[edition]
    print(f"One core, edition {edition}, microseconds a day (official: GEO-BLEU, DTW; here; ratio)\n")
    table("records a day", "official GEO-BLEU", "here", "ratio", "official DTW", "here", "ratio")
    for records in RECORDS_A_DAY:
        ours, theirs = days(OUR_DAYS, records, random)
        pairs = list(zip(ours, theirs, strict=True))

        def all_geobleu(pairs=pairs):
            for x, y in pairs:
                geobleu_day(x, y, rules.order, 0.5, rules.by_generated, weights)

        def all_dtw(pairs=pairs):
            for x, y in pairs:
                dtw_day(x, y, 0.5, rules.open_start)

        cells = [str(records)]
        for fast, official, options in (
            (all_geobleu, calc_geobleu_orig, {}),
            (all_dtw, calc_geobleu_orig and calc_dtw_orig, {"scale_factor": 2.0}),
        ):
            here = seconds(fast, 3) / OUR_DAYS
            if official is None:
                cells += ["-", f"{here * 1e6:.1f}", "-"]
                continue
            lists = [(x.tolist(), y.tolist()) for x, y in pairs[:OFFICIAL_DAYS]]

            def slow(lists=lists, official=official, options=options):
                for x, y in lists:
                    official(x, y, **options)

            there = seconds(slow, 2) / OFFICIAL_DAYS
            cells += [f"{there * 1e6:.0f}", f"{here * 1e6:.1f}", f"{there / here:.0f}"]
        row(*cells)

    print(f"\n{USERS} users x {DAYS} days x {RECORDS} records, both metrics and accuracy, {os.cpu_count()} cores:")
    ours, theirs = days(USERS * DAYS, RECORDS, random)
    slot = np.tile(np.sort(np.argsort(random.random((USERS * DAYS, 48)), 1)[:, :RECORDS], 1).ravel(), 1)
    keys = {
        "uid": np.repeat(np.arange(USERS), DAYS * RECORDS),
        "d": np.tile(np.repeat(np.arange(60, 60 + DAYS), RECORDS), USERS),
        "t": slot,
    }
    sides = [pd.DataFrame({**keys, "x": s[..., 0].ravel(), "y": s[..., 1].ravel()}) for s in (ours, theirs)]
    for name in EDITIONS:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        took = seconds(lambda name=name: score(*sides, name), 2)
        more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(f"- {name}: {took:.2f} s, {more:.0f} MB beyond the tables")


if __name__ == "__main__":
    main()
