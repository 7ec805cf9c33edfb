"""What engines and workers cost and bring, how fast points become records, and what breaks first.

    python benchmarks/scale.py people --count 100 1000 --configurations local:1 local:2 ray:2 spark:2 --rounds 2
    python benchmarks/scale.py whole --count 40                       # the day decoder, seven whole days
    python benchmarks/scale.py points --count 20000000                # partition and gps; --formats parquet: no csv
    python benchmarks/scale.py many --count 1000000                   # tiny people, and rows of the manifest

People are generated ones (`stmoe synthesize`). Of `people`, each round runs every configuration once, so that whatever
else the machine does falls on all of them; ratios are taken within a round.
"""

import argparse
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import torch

import stmoe_hf
from stmoe_hf.data.editions import EDITIONS
from stmoe_hf.data.gps import fixed_description
from stmoe_hf.data.synthetic import synthesize
from stmoe_hf.scale import run as scale_run
from stmoe_hf.scale.batches import forecast_job
from stmoe_hf.scale.folders import Folder, locked, state
from stmoe_hf.scale.local import LocalEngine
from stmoe_hf.scale.partition import partition
from stmoe_hf.scale.points import GpsJob
from stmoe_hf.scale.run import run_shards
from stmoe_hf.scale.shards import Done

CALENDAR = EDITIONS["humob2024"].calendar


def peak_gb(_: Any = None) -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def engine_of(configuration: str) -> Any:
    name, _, workers = configuration.partition(":")
    if name == "local":
        return LocalEngine(int(workers))
    if name == "ray":
        from stmoe_hf.scale.on_ray import RayEngine

        return RayEngine(workers=int(workers))
    from stmoe_hf.scale.on_spark import SparkEngine

    return SparkEngine(f"local[{workers}]")


def generated(folder: Path, people: int, files: int) -> Path:
    """Generated people as shards."""
    synthesize("B", people, seed=1, output_dir=folder / "city")
    partition(str(folder / "city"), str(folder / "people"), files=files)
    return folder / "people"


def timed(action: Callable, *args: Any, **options: Any) -> tuple[Any, float, float]:
    """What an action returns, the seconds that it takes, and those of a core: on a busy machine these tell more."""
    start, begun = time.monotonic(), time.process_time()
    found = action(*args, **options)
    return found, time.monotonic() - start, time.process_time() - begun


def compare_engines(args: argparse.Namespace) -> None:
    """Wall-clock time of each configuration: start of the engine, first shard, all shards."""
    job = forecast_job(days=1, decoder="mode", calendar=CALENDAR, device="cpu")
    for count in args.count:
        with tempfile.TemporaryDirectory() as folder:
            people = generated(Path(folder), count, args.shards)
            walls: dict[str, list[float]] = {name: [] for name in args.configurations}
            for number in range(args.rounds):
                for name in args.configurations:
                    first: list[float] = []
                    start = time.monotonic()
                    engine = engine_of(name)
                    begun = time.monotonic() - start
                    try:
                        output = f"{folder}/{name}-{number}"
                        run_shards(
                            job, str(people), output, engine, progress=lambda n, f=first: f.append(time.monotonic())
                        )
                        wall = time.monotonic() - start
                        memory = engine.submit(peak_gb, None).result()
                    finally:
                        engine.close()
                    walls[name].append(wall)
                    after_first, rest = wall - (first[1] - start), count * (1 - 1 / args.shards)
                    print(
                        f"{count:7,} people  {name:8} round {number}: {wall:7.1f} s, engine {begun:5.1f} s, the first"
                        f" shard {first[1] - start:5.1f} s, then {rest / after_first:6.1f}"
                        f" people/s; a worker had {memory:.2f} GB, this process {peak_gb():.2f} GB",
                        flush=True,
                    )
            base = args.configurations[0]
            for name in args.configurations[1:]:
                ratio = [one / other for one, other in zip(walls[base], walls[name], strict=True)]
                each = ", ".join(f"{value:.2f}" for value in ratio)
                print(f"{count:7,} people  {base} / {name}: {statistics.median(ratio):.2f} times as fast ({each})")


def whole_days(args: argparse.Namespace) -> None:
    """People a second of seven whole days, by the day decoder (the default forecast) and as five cells a slot."""
    for count in args.count:
        with tempfile.TemporaryDirectory() as folder:
            people = generated(Path(folder), count, 1)
            batches = list(pq.ParquetFile(people / "part-00000.parquet").iter_batches(args.batch))
            for title, how in {"day decoder": {}, "five cells a slot": {"top_k": 5}}.items():
                for device in args.devices:
                    job = forecast_job(days=7, calendar=CALENDAR, device=device, **how)
                    list(job(batches[:1]))  # loads and compiles
                    _, wall, core = timed(list, job(batches))
                    print(
                        f"{count} people, {title}, 7 days, {device}: {count / wall:.2f} people/s of wall-clock,"
                        f" {count / core:.2f} a core second; {peak_gb():.2f} GB",
                        flush=True,
                    )


