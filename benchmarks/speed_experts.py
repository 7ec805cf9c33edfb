"""A layer's experts in each implementation, beside a dense feed-forward with as many active parameters.

python benchmarks/speed_experts.py
python benchmarks/speed_experts.py --records 500 --seconds 1
"""

import torch
from torch import nn

from common import Measure, Side, ratio, row, table, take_turns, timing_arguments
from stmoe_hf.model.configuration_stmoe_bert import STMoEBertConfig
from stmoe_hf.model.experts_stmoe_bert import STMoEBertExperts
from workloads import DEVICE, KIND, autocast, print_machine

HIDDEN = 128
IMPLEMENTATIONS = ("dense", "eager", "grouped_mm", "stmoe_grouped")


def feed_forward(implementation: str, records: int) -> Measure:
    """Forward and backward of a layer's experts, or of a dense feed-forward with as many active parameters."""
    config = STMoEBertConfig(hidden_size=HIDDEN, intermediate_size=4 * HIDDEN)
    config._experts_implementation = implementation
    states = torch.randn(records, HIDDEN, device=DEVICE, requires_grad=True)
    weights, index = torch.rand(records, 8, device=DEVICE).topk(2, dim=-1)
    if implementation == "dense":
        dense = nn.Sequential(nn.Linear(HIDDEN, 4 * HIDDEN), nn.GELU(), nn.Linear(4 * HIDDEN, HIDDEN)).to(DEVICE)
        forward = lambda: dense(states)  # noqa: E731
    else:
        experts = STMoEBertExperts(config).to(DEVICE)
        for parameter in experts.parameters():
            nn.init.normal_(parameter, std=0.02)
        forward = lambda: experts(states, index, weights)  # noqa: E731

    def call() -> None:
        with autocast():
            result = forward()
        result.float().sum().backward()

    return call, {}


def main() -> None:
    parser = timing_arguments(__doc__, 20)
    parser.add_argument("--records", type=int, default=9600, help="records of a batch (default 9600)")
    args = parser.parse_args()
    print_machine()
    sides = take_turns({name: Side(feed_forward, name, args.records) for name in IMPLEMENTATIONS}, args.seconds)
    title = f"feed-forward of {args.records:,} records, hidden {HIDDEN}, inner {4 * HIDDEN} ({KIND})"
    table(title, "ms", "times the dense one")
    for name, side in sides.items():
        title = name if name == "dense" else f"8 experts, top 2: {name}"
        row(title, f"{side.median * 1e3:.1f}", f"{ratio(side, sides['dense']):.2f}")


if __name__ == "__main__":
    main()
