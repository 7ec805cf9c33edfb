"""`python -m stmoe_hf prepare --city A --data_dir DIR [--output_dir OUT]`"""

import argparse
import json
import resource
import sys
import time

from ..data.city import open_city


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--city", help="city, by its name in the files")
    parser.add_argument("--data_dir", help="folder with the files of the city")
    parser.add_argument("--data_path", help="a file or a folder of parts, in place of a city of a folder")
    parser.add_argument("--edition", help="humob2023, humob2024 or humob2025; unset: told from the file's name")
    parser.add_argument("--output_dir", help="where it is kept (then the --cache_dir of runs); unset: the cache")


def run(args: argparse.Namespace) -> int:
    start = time.monotonic()
    city = open_city(
        args.city,
        args.data_dir,
        path=args.data_path,
        edition=args.edition,
        cache_dir=args.output_dir,
        progress=True,
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = {
        "records": city.num_records,
        "users": len(city),
        "masked": city.num_masked,
        "seconds": round(time.monotonic() - start, 2),
        "peak_rss_mb": round(peak / (1024 if sys.platform != "darwin" else 1024**2)),
    }
    print(json.dumps(result))
    return 0
