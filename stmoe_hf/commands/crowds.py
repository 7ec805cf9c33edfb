"""`stmoe crowds --forecast forecast.csv.gz --data_path DATA/kyoto --square_km 1 --output crowds.geojson`"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from ..data.city import CitySource, find_city
from ..data.errors import DataError
from ..data.exports import area_style, refuse_suffix, write_table
from ..report.areas import Areas, side_of, squares, zones
from ..report.compare import as_last_week, compare, where_truth_is_known
from ..report.crowds import KEYS, crowds
from ..report.places import Places, as_places, read_places
from ..report.tables import crowd_table
from .options import add_data_path

MEASURES = {
    "common_part": "common part of commuters (1 is best)",
    "jensen_shannon": "Jensen-Shannon divergence (0 is best)",
    "total_error": "error of the totals (0 is best)",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_shared_arguments(parser)


def add_shared_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that crowds and flows share."""
    parser.add_argument("--forecast", required=True, help="forecast, predictions or records: csv, csv.gz or parquet")
    add_data_path(
        parser, "folder with the city.json, or file, of the city; unset: grid of the challenge", "--data_dir", "--data"
    )
    parser.add_argument("--edition", help="humob2023, humob2024 or humob2025, where no city.json says the days")
    parser.add_argument("--output", required=True, help="file to write: .csv, .csv.gz, .geojson or .parquet")
    parser.add_argument("--square_km", type=float, help="side of the squares in km; unset: cells")
    parser.add_argument("--zones", help="GeoJSON file of zones, in place of squares (needs shapely: extra geo)")
    parser.add_argument("--zone_name", help="property that names a zone; unset: name, or id, or their number")
    parser.add_argument(
        "--min_people", type=int, default=10, help="leave out what fewer people make up, and what would tell it"
    )
    parser.add_argument("--expansion", type=float, default=1.0, help="people of the city for each person of the file")
    parser.add_argument("--truth", help="file of the true records, earlier weeks too: scores the forecast")


def run(args: argparse.Namespace) -> int:
    output, source = prepare(args)
    grid, calendar = source.grid, source.edition.calendar
    areas = areas_of(args, source)
    places = read_places(args.forecast, grid, calendar)
    say_what_is_nowhere(places)
    table = crowds(places, grid, calendar, areas, min_people=args.min_people, expansion=args.expansion)
    labelled, shapes = crowd_table(table, areas, source.place, grid, calendar)
    write_table(output, labelled, shapes, area_style(table["people"]))
    print(f"{len(table):,} numbers, each of at least {max(args.min_people, 1)} people, are in {output}")
    if not len(table):
        print("nothing is published: ask for larger squares (--square_km), zones, or a smaller --min_people")
    if args.truth is not None:
        _score(args.truth, places, source, areas)
    return 0


def prepare(args: argparse.Namespace) -> tuple[Path, CitySource]:
    """The file to write and the city, before anything is read."""
    output = Path(args.output)
    refuse_suffix(output)
    if args.min_people < 0 or not args.expansion > 0:
        raise DataError(f"--min_people {args.min_people} and --expansion {args.expansion:g} must be positive")
    if args.data_path is not None and not Path(args.data_path).exists():
        raise FileNotFoundError(f"there is no folder or file {args.data_path}")
    source = find_city(path=args.forecast if args.data_path is None else args.data_path, edition=args.edition)
    if source.place is not None and source.place.aligned:
        print(
            "each of these people has a calendar of their own (align), so a day holds people of different dates: the"
            " numbers say what such a weekday is like, not who was somewhere at one time; no times are written"
        )
    return output, source


def areas_of(args: argparse.Namespace, source: CitySource) -> Areas:
    if args.zones is None:
        return squares(source.grid, side_of(args.square_km, source.grid), source.place)
    if args.square_km is not None:
        raise DataError("give --square_km or --zones, not both")
    if source.place is None:
        raise DataError(f"zones lie in degrees, and no city.json of {args.data_path} says where the city lies")
    return zones(args.zones, source.grid, source.place, args.zone_name)


def say_what_is_nowhere(places: Places) -> None:
    """Say how much of the probability the forecast leaves to cells that it does not name."""
    slots = len(places.chances[["uid", "d", "t"]].drop_duplicates())
    rest = 1 - places.chances["weight"].sum() / slots
    if rest > 0.005:
        print(f"{rest:.1%} of the probability lies in cells that the forecast does not name, and is in no number")


def true_and_last_week(truth_file: str, places: Places, source: CitySource) -> tuple[Places, Places | None, Places]:
    """The truth of the forecast days, as last week (None if no record is so early), the forecast where it is known."""
    records = read_places(truth_file, source.grid, source.edition.calendar).best()
    days = np.unique(places.chances["d"])
    asked = records.merge(places.chances[["uid", "d", "t"]].drop_duplicates(), on=["uid", "d", "t"])
    if not len(asked):
        raise DataError(f"{truth_file} has none of the (uid, d, t) of the forecast")
    people = records[records["uid"].isin(asked["uid"].unique())]
    earlier = as_last_week(people.drop(columns="probability"), days)
    last_week = as_places(earlier, source.grid, source.edition.calendar) if len(earlier) else None
    truth = as_places(asked.drop(columns="probability"), source.grid, source.edition.calendar)
    return truth, last_week, where_truth_is_known(places, asked)


def say_scores(rows: dict[str, dict[str, float]], places: Places, what: str) -> None:
    people, days = places.chances["uid"].nunique(), places.chances["d"].nunique()
    print(
        f"\nScores of the {what} of {people:,} people, {days} days, in the slots whose truth is known, unsuppressed:"
    )
    print(pd.DataFrame(rows).T.rename(columns=MEASURES).to_string(float_format="{:.3f}".format))


def _score(truth_file: str, places: Places, source: CitySource, areas: Areas) -> None:
    truth, last_week, known = true_and_last_week(truth_file, places, source)

    def count(these: Places) -> pd.DataFrame:
        bare = Places(these.chances)
        return crowds(bare, source.grid, source.edition.calendar, areas, min_people=0)

    rows = {"forecast": compare(count(known), count(truth), KEYS, "people")}
    if last_week is not None:
        rows["as last week"] = compare(count(last_week), count(truth), KEYS, "people")
    say_scores(rows, known, "crowds")
