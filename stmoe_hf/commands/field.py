"""`stmoe field --city B --data_dir DIR --until 60 --output city.parquet`"""

import argparse
from pathlib import Path

from ..data.files import refuse_unwritable
from ..data.geography import Place
from ..model.spacetime import Calendar
from .options import add_city_options, open_chosen_city
from .scaled import add_folder, is_scaled, where_and_when

EPILOG = """examples:
  stmoe field --data_path trips/ --min_people 5 --output city.parquet
  stmoe field --input people/ --until 60 --output city.parquet
  stmoe forecast --input people/ --field city.parquet --output week/"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog, parser.formatter_class = EPILOG, argparse.RawDescriptionHelpFormatter
    add_city_options(parser)
    add_folder(parser.add_argument_group("or a folder or URL of shards, of one row a person (docs/scale.md)"))
    parser.add_argument("--until", metavar="DATE", help="first day that is not counted: date, or number; unset: none")
    parser.add_argument("--min_people", type=int, default=5, help="behind each number that is kept (default 5)")
    parser.add_argument("--output", required=True, help="file to write: .parquet")


def run(args: argparse.Namespace) -> int:
    from ..data.city_counts import count_city, count_people, told_of  # heavy, and no part of the help

    output = Path(args.output)
    refuse_unwritable(output, (".parquet",))
    if not is_scaled(args, "city", "data_dir", "data_path"):
        city = open_chosen_city(args)
        until = _until(args.until, city.place, city.calendar)
        counts = count_city(city, until, args.min_people)
    else:
        from ..scale.city_of_folder import cities_of_folder

        where = where_and_when(args)
        until = _until(args.until, where.place, where.calendar)
        told = told_of(where.calendar, where.place)
        people = cities_of_folder(args.input, where)
        counts = count_people(people, until, args.min_people, where.grid, told, where.name)
    counts.save(output)
    print(
        f"{len(counts.cells):,} cells of {counts.num_people:,} people before day {until}, each number of at least"
        f" {args.min_people}: {output}"
    )
    return 0


def _until(said: str | None, place: Place | None, calendar: Calendar) -> int:
    """The first day that is not counted: of a date, or by its number, as all people have them."""
    from ..prediction.forecast import day_of

    if said is None:
        return calendar.last_day + 1
    return int(said) if said.isdecimal() else day_of(said, place, calendar)
