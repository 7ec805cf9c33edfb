"""The loader's share of a training step of history.yaml: windows of a city's Arrow file, padded to a batch.

python benchmarks/speed_loader.py
python benchmarks/speed_loader.py --seconds 1
"""

import tempfile
from pathlib import Path

import numpy as np

from common import Measure, Side, take_turns, timing_arguments
from workloads import print_machine, train

USERS = 8


def load(users: int) -> Measure:
    """What the Trainer's loader does for a step, on a generated city."""
    from stmoe_hf.data.city import open_city
    from stmoe_hf.data.splits import split_users
    from stmoe_hf.data.synthetic import synthesize
    from stmoe_hf.data.windows import TrainingWindows, WindowShape
    from stmoe_hf.model.processing_stmoe_bert import MobilityProcessor

    with tempfile.TemporaryDirectory() as folder:
        synthesize("B", 200, output_dir=folder)
        city = open_city("B", folder, cache_dir=Path(folder) / "cache")
        processor = MobilityProcessor.for_data(city.grid, city.calendar)
        windows = TrainingWindows(city, split_users(city, 60, 0.0, 0), WindowShape(), processor, 0)
        random = np.random.default_rng(0)
        processor.pad([windows[i] for i in range(users)])
    return lambda: processor.pad([windows[i] for i in random.integers(0, len(windows), users)]), {}


def main() -> None:
    args = timing_arguments(__doc__, 20).parse_args()
    print_machine()
    loader, step = Side(load, USERS), Side(train, "history", USERS, 700, 200)
    take_turns({"load": loader, "step": step}, args.seconds)
    print(
        f"Loader, history.yaml, batches of {USERS}: {loader.median * 1e3:.1f} ms beside a step of"
        f" {step.median * 1e3:.0f} ms, {loader.median / (loader.median + step.median):.1%} of the time without workers"
    )


if __name__ == "__main__":
    main()
