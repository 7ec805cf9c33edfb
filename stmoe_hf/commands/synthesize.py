"""`stmoe synthesize --city A --users 100000 --seed 1 --output_dir DIR`"""

import argparse
import time

from ..data.editions import EDITIONS
from ..data.synthetic import synthesize


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--city", required=True, help="A, B, C or D (task1 or task2 in humob2023)")
    parser.add_argument("--users", type=int, required=True, help="how many people")
    parser.add_argument("--seed", type=int, default=42, help="of the city and of its people")
    parser.add_argument("--output_dir", required=True, help="folder of the file")
    parser.add_argument("--edition", choices=EDITIONS, default="humob2024", help="whose files, days and uids")
    parser.add_argument("--masked", type=int, default=0, help="so many of the last users are asked for")


def run(args: argparse.Namespace) -> int:
    start = time.monotonic()
    path = synthesize(
        args.city,
        args.users,
        seed=args.seed,
        output_dir=args.output_dir,
        edition=args.edition,
        masked=args.masked,
        progress=True,
    )
    print(f"{args.users} generated users are in {path} ({time.monotonic() - start:.0f} s)")
    return 0
