"""From other cities to one: trained from scratch, fine-tuned, jointly, or not at all.

    python benchmarks/transfer.py --data_dir DIR --output_dir runs/transfer
    python benchmarks/transfer.py --data_dir DIR --generate 2000 --output_dir runs/transfer-generated

For each target city and seed, all users of the target are predicted from the cut day on, by four models:

- scratch: trained on the target's own days before the cut;
- zero-shot: trained on the other cities only (whole), never on the target;
- fine-tuned: the zero-shot model, gone on with on the target's own days before the cut;
- joint: trained on the other cities and on the target's own days before the cut in one run.

Scratch, zero-shot and joint are trained by --config, fine-tuning goes on by --finetune_config; what else is given on
the command line goes to every run of train_hf.py. The table has the mean over seeds and its standard deviation between
them, and the best baseline by frequencies for comparison. A run whose results are there already is not repeated.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from common import arguments, row, table
from stmoe_hf.data.synthetic import synthesize
from stmoe_hf.training.command_line import parse_arguments
from stmoe_hf.training.run import run

REGIMES = ("scratch", "zero-shot", "fine-tuned", "joint")
BASELINE = "time_kernel_balanced"
COLUMNS = {
    "humob2024_geobleu": ("GEO-BLEU, humob2024", 4),
    "humob2024_dtw": ("DTW km, humob2024", 2),
    "humob2025_geobleu": ("GEO-BLEU, humob2025", 4),
    "humob2025_dtw": ("DTW km, humob2025", 2),
    "accuracy": ("accuracy", 3),
}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--output_dir", default="runs/transfer")
    parser.add_argument("--config", default="configs/history.yaml")
    parser.add_argument("--finetune_config", default="configs/finetune.yaml")
    parser.add_argument("--targets", nargs="+", default=["B", "D"])
    parser.add_argument(
        "--cities", nargs="+", default=["A", "B", "D"], help="sources are those that are not the target"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--cut_day", type=int, default=60)
    parser.add_argument("--generate", type=int, metavar="USERS", help="write generated cities to data_dir first")
    args, more = parser.parse_known_args()
    if args.generate:
        for city in sorted({*args.cities, *args.targets}):
            if not list(Path(args.data_dir).glob(f"city{city}*")):
                synthesize(city, args.generate, output_dir=args.data_dir)
    rows = [row for target in args.targets for row in compare(target, args, more)]
    titles = ["city", "model", *(title for title, _ in COLUMNS.values()), "minutes"]
    print(f"\nAll users from day {args.cut_day} on, seeds {args.seeds}: mean ± standard deviation between seeds\n")
    table(*titles)
    for cells_of_row in rows:
        row(*cells_of_row)


def compare(target: str, args: argparse.Namespace, more: list[str]) -> list[list[str]]:
    """The rows of the table of one city."""
    sources = [city for city in args.cities if city != target]
    scores: dict[str, list[dict[str, Any]]] = {regime: [] for regime in REGIMES}
    for seed in args.seeds:
        folder = Path(args.output_dir) / f"{target}-seed{seed}"
        common = ["--data_dir", args.data_dir, "--seed", str(seed), *more]
        on_target = ["--city", target, "--cut_day", str(args.cut_day), "--eval_fraction", "1.0", *common]
        new, tuned = ["--config", args.config], ["--config", args.finetune_config]
        together = ["--pretrain_cities", *sources]
        source = folder / "sources"
        trained_on = (
            ["--city", sources[0], "--pretrain_cities", *sources[1:]] if sources[1:] else ["--city", sources[0]]
        )
        train(source, [*new, *trained_on, *common, "--eval_fraction", "0"])
        go_on = ["--model_path", str(source)]
        plans = {
            "scratch": [*new, *on_target],
            "zero-shot": [*tuned, *on_target, *go_on, "--num_train_epochs", "0"],
            "fine-tuned": [*tuned, *on_target, *go_on],
            "joint": [*new, *on_target, *together],
        }
        for regime in REGIMES:
            scores[regime].append(train(folder / regime, plans[regime]))
    baseline = {f"test_{key}": scores["scratch"][0][f"{BASELINE}_{key}"] for key in COLUMNS}
    rows = [[target, f"baseline {BASELINE}", *cells([baseline]), ""]]
    for regime in REGIMES:
        minutes = np.mean([results["minutes"] for results in scores[regime]])
        rows.append([target, regime, *cells(scores[regime]), f"{minutes:.1f}"])
    return rows


def train(folder: Path, options: list[str]) -> dict[str, Any]:
    """The results of a run and its minutes (training, baselines and prediction); done now if they are not there."""
    results, minutes = folder / "all_results.json", folder / "minutes"
    if not (results.exists() and minutes.exists()):
        start = time.monotonic()
        rest = ["--eval_users", "0", "--save_strategy", "no", "--disable_tqdm", "true", "--overwrite", "true"]
        run(*parse_arguments([*options, *rest, "--output_dir", str(folder)]))
        minutes.write_text(f"{(time.monotonic() - start) / 60:.2f}")
    return json.loads(results.read_text()) | {"minutes": float(minutes.read_text())}


def cells(of_seeds: list[dict[str, Any]]) -> list[str]:
    texts = []
    for key, (_, digits) in COLUMNS.items():
        values = [results[f"test_{key}"] for results in of_seeds]
        spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
        texts.append(f"{np.mean(values):.{digits}f}{spread}")
    return texts


if __name__ == "__main__":
    main()
