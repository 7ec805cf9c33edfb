"""`stmoe flows --forecast forecast.csv.gz --data_path DATA/kyoto --square_km 2 --by day --output flows.geojson`"""

import argparse

import pandas as pd

from ..data.city import CitySource
from ..data.exports import FORECAST_COLOUR, write_table
from ..report.areas import Areas
from ..report.compare import compare
from ..report.flows import PAIR, flows
from ..report.places import Places, read_places
from ..report.tables import flow_table
from .crowds import add_shared_arguments, areas_of, prepare, say_scores, true_and_last_week

WIDEST = 8.0  # pixels of the largest flow


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_shared_arguments(parser)
    parser.add_argument("--by", choices=("hour", "day"), default="hour", help="moves of an hour or of a day")
    parser.add_argument("--gap_hours", type=int, default=1, help="how many hours later a person may next be seen")


def run(args: argparse.Namespace) -> int:
    output, source = prepare(args)
    grid, calendar = source.grid, source.edition.calendar
    areas = areas_of(args, source)
    places = read_places(args.forecast, grid, calendar)
    options = {"by": args.by, "gap_hours": args.gap_hours}
    table = flows(places, grid, calendar, areas, min_people=args.min_people, expansion=args.expansion, **options)
    if places.samples is None and (places.chances["weight"] < 1).any():
        print(
            "without samples these are the fewest moves that the probabilities allow: give a forecast with --samples"
        )
    labelled, shapes = flow_table(table, areas, source.place, grid, calendar)
    width = (WIDEST * (table["moves"] / table["moves"].max()) ** 0.5).round(2) if len(table) else table["moves"]
    style = pd.DataFrame({"stroke": FORECAST_COLOUR, "stroke-width": width, "stroke-opacity": 0.6})
    write_table(output, labelled, shapes, style)
    print(f"{len(table):,} flows, each of at least {max(args.min_people, 1)} people, are in {output}")
    if not len(table):
        print("nothing is published: ask for larger squares, zones, --by day, or a smaller --min_people")
    if args.truth is not None:
        _score(args.truth, places, source, areas, options)
    return 0


def _score(truth_file: str, places: Places, source: CitySource, areas: Areas, options: dict) -> None:
    truth, last_week, known = true_and_last_week(truth_file, places, source)

    def count(these: Places) -> pd.DataFrame:
        return flows(these, source.grid, source.edition.calendar, areas, min_people=0, **options)

    keys = ["d", *(["hour"] if options["by"] == "hour" else []), *PAIR]
    rows = {"forecast": compare(count(known), count(truth), keys, "moves")}
    if last_week is not None:
        rows["as last week"] = compare(count(last_week), count(truth), keys, "moves")
    say_scores(rows, known, f"flows by {options['by']}")
