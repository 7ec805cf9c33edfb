"""Training at the published sizes, and of our configs, beside the published network: windows a second and peak memory.

    python benchmarks/speed_training.py
    python benchmarks/speed_training.py --networks history --seconds 1
    python benchmarks/speed_training.py --networks "same, experts of 1536" --optim adafactor --activation_checkpointing

One network at a time beside the published one (`MobilityBERTMoE`), which needs gigabytes and half a minute a step.
"""

import itertools

from common import Side, row, table, take_turns, timing_arguments
from stmoe_hf.training.arguments import cpu_has_bf16
from workloads import DEVICE, INPUT, NETWORKS, OUTPUT, print_machine, train

USERS = 8
# Row of the table -> the network, and how it is trained.
PLAN: dict[str, tuple[str, dict]] = {
    **{name: (name, {}) for name in [*NETWORKS, "history", "base"] if name != "published"},
    "published, logits of all records": ("published", {"all_logits": True}),
}
if DEVICE == "cpu" and cpu_has_bf16():
    for _name in ("same, experts of 512", "same, experts of 1536", "base", "history", "published"):
        PLAN[f"{_name}, bf16"] = (_name, {"bf16": True})


def main() -> None:
    parser = timing_arguments(__doc__, 10)
    parser.add_argument("--networks", nargs="+", default=list(PLAN), choices=list(PLAN), metavar="NETWORK")
    parser.add_argument(
        "--optim", nargs="+", default=["adamw_torch_fused"], metavar="NAME", help="by the Trainer's name; of ours"
    )
    parser.add_argument("--activation_checkpointing", action="store_true", help="of ours, beside without")
    args = parser.parse_args()
    print_machine()
    title = f"training, {USERS} windows a step of {INPUT} + {OUTPUT} records"
    table(title, "windows/s", "times", "peak MB", "of the published", "parameters")
    published = Side(train, "published", USERS, INPUT, OUTPUT)

    def line(name: str, side: Side, times: float) -> None:
        share, parameters = side.mb / published.mb, side.facts.get("parameters", 0)
        row(name, f"{USERS / side.median:.2f}", f"{times:.1f}", f"{side.mb:.0f}", f"{share:.2f}", f"{parameters:,}")

    for name, optim, checkpoint in itertools.product(
        args.networks, args.optim, [False, True] if args.activation_checkpointing else [False]
    ):
        which, more = PLAN[name]
        published.run()
        side = Side(train, which, USERS, INPUT, OUTPUT, optim=optim, checkpoint=checkpoint, **more)
        title = ", ".join([name, optim] + ["activations computed again"] * checkpoint)
        take_turns({title: side}, args.seconds, 1)
        line(title, side, published.seconds[-1] / side.median)
    published.close()
    line("published", published, 1.0)


if __name__ == "__main__":
    main()
