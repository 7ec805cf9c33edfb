"""`stmoe gps --points DIR --timezone Asia/Tokyo --output_dir DATA/kyoto`"""

import argparse
import sys
from pathlib import Path

from ..data.description import describe
from ..data.errors import DataError
from ..data.gps import ALIGN, OUTLIERS, BadPoints, points_to_city, write_bad_rows
from ..data.points import NAMES, read_points
from .scaled import add_scale_arguments, is_scaled, run_scaled


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--points", help="csv or parquet file, folder of them, or folder of .plt files")
    parser.add_argument(
        "--output_dir", "--output", help="new folder for records, users and city.json; of --input, URL"
    )
    parser.add_argument("--timezone", help="whose clock gives days and slots, such as Asia/Tokyo")
    parser.add_argument("--times_in", help="zone of times that do not say theirs, such as UTC")
    parser.add_argument("--name", help="of the city; unset: the name of the folder")
    parser.add_argument("--cell_km", type=float, default=0.5, help="side of a cell in kilometres")
    parser.add_argument("--slot_minutes", type=int, default=30, help="length of a slot")
    grid = parser.add_mutually_exclusive_group()
    grid.add_argument("--bounds", type=float, nargs=4, metavar=("SOUTH", "WEST", "NORTH", "EAST"), help="of the grid")
    grid.add_argument("--grid_size", type=int, nargs=2, metavar=("WIDTH", "HEIGHT"), help="cells around the median")
    grid.add_argument("--like", help="folder of a city whose grid, place, slots and number of days are taken over")
    parser.add_argument("--first_date", help="first day, such as 2026-02-01; unset: that of the first point")
    parser.add_argument("--num_days", type=int, help="number of days; unset: up to the last point")
    parser.add_argument("--holidays", nargs="*", default=[], help="dates with the rhythm of a Sunday")
    parser.add_argument("--horizon_days", type=int, default=15, help="the last so many days are to be predicted")
    parser.add_argument("--skip_bad", action="store_true", help="leave impossible points out, and count them")
    parser.add_argument("--bad_rows", help="csv file to write with file, line and reason of each point left out")
    parser.add_argument("--align", choices=ALIGN, help="give each person a calendar of their own, with true weekdays")
    parser.add_argument(
        "--outliers",
        choices=OUTLIERS,
        default="refuse",
        help="times that are years away from all others; drop: also places far from where most points are",
    )
    parser.add_argument("--time_format", help="of times that are not in ISO 8601, such as '%%d/%%m/%%Y %%H:%%M'")
    parser.add_argument("--columns", help="names of the columns of files without a header, such as uid,-,lat,lng,time")
    for role, names in NAMES.items():
        parser.add_argument(f"--{role}_column", help=f"name of this column; unset: the first of {', '.join(names)}")
    add_scale_arguments(parser, like=False)


def run(args: argparse.Namespace) -> int:
    if args.output_dir is None:
        raise DataError("say what is to be written: --output_dir")
    if is_scaled(args, "points", "align", "bad_rows", "skip_bad", "columns", "times_in", "grid_size", both=("like",)):
        return _run_shards(args)
    if args.points is None or args.timezone is None:
        raise DataError("say where the points are and whose clock gives the days: --points and --timezone")
    like = None
    if args.like:
        described = describe(args.like)
        if described is None:
            raise DataError(f"there is no city.json in {args.like}")
        like = described[1]
    columns = {role: getattr(args, f"{role}_column") for role in NAMES if getattr(args, f"{role}_column")}
    try:
        city = points_to_city(
            read_points(args.points, columns, args.columns.split(",") if args.columns else None),
            timezone=args.timezone,
            name=args.name or Path(args.output_dir).name,
            cell_km=args.cell_km,
            slot_minutes=args.slot_minutes,
            bounds=tuple(args.bounds) if args.bounds else None,
            grid_size=tuple(args.grid_size) if args.grid_size else None,
            like=like,
            first_date=args.first_date,
            num_days=args.num_days,
            align=args.align,
            times_in=args.times_in,
            time_format=args.time_format,
            holidays=tuple(args.holidays),
            horizon_days=args.horizon_days,
            skip_bad=args.skip_bad,
            outliers=args.outliers,
        )
    except BadPoints as error:
        if args.bad_rows:
            write_bad_rows(error.rows, args.bad_rows)
        raise
    if args.bad_rows:
        write_bad_rows(city.bad, args.bad_rows)
    city.write(args.output_dir)
    grid, calendar = city.description.grid, city.description.calendar
    for line in city.said:
        print(line, file=sys.stderr)
    print("; ".join(f"{name} {count:,}" for name, count in city.counts.items()))
    print(
        f"{grid.width} x {grid.height} cells of {grid.cell_km:g} km, {calendar.num_days} days of {calendar.num_slots}"
        f" slots, to be predicted from day {city.description.cut_day} on: --data_path {args.output_dir}"
    )
    return 0


def _run_shards(args: argparse.Namespace) -> int:
    """Of a folder of shards nothing is fitted to the points: grid and days are those of --like, or all given."""
    from ..data.gps import fixed_description
    from ..scale.folders import Folder, describe_as, description_of
    from ..scale.points import GpsJob

    like = description_of(Folder(args.like)) if args.like else None
    if args.like and like is None:
        raise DataError(f"there is no city.json in {args.like}")
    if like is None or like.place is None:
        lacking = [name for name in ("timezone", "bounds", "first_date", "num_days") if getattr(args, name) is None]
        if lacking:
            raise DataError(
                f"points in shards need a grid and days that are given, not fitted: give --{lacking[0]}, or --like"
                " with the folder of a city.json that says where it lies"
            )
        like = fixed_description(
            args.name or "shards",
            args.timezone,
            tuple(args.bounds),
            args.first_date,
            args.num_days,
            cell_km=args.cell_km,
            slot_minutes=args.slot_minutes,
            holidays=tuple(args.holidays),
            horizon_days=args.horizon_days,
        )
    args.output = args.output_dir
    status = run_scaled(args, GpsJob(like.grid, like.calendar, like.place))
    describe_as(Folder(args.output), like)
    return status
