"""`stmoe convert --weights FILE --arguments arguments.json --output FOLDER`"""

import argparse
from pathlib import Path

from ..conversion import CELL_ORDERS, RELEASED_HEADS, RELEASED_INTERMEDIATE_SIZE, convert


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights", type=Path, required=True, help="state dict, .pth (no pickled code) or .safetensors"
    )
    parser.add_argument(
        "--arguments", type=Path, required=True, help="arguments.json that the network was trained with"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write; must not exist, or be empty")
    parser.add_argument(
        "--cell_order",
        choices=CELL_ORDERS,
        default="row",
        help="how the weights number cells: row (default) means (y-1)*width + (x-1), column (x-1)*height + (y-1)",
    )
    parser.add_argument("--grid_width", type=int, help="cells along x (default: the grid is square)")
    parser.add_argument("--grid_height", type=int, help="cells along y (default: the grid is square)")
    parser.add_argument(
        "--bert_attention_heads",
        type=int,
        help=f"heads of the BERT (default: {RELEASED_HEADS} for a MobilityBERTMoE whose BERT has the released inner "
        f"size {RELEASED_INTERMEDIATE_SIZE}, else attention_heads)",
    )


def run(args: argparse.Namespace) -> int:
    model = convert(
        args.weights,
        args.arguments,
        args.output,
        cell_order=args.cell_order,
        grid_width=args.grid_width,
        grid_height=args.grid_height,
        bert_attention_heads=args.bert_attention_heads,
    )
    config = model.config
    print(f"{type(model).__name__}: {sum(p.numel() for p in model.parameters()):,} weights -> {args.output}")
    print(f"assumed: cells by {args.cell_order} of a grid of {config.grid_width} x {config.grid_height}", end="")
    print(f"; {config.bert_attention_heads} heads in the BERT (--cell_order, --grid_width, --bert_attention_heads)")
    return 0
