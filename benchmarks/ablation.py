"""Each part of the model and of decoding on and off, on days that are not the test.

    python benchmarks/ablation.py --data_dir DIR --output_dir runs/ablation

Every variant is `configs/history.yaml` with one change. Half of the users of a city are held out from day 45 on and
scored on days 45-59; the other half, and the other cities, are trained on whole. So no score here is of the test days
of the held-out users, and the constants of the day decoder, which were chosen on days 45-59, are a little flattered.

A run whose results are there already is not repeated. `nll` is the mean negative log-probability of a record.
"""

import argparse
import json
from pathlib import Path

from common import arguments, row, table
from stmoe_hf.model.decoders import SLOT_DECODERS
from stmoe_hf.training.command_line import parse_arguments
from stmoe_hf.training.run import run

RECIPE = "the recipe"
# Variant -> what differs from the recipe; the decoders take the recipe's own network.
ALONE = "this city alone"
DECODERS = {f"decoder {name}": f"--decoder {name} --num_train_epochs 0" for name in SLOT_DECODERS}
VARIANTS = {
    RECIPE: "",
    **DECODERS,
    "untrained": "--num_train_epochs 0",
    ALONE: "",
    "no record features": "--record_features false",
    "no spread to near cells": "--history_spread 0",
    "no relation network": "--history_relation_size 0",
    "no content term": "--history_content_size 0",
    "dense": "--num_experts 0",
    "8 experts": "--num_experts 8",
    "16 experts": "--num_experts 16",
    "6 epochs": "--num_train_epochs 6",
}
COLUMNS = ("humob2024_geobleu", "humob2024_dtw", "humob2025_geobleu", "humob2025_dtw", "accuracy", "nll")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--output_dir", default="runs/ablation")
    parser.add_argument("--cities", nargs="+", default=["B", "D"])
    parser.add_argument("--pretrain_cities", nargs="+", default=["A", "B", "D"], help="the predicted one is left out")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS), metavar="VARIANT")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rows = {variant: [results(city, variant, args) for city in args.cities] for variant in args.variants}
    print(f"\nDays 45-59, half of the users of each city, seed {args.seed}\n")
    table("", "parameters", *(f"{city} {name}" for city in args.cities for name in COLUMNS))
    for variant, found in rows.items():
        values = [f"{of_city[f'test_{name}']:.{2 if 'dtw' in name else 4}f}" for of_city in found for name in COLUMNS]
        row(variant, f"{found[0]['parameters']:,}", *values)


def results(city: str, variant: str, args: argparse.Namespace) -> dict:
    """What a run of a variant found; it is trained if it was not yet."""
    folder = folder_of(city, variant, args)
    if not (folder / "all_results.json").exists():
        options = ["--city", city, "--data_dir", args.data_dir, "--config", "configs/history.yaml"]
        if variant != ALONE:
            options += ["--pretrain_cities", *(name for name in args.pretrain_cities if name != city)]
        options += ["--cut_day", "45", "--eval_fraction", "0.5", "--seed", str(args.seed), "--overwrite", "true"]
        options += ["--save_strategy", "no", "--disable_tqdm", "true", "--output_dir", str(folder)]
        if variant in DECODERS:
            results(city, RECIPE, args)
            options += ["--model_path", str(folder_of(city, RECIPE, args))]
        run(*parse_arguments(options + VARIANTS[variant].split()))
    return json.loads((folder / "all_results.json").read_text())


def folder_of(city: str, variant: str, args: argparse.Namespace) -> Path:
    return Path(args.output_dir) / f"city{city}-{variant.replace(' ', '-')}-seed{args.seed}"


if __name__ == "__main__":
    main()
