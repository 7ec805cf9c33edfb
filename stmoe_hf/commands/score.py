"""`stmoe score --prediction P --reference T --edition E [--per_user F]`"""

import argparse
import json
import sys
from pathlib import Path

from ..data.description import describe
from ..data.errors import DataError
from ..data.files import open_aside
from ..data.submission import read_table
from ..metrics import EDITIONS, score
from ..metrics.score import grid_of
from ..model.spacetime import Grid
from .options import add_data_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prediction", required=True, help="file of predicted records (csv, csv.gz, parquet)")
    parser.add_argument(
        "--reference",
        required=True,
        help="file of the true records; those before the first and after the last predicted day are left out",
    )
    parser.add_argument("--edition", required=True, choices=EDITIONS, help="of the metrics: they are not comparable")
    parser.add_argument(
        "--only_predicted", action="store_true", help="leave out users of the reference that were not predicted"
    )
    add_data_path(
        parser,
        "the city's folder, whose city.json has its cell size; unset: that beside a file",
        "--data_dir",
        "--data",
    )
    parser.add_argument("--per_user", help="csv or csv.gz file to write with the scores of each user")


def run(args: argparse.Namespace) -> int:
    prediction, reference = read_table(args.prediction), read_table(args.reference)
    first, last = prediction["d"].min(), prediction["d"].max()
    inside = reference["d"].between(first, last)
    if not inside.all():
        print(
            f"{(~inside).sum()} records of the reference are left out: they lie outside the predicted days"
            f" {first}..{last}",
            file=sys.stderr,
        )
    reference = reference[inside]
    others = reference["uid"][~reference["uid"].isin(prediction["uid"])].nunique()
    if others and args.only_predicted:
        print(f"{others} users of the reference are left out: they were not predicted", file=sys.stderr)
        reference = reference[reference["uid"].isin(prediction["uid"])]
    elif others:
        raise ValueError(
            f"{others} users of the reference were not predicted; --only_predicted scores the others without them"
        )
    grid = None
    if args.data_path:
        described = describe(args.data_path)
        if described is None:
            raise DataError(f"there is no city.json in or beside {args.data_path}")
        grid = described[1].grid
    grid = grid or grid_of(prediction, reference)
    if grid != Grid():
        print(f"the city.json says: {grid.width} x {grid.height} cells of {grid.cell_km:g} km", file=sys.stderr)
    scores = score(prediction, reference, args.edition, grid=grid, progress=True)
    if args.per_user:
        with open_aside(Path(args.per_user)) as file:
            scores.per_user.to_csv(file, index=False)
    print(f"edition {args.edition}: {scores.users} users, {scores.days} days, {scores.records} records")
    for name, value, text in (
        ("GEO-BLEU", f"{scores.geobleu:.4f}", "higher is better"),
        ("DTW km", f"{scores.dtw:.2f}", "lower is better"),
        ("accuracy", f"{scores.accuracy:.4f}", "share of the records in the very cell"),
    ):
        print(f"  {name:<9}{value:>9}   {text}")
    print(json.dumps(scores.to_dict()))
    return 0
