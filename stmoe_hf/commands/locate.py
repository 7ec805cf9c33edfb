"""`stmoe locate --records predictions.csv.gz --data_path DATA/kyoto --output predictions.geojson`"""

import argparse
import json
from pathlib import Path

import pandas as pd

from ..data.description import describe
from ..data.errors import DataError
from ..data.files import open_aside
from ..data.geography import geojson, locate
from .options import add_data_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--records", required=True, help="records or predictions uid,d,t,x,y: csv, csv.gz or parquet")
    add_data_path(
        parser, "folder of the city, whose city.json says where it lies", "--data_dir", "--data", required=True
    )
    parser.add_argument("--output", required=True, help="file to write: .geojson, .csv or .csv.gz")
    parser.add_argument("--outlines", action="store_true", help="GeoJSON of the cells' outlines, not their middles")


def run(args: argparse.Namespace) -> int:
    output = Path(args.output)
    described = describe(args.data_path)
    if described is None or described[1].place is None:
        raise DataError(f"no city.json of {args.data_path} says where the city lies")
    city = described[1]
    assert city.place is not None
    if not Path(args.records).is_file():
        raise FileNotFoundError(f"there is no file {args.records}")
    records = (pd.read_parquet if args.records.endswith(".parquet") else pd.read_csv)(args.records)
    users = (Path(args.data_path) if Path(args.data_path).is_dir() else Path(args.data_path).parent) / "users.csv"
    if users.is_file() and "uid" in records.columns:
        records = records.merge(pd.read_csv(users, dtype={"user": str}), how="left", on="uid")
    with open_aside(output) as file:
        if output.name.endswith((".geojson", ".json")):
            json.dump(geojson(records, city.place, city.grid, city.calendar, args.outlines), file)
        elif output.name.endswith((".csv", ".csv.gz")):
            locate(records, city.place, city.grid, city.calendar).to_csv(file, index=False)
        else:
            raise DataError(f"--output {output} must end in .geojson, .csv or .csv.gz")
    print(f"{len(records):,} records are in {output}")
    return 0
