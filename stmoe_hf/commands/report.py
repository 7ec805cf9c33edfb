"""`stmoe report runs/cityB --output report.html`"""

import argparse
from importlib.util import find_spec
from pathlib import Path

from ..data.errors import DataError
from .options import add_data_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="folder of a run; or a file of predictions or of a forecast")
    parser.add_argument("--output", required=True, help="HTML file to write; it opens without a network")
    parser.add_argument("--truth", help="file of the true records, earlier days too (a run knows its own)")
    add_data_path(parser, "folder with the city.json, or file, of the city of a forecast", "--data_dir", "--data")
    parser.add_argument("--edition", help="humob2023, humob2024 or humob2025, where no city.json says the days")
    parser.add_argument("--anonymous", action="store_true", help="numbers drawn anew in place of uids and names")
    parser.add_argument(
        "--tiles",
        nargs="?",
        const="",
        metavar="URL",
        help="streets below the maps, from OpenStreetMap or a server of your own (an address with {z}, {x}, {y});"
        " whoever serves them sees which places the page shows",
    )
    parser.add_argument("--most_people", type=int, help="whose days can be picked (default 200)")


def run(args: argparse.Namespace) -> int:
    from ..report.page import MOST_PEOPLE, OSM, write_report  # heavy, and no part of the help
    from ..report.unasked import NEEDS, where_it_is

    if Path(args.source).is_dir() and (args.truth or args.data_path or args.edition):
        raise DataError("a run knows its own data: leave --truth, --data_path and --edition out")
    most_people = MOST_PEOPLE if args.most_people is None else args.most_people
    if most_people < 1:
        raise DataError(f"--most_people is {most_people}; somebody must be shown")
    if find_spec("plotly") is None:
        raise DataError(f"a report {NEEDS}")
    options = {"truth": args.truth, "data": args.data_path, "edition": args.edition}
    tiles = OSM if args.tiles == "" else args.tiles
    path = write_report(
        args.source, args.output, anonymous=args.anonymous, most_people=most_people, tiles=tiles, **options
    )
    print(where_it_is(path))
    return 0
