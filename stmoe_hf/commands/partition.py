"""`stmoe partition --input points/ --output people/`"""

import argparse

from tqdm.auto import tqdm

from ..data.points import NAMES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--input", required=True, help="csv or parquet of records or points: file, folder or URL")
    parser.add_argument("--output", required=True, help="new folder, or URL of one, for parquet of one row a person")
    parser.add_argument("--files", type=int, help="how many; unset: one for each 96 MB of the input")
    parser.add_argument("--times_in", help="of points: zone of times that do not say theirs, such as UTC")
    parser.add_argument("--max_bad", type=int, default=0, help="so many rows may be unreadable; they are set aside")
    parser.add_argument("--scratch", help="folder of this machine for rows in between; unset: a temporary one")
    for role, names in NAMES.items():
        parser.add_argument(f"--{role}_column", help=f"of points: unset: the first of {', '.join(names)}")


def run(args: argparse.Namespace) -> int:
    from ..scale.partition import partition  # heavy, and no part of the help

    columns = {role: getattr(args, f"{role}_column") for role in NAMES if getattr(args, f"{role}_column")}
    with tqdm(desc="partition", unit="rows", unit_scale=True) as bar:
        counts = partition(
            args.input,
            args.output,
            files=args.files,
            columns=columns,
            times_in=args.times_in,
            max_bad=args.max_bad,
            scratch=args.scratch,
            progress=bar.update,
        )
    print(f"{counts.rows:,} rows of {counts.people:,} people in {counts.files:,} files: {args.output}", end="")
    print(f"; {len(counts.bad):,} rows could not be read" if counts.bad else "")
    return 0
