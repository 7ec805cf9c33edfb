"""The cross-entropy over 40,000 cells beside the four matrix products that it contains: time and peak memory.

python benchmarks/speed_head.py
python benchmarks/speed_head.py --records 200 --seconds 1
"""

import torch
from torch.nn import functional as F

from common import Measure, Side, ratio, row, table, take_turns, timing_arguments
from stmoe_hf.model.cell_head_stmoe_bert import CellLogProbability
from workloads import DEVICE, KIND, in_one_thread, print_machine

HIDDEN, CELLS = 128, 40000


def head_products(records: int) -> Measure:
    """The four products of the cross-entropy: the logits, again in backward, and the gradients of both factors."""
    states, weight = (torch.randn(size, HIDDEN, device=DEVICE, dtype=KIND) for size in (records, CELLS))

    def call() -> None:
        for _ in range(2):
            logits = states @ weight.t()
        logits @ weight
        logits.t() @ states

    return call, {"one_thread": in_one_thread()}


def head_loss(records: int, chunk: int) -> Measure:
    """Loss and gradients, a chunk of records at a time; 0: with the logits of all records at once."""
    states, weight = (
        torch.randn(size, HIDDEN, device=DEVICE, dtype=KIND, requires_grad=True) for size in (records, CELLS)
    )
    bias = torch.zeros(CELLS, device=DEVICE, dtype=KIND, requires_grad=True)
    labels = torch.randint(0, CELLS, (records,), device=DEVICE)

    def call() -> None:
        states.grad = weight.grad = bias.grad = None
        if chunk:
            CellLogProbability.apply(states, weight, bias, labels, chunk).sum().backward()
        else:
            F.cross_entropy(F.linear(states, weight, bias).float(), labels, reduction="sum").backward()

    return call, {"one_thread": in_one_thread()}


def main() -> None:
    parser = timing_arguments(__doc__, 20)
    parser.add_argument("--records", type=int, default=2400, help="asked-for records of a batch (default 2400)")
    args = parser.parse_args()
    print_machine()
    records = args.records
    products = Side(head_products, records)
    sides = {"the four products alone": products}
    for chunk in (64, 256, 1024):
        sides[f"cross-entropy, chunks of {chunk}"] = Side(head_loss, records, chunk)
    sides["cross-entropy, all logits at once"] = Side(head_loss, records, 0)
    sides["chunks of 256, 4 times the records"] = Side(head_loss, 4 * records, 256)
    take_turns(sides, args.seconds)
    table(f"the head, {records} records, hidden {HIDDEN}, {CELLS:,} cells", "s", "times the products", "peak MB")
    for title, side in sides.items():
        row(title, f"{side.median:.3f}", f"{ratio(side, products):.2f}", f"{side.mb:.0f}")


if __name__ == "__main__":
    main()
