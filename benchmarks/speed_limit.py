"""A training step of base.yaml beside the machine's limit, a large matrix product, and where its time goes.

python benchmarks/speed_limit.py
python benchmarks/speed_limit.py --seconds 1
python benchmarks/speed_limit.py --profile "same, experts of 1536"
"""

import torch

from common import Measure, Side, row, table, take_turns, timing_arguments
from workloads import DEVICE, HISTORY, HORIZON, INPUT, KIND, NETWORKS, OUTPUT, batch, network, print_machine, train

SIZE = (8, HISTORY, HORIZON)
# What operators do, by their names in a profile.
KINDS_OF_WORK = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::addmm_", "aten::addmv", "grouped_mm"),
    "attention": ("scaled_dot_product", "flash", "efficient_attention"),
    "convolution": ("conv",),
    "softmax, logsumexp, exp": ("softmax", "logsumexp", "aten::exp", "aten::amax", "aten::log", "isneginf"),
    "dropout": ("dropout", "bernoulli"),
    "norm and activation": ("layer_norm", "gelu"),
    "sort, gather, scatter": ("sort", "gather", "scatter", "index", "embedding", "topk"),
    "copies, fills, concatenation": ("copy", "fill", "cat", "zero", "clone"),
    "optimiser": ("adamw", "Optimizer"),
}


def product() -> Measure:
    """A large matrix product."""
    a, b = (torch.rand(4096, 4096, device=DEVICE, dtype=KIND) for _ in range(2))
    return lambda: a @ b, {"flops": 2 * 4096**3}


def count_flops(name: str, users: int, history: int, horizon: int) -> int:
    """FLOP of the products of a training step, forward and backward; experts that a record is not sent to are none."""
    from torch.utils.flop_counter import FlopCounterMode

    model = network(name, attn_implementation="eager", experts_implementation="eager").train()
    with FlopCounterMode(display=False) as counter:
        model(**batch(users, history, horizon)).loss.backward()
    return counter.get_total_flops()


def where_a_step_goes(name: str, *size: int, **more) -> None:
    """Print the share of each kind of work in a profile of one step."""
    step, _ = train(name, *size, **more)
    step()
    with torch.profiler.profile() as profile:
        step()
    cost = dict.fromkeys([*KINDS_OF_WORK, "other arithmetic"], 0.0)
    for event in profile.key_averages():
        kind = next((k for k, names in KINDS_OF_WORK.items() if any(n in event.key for n in names)), None)
        spent = event.self_device_time_total if DEVICE == "cuda" else event.self_cpu_time_total
        cost[kind or "other arithmetic"] += spent
    total = sum(cost.values())
    table("work", "share")
    for kind, spent in sorted(cost.items(), key=lambda item: -item[1]):
        row(kind, f"{spent / total:.0%}")


def main() -> None:
    parser = timing_arguments(__doc__, 60)
    parser.add_argument("--profile", choices=list(NETWORKS), help="only where a step of this network goes")
    args = parser.parse_args()
    print_machine()
    if args.profile:
        where_a_step_goes(args.profile, 8, INPUT, OUTPUT)
        return
    flops = count_flops("base", *SIZE)
    limit_side = Side(product)
    sides = {
        "a training step of base.yaml": Side(train, "base", *SIZE),
        "the same, attention_dropout 0.1": Side(train, "base", *SIZE, attention_dropout=0.1),
    }
    take_turns({"product": limit_side, **sides}, args.seconds)
    limit = limit_side.facts["flops"] / limit_side.median
    table("", "GFLOP/s", "of the product", "peak MB")
    row("a matrix product, 4096 x 4096 x 4096", f"{limit / 1e9:.0f}", "100 %", "")
    for title, side in sides.items():
        share = flops / side.median / limit
        row(title, f"{flops / side.median / 1e9:.0f}", f"{share:.0%}", f"{side.mb:.0f}")
    for dropout in (0.0, 0.1):
        print(f"\nwhere a step goes, attention_dropout {dropout}:\n")
        where_a_step_goes("base", *SIZE, attention_dropout=dropout)


if __name__ == "__main__":
    main()
