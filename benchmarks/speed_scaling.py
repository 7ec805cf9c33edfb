"""How time and memory of training base.yaml grow with the history, the batch, the experts and the processes.

python benchmarks/speed_scaling.py --plot scaling.png    # a picture needs matplotlib
python benchmarks/speed_scaling.py --only experts --seconds 1
"""

import atexit
import shutil
import tempfile

import numpy as np
import torch
from torch import nn

from common import Measure, Side, row, table, take_turns, timing_arguments
from workloads import DEVICE, autocast, batch, network, print_machine, train


def train_in_processes(processes: int, name: str, users: int, history: int, horizon: int) -> Measure:
    """A training step of data-parallel processes with one core (or one GPU) each, `users` windows in each."""
    import torch.multiprocessing as mp

    context = mp.get_context("spawn")
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    store = f"{folder}/store"
    pipes = [context.Pipe() for _ in range(processes)]
    for rank, (_, there) in enumerate(pipes):
        arguments = (rank, processes, store, there, name, users, history, horizon)
        context.Process(target=_rank, args=arguments, daemon=True).start()

    def call() -> None:
        for here, _ in pipes:
            here.send(None)
        for here, _ in pipes:
            here.recv()

    return call, {}


def _rank(rank: int, processes: int, store: str, pipe, name: str, users: int, history: int, horizon: int) -> None:
    torch.set_num_threads(1)
    if DEVICE == "cuda":
        torch.cuda.set_device(rank)
    torch.distributed.init_process_group(
        "nccl" if DEVICE == "cuda" else "gloo", init_method=f"file://{store}", rank=rank, world_size=processes
    )
    model = nn.parallel.DistributedDataParallel(network(name))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    data = batch(users, history, horizon)
    while True:
        pipe.recv()
        with autocast():
            loss = model(**data).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        pipe.send(None)


# What varies -> its values, each with what is measured, the windows of a step, and further settings.
PLAN: dict[str, list[tuple]] = {
    "records of history": [(n, (train, "base", 4, n, 100), 4, {}) for n in (100, 300, 1000, 3000)],
    "windows a batch": [(n, (train, "base", n, 300, 100), n, {}) for n in (1, 4, 16, 64)],
    "experts": [(n, (train, "base", 8, 300, 100), 8, {"num_experts": n}) for n in (4, 8, 16, 64)],
    "processes of one core": [(n, (train_in_processes, n, "base", 8, 300, 100), 8 * n, {}) for n in (1, 2)],
}
Rows = dict[str, list[tuple[int, float, float]]]  # what varies -> (value, seconds a window, peak MB)


def scaling(plan: dict[str, list[tuple]], seconds: float) -> Rows:
    table("training of base.yaml", "", "windows/s", "peak MB")
    rows: Rows = {}
    for what, runs in plan.items():
        if what.startswith("processes") and DEVICE == "cuda" and torch.cuda.device_count() < 2:
            continue
        sides = take_turns({str(n): Side(*measure, **more) for n, measure, _, more in runs}, seconds, 2)
        for n, (measure, *_), windows, _ in runs:
            side = sides[str(n)]
            is_whole = measure is train  # the peak of the processes' parent says nothing
            rows.setdefault(what, []).append((n, side.median / windows, side.mb if is_whole else float("nan")))
            row(what, n, f"{windows / side.median:.2f}", f"{side.mb:.0f}" if is_whole else "not measured")
    return rows


def plot(rows: Rows, file: str) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(rows), figsize=(3.2 * len(rows), 5), squeeze=False, layout="constrained")
    for column, (what, values) in enumerate(rows.items()):
        n, seconds, mb = zip(*values, strict=True)
        for axis, numbers in ((axes[0, column], seconds), (axes[1, column], mb)):
            if np.isnan(numbers).all():
                axis.set_visible(False)
                continue
            axis.plot(n, numbers, "o-")
            axis.set_xscale("log", base=2)
            axis.set_xticks(n, [str(value) for value in n])
            axis.set_ylim(0, 1.1 * max(numbers))
            axis.set_xlabel(what)
    axes[0, 0].set_ylabel("seconds a window")
    axes[1, 0].set_ylabel("peak MB")
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = timing_arguments(__doc__, 15)
    parser.add_argument(
        "--only", nargs="+", default=list(PLAN), choices=list(PLAN), metavar="WHAT", help="what varies"
    )
    parser.add_argument("--plot", metavar="FILE", help="a picture of the scaling (matplotlib)")
    args = parser.parse_args()
    print_machine()
    rows = scaling({what: PLAN[what] for what in args.only}, args.seconds)
    if args.plot:
        plot(rows, args.plot)


if __name__ == "__main__":
    main()
