"""`stmoe demo`: a generated city A, then B: train, fine-tune, predict, score, in minutes on a CPU."""

import argparse
import shutil
import time
from pathlib import Path

from ..data.synthetic import synthesize
from ..training.command_line import parse_arguments
from ..training.run import run as train

# Users of the generated cities, and epochs of pretraining and fine-tuning: minutes on two cores.
USERS_A, USERS_B = 100, 80
EPOCHS_A, EPOCHS_B = 3, 2
TEST_FRACTION = 0.4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output_dir", default="demo", help="folder for the cities, the models and the results")
    parser.add_argument("--seed", type=int, default=42, help="of the cities and of training")


def run(args: argparse.Namespace) -> int:
    start = time.monotonic()
    folder = Path(args.output_dir)
    for part in ("data", "cityA", "cityB"):
        shutil.rmtree(folder / part, ignore_errors=True)
    for city, users in (("A", USERS_A), ("B", USERS_B)):
        print(f"generating city {city}, {users} users (generated people, not real ones)")
        synthesize(city, users, seed=args.seed, output_dir=folder / "data")
    common = ["--config", "demo", "--data_dir", str(folder / "data"), "--seed", str(args.seed)]
    common += ["--disable_tqdm", "true", "--test_fraction", str(TEST_FRACTION)]
    print("\ntraining on city A")
    train(
        *parse_arguments(
            [*common, "--city", "A", "--output_dir", str(folder / "cityA"), "--num_train_epochs", str(EPOCHS_A)]
        )
    )
    print("\nfine-tuning on city B")
    model = ["--model_path", str(folder / "cityA"), "--learning_rate", "1e-3", "--num_train_epochs", str(EPOCHS_B)]
    train(*parse_arguments([*common, "--city", "B", "--output_dir", str(folder / "cityB"), *model]))
    print(
        f"The demo took {time.monotonic() - start:.0f} s. These people are generated: real scores are in the README."
    )
    return 0
