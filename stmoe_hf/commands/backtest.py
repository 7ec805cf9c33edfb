"""`stmoe backtest --points points.csv --timezone Europe/Berlin --days 7`"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.files import open_aside, refuse_unwritable
from .forecast import add_source_arguments, source_of
from .options import OWN_WEIGHTS, add_device, add_model, add_poi

if TYPE_CHECKING:
    import pandas as pd

    from ..evaluation.backtest import Backtest

EPILOG = """example:
  stmoe backtest --points points.csv --timezone Europe/Berlin --days 7

The last days of each person's past are cut off and forecast from the days before, in the slots in which the person was
observed; beside the network stand the baselines that count what the person did before."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog, parser.formatter_class = EPILOG, argparse.RawDescriptionHelpFormatter
    add_source_arguments(parser)
    how = parser.add_argument_group("how")
    how.add_argument("--days", type=int, default=7, help="of each person's past, the last so many (default 7)")
    add_model(how, OWN_WEIGHTS, required=False)
    add_poi(how)
    how.add_argument("--output", help="csv or csv.gz file to write with the table")
    how.add_argument(
        "--report", metavar="FILE", help="HTML file of maps and people (default report.html beside --output)"
    )
    how.add_argument("--no_report", action="store_true", help="write none")
    add_device(how, people=16)


def run(args: argparse.Namespace) -> int:
    from ..data.sources import open_source  # heavy, and no part of the help
    from ..evaluation.backtest import backtest
    from ..prediction.load import find_model
    from ..report.evidence import of_backtest
    from ..report.unasked import report_beside

    if args.days < 1:
        raise ValueError(f"days is {args.days}; it must be at least 1")
    if args.output:
        refuse_unwritable(Path(args.output), (".csv", ".csv.gz"))
    report = _report(args)
    find_model(args.model)
    data, source = source_of(args)
    with open_source(data, **source) as city:
        found = backtest(
            city, args.days, model=args.model, device=args.device, batch_size=args.batch_size, progress=True
        )
        print(as_text(found))
        if args.output:
            with open_aside(Path(args.output)) as file:
                found.table.to_csv(file, index=False)
        if report is not None:
            print(report_beside(lambda: of_backtest(city, found), report))
    return 0


def _report(args: argparse.Namespace) -> Path | None:
    """The file of the report, by default report.html beside --output or here; None if none is to be written."""
    if args.report and args.no_report:
        raise ValueError("--report and --no_report were given: leave one of them out")
    from ..report.unasked import REPORT  # heavy, and no part of the help

    if args.report:
        refuse_unwritable(Path(args.report), (".html", ".htm"))
        return Path(args.report)
    return None if args.no_report else Path(args.output or REPORT).with_name(REPORT)


def as_text(found: Backtest) -> str:
    """The table of a backtest, for a person."""
    table = found.table
    head = f"the last {found.days} days of {table['people'].iloc[0]:,} people, {table['records'].iloc[0]:,} records"
    if found.left_out:
        head += f"; {found.left_out:,} people without records before or in them are left out"
    lines = [
        head,
        f"{'':26}{'edition humob2024':>21}{'edition humob2025':>21}",
        f"{'':26}{'GEO-BLEU':>10}{'DTW km':>11}{'GEO-BLEU':>10}{'DTW km':>11}"
        f"{'accuracy':>10}{'mean km':>9}{'median':>8}",
    ]
    lines += [
        f"{row['system']:26}{row['humob2024_geobleu']:10.4f}{row['humob2024_dtw']:11.2f}{row['humob2025_geobleu']:10.4f}"
        f"{row['humob2025_dtw']:11.2f}{row['accuracy']:10.3f}{row['mean_km']:9.2f}{row['median_km']:8.2f}"
        for row in table.to_dict("records")
    ]
    return "\n".join([*lines, _verdict(table)])


def _verdict(table: pd.DataFrame) -> str:
    """In one line, how the forecast stands beside the best of counting."""
    ours = table[table["system"] == "forecast"].iloc[0]
    counting = table[~table["system"].str.startswith("forecast")]
    best, nearest = counting["humob2024_geobleu"].max(), counting["humob2024_dtw"].min()
    return (
        f"forecast and the best of counting in each measure (humob2024): GEO-BLEU {ours.humob2024_geobleu:.4f} and"
        f" {best:.4f}, DTW {ours.humob2024_dtw:.2f} and {nearest:.2f} km"
    )
