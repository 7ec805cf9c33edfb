"""Generated cities of 1, 10 and 111 million records: generation, preparation, opening, and the loader.

python benchmarks/prepare.py --output_dir DIR     # some GB; each city is made, measured and removed
"""

import gzip
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader

from common import arguments, machine, row, table
from stmoe_hf.data.city import open_city
from stmoe_hf.data.sampler import LengthGroupedSampler
from stmoe_hf.data.splits import split_users
from stmoe_hf.data.windows import TrainingWindows, WindowShape
from stmoe_hf.model.processing_stmoe_bert import MobilityProcessor

USERS = (900, 9_000, 100_000)
BATCH, BATCHES = 16, 250
COLUMNS = ("records", "users", "generate s", "decompress s", "csv.gz to Arrow s", "M records/s", "peak RSS MB")
COLUMNS += ("bytes a record", "open s", "windows s", "windows a minute", "padding")


def command(*options: str) -> tuple[float, str]:
    """Seconds and last line of a command of the package, in a process of its own."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "stmoe_hf", *options], capture_output=True, text=True, check=True)
    return time.perf_counter() - start, done.stdout.splitlines()[-1]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--users", type=int, nargs="+", default=list(USERS))
    args = parser.parse_args()
    print(f"{machine()}\n")
    table(*COLUMNS)
    for users in args.users:
        folder = Path(args.output_dir) / f"{users}"
        made, _ = command("synthesize", "--city", "A", "--users", str(users), "--output_dir", str(folder))
        file = next(folder.glob("*.csv.gz"))
        start = time.perf_counter()
        with gzip.open(file) as content:
            while content.read(1 << 22):
                pass
        floor = time.perf_counter() - start
        place = ["--city", "A", "--data_dir", str(folder), "--output_dir", str(folder / "prepared")]
        result = json.loads(command("prepare", *place)[1])
        start = time.perf_counter()
        city = open_city("A", folder, cache_dir=folder / "prepared")
        opened = time.perf_counter() - start
        start = time.perf_counter()
        processor = MobilityProcessor.for_data(city.grid, city.calendar)
        split = split_users(city, 60, 0.1, seed=1)
        windows = TrainingWindows(city, split, WindowShape(), processor, seed=1)
        sampler = LengthGroupedSampler(windows, BATCH, seed=1)
        batches = iter(DataLoader(windows, BATCH, sampler=sampler, collate_fn=processor.pad, num_workers=2))
        next(batches)
        indexed = time.perf_counter() - start
        start = time.perf_counter()
        masks = [next(batches)["attention_mask"] for _ in range(min(BATCHES, len(windows) // BATCH - 2))]
        rate = len(masks) * BATCH / (time.perf_counter() - start) * 60
        padding = 1 - np.mean([float(mask.float().mean()) for mask in masks])
        del batches
        size = (next((folder / "prepared").glob("*/users.arrow"))).stat().st_size / city.num_records
        seconds, records = result["seconds"], city.num_records
        speed = f"{records / seconds / 1e6:.1f}"
        cells = [f"{records:,}", f"{users:,}", f"{made:.1f}", f"{floor:.2f}", f"{seconds:.2f}", speed]
        cells += [result["peak_rss_mb"], f"{size:.2f}", f"{opened:.3f}", f"{indexed:.2f}", f"{rate:,.0f}"]
        row(*cells, f"{padding:.1%}")
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
