"""Prediction of a user's whole horizon at once, beside the published way of 30 records a pass: users a second.

python benchmarks/speed_prediction.py
python benchmarks/speed_prediction.py --networks history --decoders balanced --seconds 1
"""

import torch

from common import Measure, Side, ratio, row, table, take_turns, timing_arguments
from stmoe_hf.model.processing_stmoe_bert import MobilityProcessor
from stmoe_hf.prediction.predict import PredictionSettings, predict_cells
from workloads import HISTORY, HORIZON, INPUT, OUTPUT, autocast, batch, network, print_machine

USERS = 16


def predict(name: str, users: int, decoder: str) -> Measure:
    """All users at once, the whole horizon in one pass, cells chosen by a decoder."""
    model, data, grid = network(name).eval(), batch(users, HISTORY, HORIZON), MobilityProcessor().grid
    settings = PredictionSettings(decoder=decoder)

    def call() -> None:
        with autocast():
            predict_cells(model, data, grid, settings)

    return call, {}


def predict_as_published() -> Measure:
    """One user: 240 records in, the logits of 30, the most probable cells fed back."""
    model, data = network("published").eval(), batch(1, HISTORY, HORIZON)

    @torch.no_grad()
    def call() -> None:
        inputs = data["inputs"].clone()
        for first in range(HISTORY, HISTORY + HORIZON, OUTPUT):
            block = inputs[:, first - INPUT : first + OUTPUT]
            with autocast():
                states = model.encode(block, torch.ones_like(block[..., 0]))
                logits = model.cell_logits(states[:, -OUTPUT:])
            inputs[:, first : first + OUTPUT, -1] = logits.argmax(-1)

    return call, {}


def main() -> None:
    parser = timing_arguments(__doc__, 60)
    parser.add_argument(
        "--networks", nargs="+", default=["history", "base"], help="of configs/ (default history base)"
    )
    parser.add_argument("--decoders", nargs="+", default=["balanced", "day"], help="default balanced day")
    args = parser.parse_args()
    print_machine()
    table(f"prediction of {HORIZON} records after {HISTORY}", "users/s", "times", "peak MB")
    published = Side(predict_as_published)
    sides = {"published, one user at a time, fed back": published}
    for name in args.networks:
        for decoder in args.decoders:
            sides[f"{name}, {decoder}, {USERS} users at a time"] = Side(predict, name, USERS, decoder)
    take_turns(sides, args.seconds)
    for title, side in sides.items():
        users = 1 if side is published else USERS
        row(title, f"{users / side.median:.2f}", f"{users * ratio(published, side):.0f}", f"{side.mb:.0f}")


if __name__ == "__main__":
    main()
