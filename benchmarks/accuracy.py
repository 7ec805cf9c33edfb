"""Scores on real users, with their uncertainty, beside published predictions for the very same users.

    python benchmarks/accuracy.py --data_dir DIR --predictions_dir DIR --output_dir runs/accuracy

For each city and seed, one model is trained (`configs/history.yaml`: the other cities' users whole, and the city's own
users before the cut day) and predicts every user of the city from the cut day on. What stands in the table:

- the mean over users, then over seeds, and its standard deviation over seeds;
- a 95 % interval: users are drawn with replacement, 10,000 times (a user's score is the mean over the seeds);
- the difference to a published system on the same users, with the interval of the paired difference. Nothing but the
  prediction files of those systems is read; they are called city<B|D>_pred_<system>.csv.gz.

A run whose results are there already is not repeated.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd

from common import arguments, row, table
from stmoe_hf.data.editions import find_file
from stmoe_hf.evaluation.intervals import bootstrap
from stmoe_hf.metrics import EDITIONS, score
from stmoe_hf.training.command_line import parse_arguments
from stmoe_hf.training.run import run

SYSTEMS = {"llama3mob": "Llama-3-8B-Mob", "lpbert": "LP-BERT"}
MEASURES = {"geobleu": "GEO-BLEU", "dtw": "DTW km", "accuracy": "accuracy"}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--predictions_dir")
    parser.add_argument("--output_dir", default="runs/accuracy")
    parser.add_argument("--config", default="configs/history.yaml")
    parser.add_argument("--cities", nargs="+", default=["B", "D"])
    parser.add_argument("--pretrain_cities", nargs="*", default=["A", "B", "D"], help="the predicted one is left out")
    parser.add_argument("--cut_day", type=int, default=60)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    args, more = parser.parse_known_args()
    for city in args.cities:
        report(city, args, more)


def report(city: str, args: argparse.Namespace, more: list[str]) -> None:
    runs, results, minutes = [], [], []
    for seed in args.seeds:
        folder = Path(args.output_dir) / f"city{city}-seed{seed}"
        if not ((folder / "all_results.json").exists() and (folder / "minutes").exists()):
            start = time.monotonic()
            others = [c for c in args.pretrain_cities if c != city]
            options = ["--city", city, "--data_dir", args.data_dir, "--config", args.config, "--overwrite", "true"]
            options += ["--pretrain_cities", *others] if others else []
            options += ["--cut_day", str(args.cut_day), "--eval_fraction", "1.0", "--seed", str(seed)]
            options += ["--eval_users", "0", "--save_strategy", "no", "--disable_tqdm", "true"]
            options += ["--output_dir", str(folder), *more]
            run(*parse_arguments(options))
            (folder / "minutes").write_text(f"{(time.monotonic() - start) / 60:.1f}")
        runs.append(pd.read_csv(folder / "predictions.csv.gz"))
        results.append(json.loads((folder / "all_results.json").read_text()))
        minutes.append(float((folder / "minutes").read_text()))
    truth = pd.read_csv(find_file(city, args.data_dir)[0])
    truth = truth[truth["d"].between(args.cut_day, args.cut_day + 14)]
    print(f"\nCity {city}, days from {args.cut_day} on, {truth['uid'].nunique()} users, seeds {args.seeds}:", end=" ")
    print(f"{results[-1]['parameters']:,} parameters, {np.mean(minutes):.1f} minutes a run, all in all;", end=" ")
    print(f"nll {mean_and_spread('nll', np.array([result['test_nll'] for result in results]))}\n")
    table("", *(f"{edition} {name}" for edition in EDITIONS for name in MEASURES))
    ours = {edition: [score(prediction, truth, edition) for prediction in runs] for edition in EDITIONS}
    rows: dict[str, list[str]] = {"here, mean of the seeds (± between seeds)": []}
    rows["95 % interval over users"] = []
    mean: dict[tuple[str, str], np.ndarray] = {}
    for edition in EDITIONS:
        for name in MEASURES:
            each = np.array([scores.per_user[name].to_numpy() for scores in ours[edition]])
            mean[edition, name] = each.mean(0)
            over_users = bootstrap(each.mean(0))
            rows["here, mean of the seeds (± between seeds)"].append(mean_and_spread(name, each.mean(1)))
            rows["95 % interval over users"].append(
                f"{digits(name, over_users.low)} .. {digits(name, over_users.high)}"
            )
    for system, title in SYSTEMS.items():
        path = Path(args.predictions_dir or "") / f"city{city}_pred_{system}.csv.gz"
        if args.predictions_dir is None or not path.exists() or args.cut_day != 60:
            continue
        rows[title], rows[f"difference to {title}, 95 % interval"] = [], []
        for edition in EDITIONS:
            theirs = score(pd.read_csv(path), truth, edition)
            for name in MEASURES:
                of_users = theirs.per_user[name].to_numpy()
                difference = mean[edition, name] - of_users
                ahead = bootstrap(difference)
                bounds = f"{digits(name, ahead.low, '+')} .. {digits(name, ahead.high, '+')}"
                rows[title].append(digits(name, of_users.mean()))
                text = f"{digits(name, ahead.mean, '+')} ({bounds})"
                rows[f"difference to {title}, 95 % interval"].append(text)
    for title, cells in rows.items():
        row(title, *cells)


def mean_and_spread(name: str, of_seeds: np.ndarray) -> str:
    """The mean of a measure over the seeds and, of more than one, its standard deviation."""
    spread = f" ± {digits(name, of_seeds.std(ddof=1))}" if len(of_seeds) > 1 else ""
    return f"{digits(name, of_seeds.mean())}{spread}"


def digits(name: str, value: float, sign: str = "") -> str:
    return f"{value:{sign}.{2 if name == 'dtw' else 3 if name == 'accuracy' else 4}f}"


if __name__ == "__main__":
    main()
