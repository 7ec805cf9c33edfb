"""`stmoe export --city B --data_dir DIR --output_dir OUT`"""

import argparse

from ..hub.dataset import export_city
from .options import add_city_options, open_chosen_city


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_city_options(parser)
    parser.add_argument("--output_dir", required=True, help="new folder for the parquet files and the card")
    parser.add_argument("--title", help="of the card; unset: the city and its edition")
    parser.add_argument("--license", help="such as cc-by-4.0; unset: CC BY 4.0 for files of humob2023, else unknown")
    parser.add_argument("--with_place", action="store_true", help="keep latitude and longitude of the grid, if known")


def run(args: argparse.Namespace) -> int:
    city = open_chosen_city(args)
    export_city(city, args.output_dir, license=args.license, name=args.title, with_place=args.with_place)
    print(f"{city.num_records:,} records of {len(city):,} people are in {args.output_dir}. To publish them:")
    print(f"hf upload NAME {args.output_dir} --repo-type dataset")
    return 0
