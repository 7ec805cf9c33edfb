"""`stmoe next --data_path trips/ --output next.csv`; of places without geometry: `stmoe next --visits visits.csv`"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.errors import DataError
from ..data.files import refuse_unwritable
from ..data.tables import TABLE_SUFFIXES, table_writer
from .forecast import add_source_arguments, source_of

if TYPE_CHECKING:
    import pandas as pd

EPILOG = """examples:
  stmoe next --data_path trips/ --output next.csv
  stmoe next --points points.csv --timezone Europe/Berlin --top_k 5 --output next.parquet
  stmoe next --visits visits.csv --fit --output next.csv"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog, parser.formatter_class = EPILOG, argparse.RawDescriptionHelpFormatter
    add_source_arguments(parser)
    what = parser.add_argument_group("what is told")
    what.add_argument(
        "--visits", help="in place of records: csv of places without geometry, columns uid, time and place"
    )
    what.add_argument("--top_k", type=int, default=10, help="places of each person, most probable first (default 10)")
    what.add_argument("--fit", action="store_true", help="train on these people's past first (a minute)")
    what.add_argument("--output", required=True, help=f"file to write: {', '.join(TABLE_SUFFIXES)}")


def run(args: argparse.Namespace) -> int:
    from ..data.sources import open_source  # heavy, and no part of the help
    from ..prediction.forecast_next import next_of_city
    from ..prediction.next_place import next_of_visits

    if args.top_k < 1:
        raise DataError(f"--top_k is {args.top_k}; it must be at least 1")
    output = Path(args.output)
    refuse_unwritable(output, TABLE_SUFFIXES)
    if args.visits:
        if args.points or args.data_path or args.city:
            raise DataError("--visits are the data: leave --points, --data_path and --city out")
        table = next_of_visits(_read_visits(args.visits), args.top_k, args.fit)
    else:
        data, source = source_of(args)
        with open_source(data, **source) as city:
            table = next_of_city(city, args.top_k, args.fit)
    with table_writer(output) as write:
        write(table)
    print(f"{len(table):,} rows for {table['uid'].nunique():,} people: {output}")
    return 0


def _read_visits(path: str) -> "pd.DataFrame":
    import pandas as pd

    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        return pd.read_csv(path)
    except ValueError as error:  # no table, or no text
        raise DataError(f"{path} is no csv file: {error}") from None
