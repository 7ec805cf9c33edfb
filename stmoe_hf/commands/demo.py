"""`stmoe demo`: a generated city: zero-shot with the weights of the package, then fine-tuned, beside counting."""

import argparse
import shutil
import time
from pathlib import Path

from ..data.synthetic import synthesize

# People of the generated city, share of them that is held out, and fine-tuning: minutes on two cores.
PEOPLE = 80
TEST_FRACTION = 0.4
FINE_TUNING = ["--num_train_epochs", "1", "--learning_rate", "3e-4", "--alone_share", "0.5", "--logging_steps", "5"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output_dir", default="demo", help="folder for the city, the models and the results")
    parser.add_argument("--seed", type=int, default=42, help="of the city and of training (default 42)")


def run(args: argparse.Namespace) -> int:
    from ..report.unasked import REPORT, report_of_run  # heavy, and no part of the help
    from ..training.command_line import parse_arguments
    from ..training.run import run as train

    start = time.monotonic()
    folder = Path(args.output_dir)
    (folder / REPORT).unlink(missing_ok=True)
    for part in ("data", "zero-shot", "cityB"):
        shutil.rmtree(folder / part, ignore_errors=True)
    print(f"generating city B, {PEOPLE} people (generated, not real ones)")
    synthesize("B", PEOPLE, seed=args.seed, output_dir=folder / "data")
    common = ["--city", "B", "--data_dir", str(folder / "data"), "--model_path", "pretrained", "--decoder", "day"]
    common += ["--disable_tqdm", "true", "--test_fraction", str(TEST_FRACTION), "--seed", str(args.seed)]
    common += ["--validation_users", "0", "--report", "false"]
    print("\nzero-shot: the weights of the package, which never saw this city")
    zero_shot = train(
        *parse_arguments([*common, "--num_train_epochs", "0", "--output_dir", str(folder / "zero-shot")])
    )
    print("\nfine-tuned on this city")
    tuned = train(*parse_arguments([*common, *FINE_TUNING, "--output_dir", str(folder / "cityB")]))
    for name, results in (("zero-shot", zero_shot), ("fine-tuned", tuned)):
        scores = f"GEO-BLEU {results['test_humob2024_geobleu']:.4f}, DTW {results['test_humob2024_dtw']:.2f} km"
        print(f"{name:12}{scores} (edition humob2024)")
    print(report_of_run(folder / "cityB", folder / REPORT))
    print(
        f"The demo took {time.monotonic() - start:.0f} s. These people are generated: real scores are in the README."
    )
    return 0
