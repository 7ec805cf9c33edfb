"""`stmoe validate --prediction P --data_dir DIR --city B --edition E`"""

import argparse

from ..data.editions import EDITIONS
from ..data.submission import find_asked_for, validate_submission
from .options import add_data_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prediction", required=True, help="the submission, csv or csv.gz")
    add_data_path(
        parser,
        "the city's file that asks for records, or its folder (also: --data_dir)",
        *("--data_dir", "--data"),
        required=True,
    )
    parser.add_argument("--city", help="name of the city; not needed where the folder has a city.json")
    parser.add_argument("--edition", choices=EDITIONS, help="whose days and users; likewise")


def run(args: argparse.Namespace) -> int:
    asked = find_asked_for(args.data_path, args.city, args.edition)
    print(
        f"{asked.path} asks for {len(asked.keys)} records of {asked.keys['uid'].nunique()} users ({asked.what})",
        flush=True,
    )
    problems = validate_submission(args.prediction, asked.keys, asked.grid, asked.calendar)
    for problem in problems:
        print(f"{args.prediction}: {problem}")
    print(f"{len(problems)} kinds of problems" if problems else f"{args.prediction} is a valid submission")
    return 1 if problems else 0
