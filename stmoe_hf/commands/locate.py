"""`stmoe locate --records forecast.csv.gz --data_path DATA/kyoto --output forecast.geojson --shape lines`"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from ..data.city import find_city
from ..data.errors import DataError
from ..data.exports import (
    area_style,
    cell_features,
    line_features,
    line_style,
    located_texts,
    point_features,
    refuse_suffix,
    write_table,
)
from ..model.spacetime import Grid
from ..report.people import anonymous, with_names
from ..report.places import KEYS, known, read_file
from .options import add_data_path

SHAPES = ("points", "outlines", "lines", "cells")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--records", required=True, help="records, predictions or a forecast: csv, csv.gz or parquet")
    add_data_path(
        parser, "folder of the city, whose city.json says where it lies", "--data_dir", "--data", required=True
    )
    parser.add_argument("--output", required=True, help="file to write: .geojson, .parquet, .csv or .csv.gz")
    parser.add_argument(
        "--shape",
        choices=SHAPES,
        default="points",
        help="a point a record, the outline of its cell, a line a person and day, or a cell with its counts",
    )
    parser.add_argument("--outlines", action="store_true", help="the same as --shape outlines")
    parser.add_argument("--truth", help="file of the true records: adds how far off each record is, and their lines")
    parser.add_argument("--anonymous", action="store_true", help="numbers drawn anew in place of uids and names")


def run(args: argparse.Namespace) -> int:
    output = Path(args.output)
    refuse_suffix(output)
    source = find_city(path=args.data_path)
    place, grid, calendar = source.place, source.grid, source.edition.calendar
    if place is None:
        raise DataError(f"no city.json of {args.data_path} says where the city lies")
    records = read_file(args.records)
    truth = None if args.truth is None else known(read_file(args.truth), grid)
    if truth is not None:
        records, truth = beside_truth(records, truth, grid)
    shape = "outlines" if args.outlines else args.shape
    if truth is not None and shape in ("lines", "cells"):
        records = pd.concat([records.assign(kind="forecast"), truth.assign(kind="truth")], ignore_index=True)
    records = anonymous(records) if args.anonymous else with_names(records, args.data_path)
    if shape in ("lines", "cells") and "rank" in records:
        records = records[records["rank"].isna() | (records["rank"] == records["rank"].min())]
    geometry, style = None, None
    if output.name.endswith((".csv", ".csv.gz")) and shape in ("points", "outlines"):
        table = located_texts(records, place, grid, calendar)
    elif shape == "lines":
        table, geometry = line_features(records, place, grid, calendar)
        style = line_style(table)
    elif shape == "cells":
        table, geometry = cell_features(records, place, grid)
        style = area_style(table["records"])
    else:
        table, geometry = point_features(records, place, grid, calendar, shape == "outlines")
        style = line_style(table)[["stroke", "stroke-width", "marker-color"]]
    write_table(output, table, geometry, style)
    print(f"{len(records):,} records are in {output}" + ("" if shape != "lines" else f", as {len(table):,} lines"))
    return 0


def beside_truth(records: pd.DataFrame, truth: pd.DataFrame, grid: Grid) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The records with true_x, true_y and error_km where the truth has their slot, and the truth of their slots."""
    true = truth[[*KEYS, "x", "y"]].rename(columns={"x": "true_x", "y": "true_y"})
    both = records.merge(true, how="left", on=KEYS)
    off = np.hypot(both["x"] - both["true_x"], both["y"] - both["true_y"]) * grid.cell_km
    both["error_km"] = off.round(3)
    if both["error_km"].isna().all():
        raise DataError("the truth has none of the (uid, d, t) of the records")
    return both, truth.merge(records[KEYS].drop_duplicates(), on=KEYS)
