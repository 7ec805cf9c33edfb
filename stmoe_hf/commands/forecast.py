"""`stmoe forecast --points points.csv --timezone Europe/Berlin --days 7 --output forecast.parquet`"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from ..data.errors import DataError
from ..data.files import refuse_unwritable
from ..data.tables import TABLE_SUFFIXES, table_writer
from ..model.decoders import DECODERS
from .options import OWN_WEIGHTS, add_city_options, add_device, add_model, add_poi
from .scaled import add_scale_arguments, is_scaled, of_every_job, run_scaled, where_and_when

if TYPE_CHECKING:
    from ..prediction.forecast import ForecastSettings

EPILOG = """examples:
  stmoe forecast --points points.csv --timezone Europe/Berlin --days 7 --output week.parquet
  stmoe forecast --data_path trips/ --days 15 --top_k 3 --output cells.csv.gz
  stmoe forecast --data_path trips/ --samples 50 --slots 12-44 --output days.parquet
  stmoe forecast --input s3://bucket/people/ --days 7 --engine spark --output s3://bucket/week/"""


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the people's past is read from."""
    source = parser.add_argument_group("data: GPS points, or records")
    source.add_argument("--points", help="GPS points: csv, parquet, or a folder of them or of .plt files")
    source.add_argument("--timezone", help="of points: whose clock gives days and slots, such as Europe/Berlin")
    source.add_argument("--times_in", help="of points: zone of times that do not say theirs, such as UTC")
    source.add_argument("--align", choices=["person"], help="of points: each person has a calendar of their own")
    source.add_argument("--cell_km", type=float, help="of points: side of a cell in km (default 0.5)")
    source.add_argument("--slot_minutes", type=int, help="of points: length of a slot (default 30)")
    add_city_options(source)


def source_of(args: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """`data` and keywords of `open_source` that the command line gives."""
    if sum(bool(choice) for choice in (args.points, args.data_path, args.city)) != 1:
        raise DataError("say where the past is: one of --points FILE, --data_path FILE, or --city NAME --data_dir DIR")
    names: tuple[str, ...] = ("timezone", "times_in", "align", "cell_km", "slot_minutes")
    if not args.points:
        if given := [name for name in names if getattr(args, name) is not None]:
            raise DataError(f"--{given[0]} is said of points: give --points, or leave it out")
        names = ("city", "data_dir", "edition", "cache_dir")
    names += ("poi",)  # which not every command has
    values = {name: getattr(args, name) for name in names if getattr(args, name, None) is not None}
    return args.points or args.data_path, values


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog, parser.formatter_class = EPILOG, argparse.RawDescriptionHelpFormatter
    add_source_arguments(parser)
    what = parser.add_argument_group("what is forecast")
    what.add_argument("--days", type=int, default=7, help="days after each person's last one (default 7)")
    what.add_argument("--from", dest="from_date", metavar="DATE", help="first day for everybody: date, or number")
    what.add_argument("--slots", help="slots of a day to tell, such as 12-44 or 16,17,36 (default: all)")
    what.add_argument("--top_k", type=int, default=1, help="cells for each slot, the most probable first (default 1)")
    what.add_argument(
        "--decoder", choices=DECODERS, help="how cells are chosen (default: day for one cell a slot, mode for several)"
    )
    what.add_argument("--samples", type=int, default=0, help="draw this many whole days a person and day instead")
    run_group = parser.add_argument_group("how")
    run_group.add_argument(
        "--output", required=True, help=f"file to write: {', '.join(TABLE_SUFFIXES)}; of --input a folder or URL"
    )
    add_model(run_group, OWN_WEIGHTS, required=False)
    add_poi(run_group)
    add_device(run_group, people=16)
    add_scale_arguments(parser)


def slots_of(text: str | None) -> list[int] | None:
    """Slots of `12-44` or `16,17,36`."""
    if text is None:
        return None
    slots: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise DataError(f"--slots {text!r} must be numbers and ranges of slots, such as 12-44 or 16,17,36")
        slots += range(int(first), int(last or first) + 1)
    return slots


def run(args: argparse.Namespace) -> int:
    from ..data.sources import open_source  # heavy, and no part of the help
    from ..prediction.forecast import ForecastSettings, forecast_city
    from ..prediction.load import find_model

    settings = ForecastSettings(
        args.days, None, slots_of(args.slots), args.top_k, args.decoder, args.samples, args.batch_size
    )
    find_model(args.model)
    of_files = ("points", "data_path", "city", "poi", "timezone", "times_in", "align", "cell_km", "slot_minutes")
    if is_scaled(args, *of_files):
        return _run_shards(args, settings)
    output = Path(args.output)
    refuse_unwritable(output, TABLE_SUFFIXES)
    data, source = source_of(args)
    with open_source(data, **source) as city:
        how = {"from_date": args.from_date, "model": args.model, "device": args.device}
        rows = 0
        with table_writer(output) as write, tqdm(total=len(city), desc="forecast", unit="people") as bar:
            for table in forecast_city(city, settings, progress=bar.update, **how):
                write(table)
                rows += len(table)
        what = f"{settings.samples} drawn days each" if settings.samples else f"chosen by {settings.chosen_by}"
        print(f"{rows:,} rows for {len(city):,} people, {settings.days} days, {what}: {output}")
    return 0


def _run_shards(args: argparse.Namespace, settings: ForecastSettings) -> int:
    from ..prediction.forecast import day_of
    from ..scale.batches import ForecastJob

    where = where_and_when(args)
    if args.from_date is not None:
        settings = replace(settings, from_day=day_of(args.from_date, where.place, where.calendar))
    slots = None if settings.slots is None else tuple(settings.slots)
    return run_scaled(args, ForecastJob(**of_every_job(args, where), forecast=replace(settings, slots=slots)))