def points(args: argparse.Namespace) -> None:
    """Points a second and memory of `partition` and of `gps`, on one core."""
    for count in args.count:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "points")
            source.mkdir()
            _write_points(source, count)
            size = sum(file.stat().st_size for file in source.iterdir()) / 1e9
            for kind in args.formats:
                if kind == "csv":
                    _as_csv(source)
                counts, wall, core = timed(partition, str(source), f"{folder}/{kind}", files=16)
                print(
                    f"{count:,} points of {counts.people:,} people, {kind}: partition {count / wall / 1e6:.2f} M"
                    f" points/s of wall-clock, {count / core / 1e6:.2f} M a core second; {peak_gb():.2f} GB",
                    flush=True,
                )
            found = fixed_description("b", "Europe/Berlin", (52.3, 13.1, 52.7, 13.7), "2026-03-01", 31)
            gps = GpsJob(found.grid, found.calendar, found.place, with_user=False)
            engine = LocalEngine(1)
            done, wall, core = timed(run_shards, gps, f"{folder}/{args.formats[0]}", f"{folder}/records", engine)
            engine.close()
            print(
                f"{count:,} points, {size:.2f} GB of parquet: gps {count / wall / 1e6:.2f} M points/s of wall-clock,"
                f" {count / core / 1e6:.2f} M a core second; {done.people:,} people; {peak_gb():.2f} GB"
            )


def _write_points(folder: Path, count: int) -> None:
    """Points in any order of people who have 2,000 each, some millions a file."""
    random = np.random.default_rng(0)
    people = max(1, count // 2000)
    for number, first in enumerate(range(0, count, 5_000_000)):
        n = min(5_000_000, count - first)
        stamp = np.datetime64("2026-03-01", "us") + random.integers(0, 30 * 86_400_000_000, n).astype("m8[us]")
        table = pa.table(
            {
                "uid": random.integers(0, people, n),
                "latitude": random.normal(52.5, 0.03, n),
                "longitude": random.normal(13.4, 0.05, n),
                "time": pa.array(stamp, pa.timestamp("us", "UTC")),
            }
        )
        pq.write_table(table, folder / f"{number:04d}.parquet")


def _as_csv(folder: Path) -> None:
    for file in sorted(folder.glob("*.parquet")):
        pa.csv.write_csv(pq.read_table(file), file.with_suffix(".csv"))
        file.unlink()


class _Many(Folder):
    """A folder of so many files that are not there."""

    names: dict[str, dict[str, Any]]

    def files(self) -> dict[str, dict[str, Any]]:
        return self.names


def many(args: argparse.Namespace) -> None:
    """A million people of three records; and a manifest of a million shards, without their files."""
    for count in args.count:
        with tempfile.TemporaryDirectory() as folder:
            uid = np.random.default_rng(0).permutation(np.repeat(np.arange(count), 3))
            rows = np.arange(len(uid))
            table = {"uid": uid, "d": rows * 7 % 60, "t": rows % 48, "x": rows % 200 + 1, "y": rows % 199 + 1}
            Path(folder, "records").mkdir()
            pq.write_table(pa.table(table), f"{folder}/records/all.parquet")
            for files in args.files:
                name = f"{folder}/p{files}"
                counts, wall, core = timed(partition, f"{folder}/records", name, files=files)
                print(
                    f"{counts.people:,} people, {files} files: partition {wall:.1f} s ({core:.1f} of a core),"
                    f" {peak_gb():.2f} GB",
                    flush=True,
                )
            place = _Many(f"{folder}/run")
            place.names = {f"part-{i:07d}.parquet": {"size": i, "mtime": float(i)} for i in range(count)}
            Path(folder, "run").mkdir()
            hexes = "0" * 64
            known = {
                name: Done(name, state(info), f"{number:064x}", hexes, 1, 1, 0, "")
                for number, (name, info) in enumerate(place.names.items())
            }
            with locked(place) as lock:
                _, wall, core = timed(scale_run._save, place, known, lock)
            size = Path(folder, "run", scale_run.MANIFEST).stat().st_size / 2**20
            print(
                f"manifest of {count:,} shards: written in {wall:.1f} s ({core:.1f} of a core), {size:.0f} MB;"
                f" {peak_gb():.2f} GB",
                flush=True,
            )
            place.names[scale_run.MANIFEST] = {}
            inputs = {name: shard.input_state for name, shard in known.items()}
            found, wall, core = timed(scale_run._found_done, place, place, inputs, hexes)
            print(
                f"a rerun finds {len(found):,} of them done in {wall:.1f} s ({core:.1f} of a core); {peak_gb():.2f} GB"
            )


def versions() -> str:
    found = {"stmoe_hf": stmoe_hf.__version__, "torch": torch.__version__, "pyarrow": pa.__version__}
    for name in ("ray", "pyspark"):
        if name in sys.modules:
            found[name] = sys.modules[name].__version__
    return ", ".join(f"{name} {version}" for name, version in found.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["people", "whole", "points", "many"])
    parser.add_argument("--count", type=int, nargs="+", required=True)
    parser.add_argument("--configurations", nargs="+", default=["local:1", "local:2"])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--formats", nargs="+", default=["parquet", "csv"], choices=["parquet", "csv"])
    parser.add_argument("--shards", type=int, default=10)
    parser.add_argument("--devices", nargs="+", default=["cpu"], help="of `whole`: cpu, cuda (default cpu)")
    parser.add_argument("--batch", type=int, default=16, help="of `whole`: people of a batch (default 16)")
    parser.add_argument("--files", type=int, nargs="+", default=[16, 1024])
    args = parser.parse_args()
    cores, load = os.cpu_count(), os.getloadavg()[0]
    print(f"{platform.machine()}, {cores} cores, load {load:.1f} at the start, Python {platform.python_version()}")
    {"people": compare_engines, "whole": whole_days, "points": points, "many": many}[args.what](args)
    print(f"{versions()}; load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
