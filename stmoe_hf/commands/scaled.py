"""What `forecast`, `predict` and `gps` share where they do a folder of shards: --engine, --input and the rest."""

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from ..data.description import Description
from ..data.editions import get_edition
from ..data.errors import DataError
from ..model.spacetime import Grid

if TYPE_CHECKING:
    from ..scale.batches import Job
    from ..scale.run import Engine

ENGINES = ("local", "ray", "spark")
ONLY_HERE = ("engine", "workers", "max_bad", "replace", "like", "cluster")  # options that need --input


def add_scale_arguments(parser: argparse.ArgumentParser, like: bool = True) -> None:
    group = parser.add_argument_group("a folder or URL of shards, of one row a person (docs/scale.md)")
    add_folder(group, like)
    group.add_argument("--engine", choices=ENGINES, help="what does the shards (default local)")
    group.add_argument("--workers", type=int, help="shards at a time (default: as many as there are cores)")
    group.add_argument("--cluster", help="address of a Ray cluster, master of Spark (default: as configured, or here)")
    group.add_argument("--max_bad", type=int, help="so many rows may be unreadable (default 0); they are set aside")
    group.add_argument("--replace", action="store_true", default=None, help="replace what other settings have made")


def add_folder(group: "argparse._ArgumentGroup", like: bool = True) -> None:
    """--input, and --like where the shards do not say their city."""
    group.add_argument("--input", help="folder or URL of parquet files, as `stmoe partition` makes them")
    if like:
        group.add_argument("--like", help="folder or URL of a city.json; unset: that of --input, else the edition's")


def is_scaled(args: argparse.Namespace, *others: str, both: tuple[str, ...] = ()) -> bool:
    """Whether shards are to be done; DataError if options of the other way are given, but those of `both`."""
    if args.input is None:
        if given := [name for name in ONLY_HERE if getattr(args, name, None) is not None and name not in both]:
            raise DataError(f"--{given[0]} is said of a folder of shards: give --input")
        return False
    if given := [name for name in others if getattr(args, name, None) not in (None, False)]:
        raise DataError(f"--{given[0]} is not said of a folder of shards: leave it out, or leave --input out")
    return True


def where_and_when(args: argparse.Namespace) -> Description:
    """Grid, calendar and place of the shards."""
    from ..scale.folders import Folder, description_of

    found = description_of(Folder(args.like or args.input))
    if found is not None:
        return found
    if args.like:
        raise DataError(f"there is no city.json in {args.like}")
    edition = get_edition(getattr(args, "edition", None) or "humob2024")
    return Description("shards", "", Grid(), edition.calendar, edition.cut_day)


def of_every_job(args: argparse.Namespace, where: Description) -> dict[str, Any]:
    """What a job of any network is told: the grid, calendar and place of the data, the model and the device."""
    how: dict[str, Any] = {"grid": where.grid, "calendar": where.calendar, "place": where.place}
    return how | {"model": args.model, "device": args.device, "field": args.field}


def run_scaled(args: argparse.Namespace, job: "Job") -> int:
    """Do the shards, and say what came of it."""
    from ..scale.run import run_shards, with_columns

    job = with_columns(job, args.input).pinned()  # before the bar: it may have something to say
    with engine_of(args) as engine, tqdm(desc=job.kind, unit="people") as bar:
        done = run_shards(
            job,
            args.input,
            args.output,
            engine,
            max_bad=args.max_bad or 0,
            replace_others=bool(args.replace),
            progress=bar.update,
        )
    print(
        f"{done.rows:,} rows for {done.people:,} people in {done.shards:,} shards, {done.done_now:,} of them done now:"
        f" {args.output}"
    )
    if done.bad:
        print(f"{done.bad:,} rows could not be read: {args.output}/_quarantine", file=sys.stderr)
    return 0


@contextlib.contextmanager
def engine_of(args: argparse.Namespace) -> "Iterator[Engine]":
    """The engine that the options say, closed at the end."""
    if args.workers is not None and args.workers < 1:
        raise DataError(f"--workers is {args.workers}; it must be at least 1")
    engine = _engines()[args.engine or "local"](args)
    try:
        yield engine
    finally:
        engine.close()


def _engines() -> dict[str, Callable[[argparse.Namespace], Any]]:
    """Each imported only where it is chosen."""

    def local(args: argparse.Namespace) -> Any:
        from ..scale.local import LocalEngine

        if args.cluster:
            raise DataError("--cluster is said of Ray or Spark: give --engine ray or spark")
        return LocalEngine(args.workers or os.cpu_count() or 1)

    def ray(args: argparse.Namespace) -> Any:
        from ..scale.on_ray import RayEngine

        return RayEngine(args.cluster, args.workers)

    def spark(args: argparse.Namespace) -> Any:
        from ..scale.on_spark import SparkEngine

        return SparkEngine(args.cluster, args.workers)

    return {"local": local, "ray": ray, "spark": spark}
