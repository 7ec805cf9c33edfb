"""torch.compile of a training whose batches are of five lengths: the first round with its compiling, then the steps.

python benchmarks/speed_compile.py
python benchmarks/speed_compile.py --config history --part network

A part that compiles at each new number of records of an expert does not end in a quarter of an hour: stop it then.
"""

import itertools
import os

import torch

from common import Measure, Side, cpu_seconds, ratio, take_turns, timing_arguments
from workloads import batch, in_one_thread, network, print_machine

LENGTHS = [(300, 100), (260, 90), (340, 110), (420, 140), (180, 60)]  # history and asked-for records
PARTS = ("attention", "layers", "heads", "network")


def compiled_training(config: str, part: str | None) -> Measure:
    """A training step with the next batch; `part` of the network is compiled, for any number of records."""
    model = network(config).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    layers = model.model.encoder.layer
    heads = (getattr(model, name, None) for name in ("history_head", "spread", "far", "field"))
    compiled = {
        None: [],
        "attention": [module for layer in layers for module in (layer.attention, layer.output)],
        "layers": list(layers),
        "heads": [head for head in heads if head is not None],
        "network": [model],
    }[part]
    for module in compiled:
        module.compile(dynamic=True)
    batches = itertools.cycle([batch(8, *length) for length in LENGTHS])

    def step() -> None:
        model(**next(batches)).loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    start = cpu_seconds()
    for _ in LENGTHS:
        step()
    breaks = sum(torch._dynamo.utils.counters["graph_break"].values())
    return step, {"first": cpu_seconds() - start, "breaks": breaks, "one_thread": in_one_thread()}


def main() -> None:
    parser = timing_arguments(__doc__, 60)
    parser.add_argument("--config", default="base", help="of configs/ (default base)")
    parser.add_argument("--part", default="attention", choices=PARTS, help="what is compiled (default attention)")
    args = parser.parse_args()
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # whose seconds are counted with the process's
    print_machine()
    plain, compiled = Side(compiled_training, args.config, None), Side(compiled_training, args.config, args.part)
    take_turns({"as it is": plain, "compiled": compiled}, args.seconds, 2 * len(LENGTHS))
    print(
        f"{args.config}.yaml, {args.part} compiled: {compiled.facts.get('breaks', '?')} graph breaks; the first"
        f" {len(LENGTHS)} steps {compiled.facts.get('first', float('nan')):.0f} s, as it is"
        f" {plain.facts['first']:.0f} s; then {ratio(plain, compiled):.2f} times as fast; peak {plain.mb:.0f} and"
        f" {compiled.mb:.0f} MB"
    )


if __name__ == "__main__":
    main()
