"""`python -m stmoe_hf export --city B --data_dir DIR --output_dir OUT`"""

import argparse

from ..data.city import open_city
from ..hub.dataset import export_city


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--city", help="city, by its name in the files")
    parser.add_argument("--data_dir", help="folder with the files of the city")
    parser.add_argument("--data_path", help="a file or a folder, in place of a city of a folder")
    parser.add_argument("--edition", help="humob2023, humob2024 or humob2025; unset: told from the file's name")
    parser.add_argument("--cache_dir", help="where prepared cities are kept")
    parser.add_argument("--output_dir", required=True, help="new folder for the parquet files and the card")
    parser.add_argument("--title", help="of the card; unset: the city and its edition")
    parser.add_argument("--license", help="such as cc-by-4.0; unset: CC BY 4.0 for files of humob2023, else unknown")
    parser.add_argument("--with_place", action="store_true", help="keep latitude and longitude of the grid, if known")


def run(args: argparse.Namespace) -> int:
    city = open_city(
        args.city,
        args.data_dir,
        path=args.data_path,
        edition=args.edition,
        cache_dir=args.cache_dir,
        progress=True,
    )
    export_city(city, args.output_dir, license=args.license, name=args.title, with_place=args.with_place)
    print(f"{city.num_records:,} records of {len(city):,} people are in {args.output_dir}. To publish them:")
    print(f"hf upload NAME {args.output_dir} --repo-type dataset")
    return 0
