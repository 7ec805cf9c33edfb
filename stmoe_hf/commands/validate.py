"""`python -m stmoe_hf validate --prediction P --data F --city B --edition E`"""

import argparse
from pathlib import Path

import pandas as pd

from ..data.description import describe
from ..data.editions import EDITIONS, find_file, get_edition
from ..data.errors import DataError
from ..data.readers import part_files, stream_records
from ..data.submission import validate_submission
from ..model.spacetime import Grid


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prediction", required=True, help="the submission, csv or csv.gz")
    parser.add_argument("--data", required=True, help="the city's file that asks for records, or its folder")
    parser.add_argument("--city", help="name of the city; not needed where --data has a city.json")
    parser.add_argument("--edition", choices=EDITIONS, help="whose days and users; likewise")


def run(args: argparse.Namespace) -> int:
    path = Path(args.data)
    described = describe(path)
    if described is not None:
        path, edition, grid = described[0], described[1].as_edition(), described[1].grid
    elif args.city is None or args.edition is None:
        raise DataError(f"there is no city.json in or beside {path}: say --city and --edition")
    else:
        edition, grid = get_edition(args.edition), Grid()
        if args.city not in edition.files:
            raise DataError(f"edition {edition.name} has no city {args.city!r}; it has {', '.join(edition.files)}")
        if path.is_dir():
            path, _ = find_file(args.city, path, edition.name)
    masked, late = [], []
    for part in part_files(path):
        for block in stream_records(part, grid, edition.calendar):
            keys = pd.DataFrame({"uid": block.uid, "d": block.day, "t": block.slot})
            masked.append(keys[block.cell == grid.mask_id])
            late.append(keys[block.day >= edition.cut_day])
    asked, what = pd.concat(masked), "masked records"
    if not len(asked):
        asked, what = pd.concat(late), f"records from day {edition.cut_day} on, since none is masked"
    print(f"{path} asks for {len(asked)} records of {asked['uid'].nunique()} users ({what})")
    problems = validate_submission(args.prediction, asked, grid, edition.calendar)
    for problem in problems:
        print(f"{args.prediction}: {problem}")
    print(f"{len(problems)} kinds of problems" if problems else f"{args.prediction} is a valid submission")
    return 1 if problems else 0
