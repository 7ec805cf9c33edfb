"""`stmoe prepare --city A --data_dir DIR [--cache_dir CACHE]`"""

import argparse
import json
import resource
import sys
import time

from .options import add_city_options, open_chosen_city


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_city_options(parser, "--output_dir")  # as --cache_dir was called here


def run(args: argparse.Namespace) -> int:
    start = time.monotonic()
    city = open_chosen_city(args)
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
