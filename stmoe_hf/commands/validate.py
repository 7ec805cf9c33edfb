"""`python -m stmoe_hf validate --prediction P --data F --city B --edition E`"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from ..data.editions import EDITIONS, find_file, get_edition
from ..data.errors import DataError
from ..data.readers import read_records
from ..data.submission import validate_submission
from ..spacetime import Grid


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prediction", required=True, help="the submission, csv or csv.gz")
    parser.add_argument("--data", required=True, help="the city's file that asks for records, or its folder")
    parser.add_argument("--city", required=True, help="name of the city")
    parser.add_argument("--edition", required=True, choices=EDITIONS, help="whose days and users")


def run(args: argparse.Namespace) -> int:
    edition, grid = get_edition(args.edition), Grid()
    if args.city not in edition.files:
        raise DataError(f"edition {edition.name} has no city {args.city!r}; it has {', '.join(edition.files)}")
    path = Path(args.data)
    if path.is_dir():
        path, _ = find_file(args.city, path, edition.name)
    records = read_records(path, grid, edition.calendar)
    masked = records.cell == grid.mask_id
    asks = masked if masked.any() else records.day >= edition.cut_day
    rows = np.flatnonzero(asks)
    what = "masked records" if masked.any() else f"records from day {edition.cut_day} on, since none is masked"
    asked = pd.DataFrame({"uid": records.uid[rows], "d": records.day[rows], "t": records.slot[rows]})
    print(f"{path} asks for {len(asked)} records of {asked['uid'].nunique()} users ({what})")
    problems = validate_submission(args.prediction, asked, grid, edition.calendar)
    for problem in problems:
        print(f"{args.prediction}: {problem}")
    print(f"{len(problems)} kinds of problems" if problems else f"{args.prediction} is a valid submission")
    return 1 if problems else 0
