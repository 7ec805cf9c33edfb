"""`stmoe export-model --model FOLDER --output network.onnx`"""

import argparse
import time
from pathlib import Path

from ..hub.export_formats import SUFFIXES
from .options import OWN_WEIGHTS, add_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser, OWN_WEIGHTS, required=False)
    endings = " or ".join(SUFFIXES.values())
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help=f"file to write, {endings}")
    parser.add_argument(
        "--format", choices=tuple(SUFFIXES), help="torch.export or ONNX; unset: as the name of the file ends"
    )


def run(args: argparse.Namespace) -> int:
    from ..hub.export_model import export_model  # heavy, and no part of the help
    from ..prediction.load import find_model, load_saved

    begin = time.perf_counter()
    model, _ = load_saved(find_model(args.model))
    difference = export_model(model, args.output, args.format)
    size, seconds = args.output.stat().st_size / 1e6, time.perf_counter() - begin
    print(f"{model.num_parameters():,} weights -> {args.output}, {size:.1f} MB")
    print(f"loaded again and compared: log-probabilities within {difference:.1g} of the network's; {seconds:.0f} s")
    return 0
