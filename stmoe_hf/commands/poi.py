"""`stmoe poi --points osm.geojson --like DATA/kyoto --output poi.csv.gz`"""

import argparse
from pathlib import Path

from ..data.description import describe
from ..data.errors import DataError
from ..data.files import refuse_unwritable
from ..data.openstreetmap import count_tagged_points
from ..data.tables import TABLE_SUFFIXES, table_writer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--points", required=True, help="points with tags: csv, parquet or GeoJSON")
    parser.add_argument("--like", required=True, metavar="CITY", help="folder of the city, whose city.json says where")
    parser.add_argument("--output", required=True, help=f"file to write: {', '.join(TABLE_SUFFIXES)}")


def run(args: argparse.Namespace) -> int:
    output = Path(args.output)
    refuse_unwritable(output, TABLE_SUFFIXES)
    described = describe(args.like)
    if described is None or described[1].place is None:
        raise DataError(f"there is no city.json in {args.like} that says where the grid lies (place)")
    description = described[1]
    assert description.place is not None
    table, found = count_tagged_points(args.points, description.place, description.grid)
    with table_writer(output) as write:
        write(table)
    print("; ".join(f"{name} {count:,}" for name, count in found.items()) + f": {output}")
    return 0
