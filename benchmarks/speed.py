"""Training, prediction and memory beside the published network (`MobilityBERTMoE`), and beside the machine's limit.

    python benchmarks/speed.py                     # on a GPU if there is one (bf16), else on the CPU (fp32)
    python benchmarks/speed.py train head          # these sections only
    python benchmarks/speed.py --plot speed.png    # and pictures of the scaling

It prints markdown. What is compared runs in processes of its own, so that a peak of memory is its own, and in turns,
so that a busy machine slows all sides alike; a figure is a median. Inputs are random records, weights are random: time
does not depend on what a network has learned.
"""

import argparse
import atexit
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import nn
from torch.nn import functional as F

from stmoe_hf import MobilityBERTMoE, MobilityProcessor, STMoEBertConfig, STMoEBertForMobility
from stmoe_hf.model.modeling_stmoe_bert import CellLogProbability, STMoEBertExperts
from stmoe_hf.prediction.predict import PredictionSettings, predict_cells
from stmoe_hf.training.command_line import parse_arguments

HISTORY, HORIZON = 900, 300  # records of a typical user before and after the cut
INPUT, OUTPUT = 240, 30  # records in and out of the published network
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KIND = torch.bfloat16 if DEVICE == "cuda" else torch.float32
ROOT = Path(__file__).resolve().parents[1]

# The published code's sizes: its argument of 12 heads does not divide 256 and is repaired to 16, its BERT has an inner
# size of 3,072. Beside it, the same records, layers, width and heads; an expert may be as wide as leaves the active
# parameters of a layer (two experts) no more than those of the dense one.
SIZES = {"hidden_size": 256, "num_hidden_layers": 24, "num_attention_heads": 16}
SAME = {**SIZES, "history_head": False}
NETWORKS = {
    "published": MobilityBERTMoE.config_class(**SIZES, intermediate_size=3072),
    "same, experts of 512": STMoEBertConfig(**SAME, intermediate_size=1024),
    "same, experts of 512, attention dropout": STMoEBertConfig(**SAME, intermediate_size=1024, attention_dropout=0.1),
    "same, experts of 1536": STMoEBertConfig(**SAME, intermediate_size=3072),
}


def network(name: str, **more) -> nn.Module:
    """One of NETWORKS, or that of a file in configs/."""
    torch.manual_seed(0)
    if name == "published":
        return MobilityBERTMoE(NETWORKS[name]).to(DEVICE)
    if name in NETWORKS:
        return STMoEBertForMobility(NETWORKS[name]).to(DEVICE)
    arguments = ["--city", "A", "--data_dir", ".", "--config", str(ROOT / "configs" / f"{name}.yaml")]
    model_args, *_ = parse_arguments(arguments)
    return STMoEBertForMobility(STMoEBertConfig(**{**model_args.config_values(), **more})).to(DEVICE)


def batch(users: int, history: int, horizon: int) -> dict[str, torch.Tensor]:
    random = np.random.default_rng(0)
    processor = MobilityProcessor()
    windows = []
    for _ in range(users):
        length = min(history + horizon, 75 * 48)
        times = np.sort(random.choice(75 * 48, length, replace=False))
        places = random.integers(0, 40000, 150)
        cell = places[np.minimum(random.exponential(20, length).astype(int), 149)]
        labels = np.full(length, -100)
        labels[-horizon:], cell[-horizon:] = cell[-horizon:], 40000
        windows.append({"inputs": processor.features(times // 48, times % 48, cell), "labels": labels})
    return {name: tensor.to(DEVICE) for name, tensor in processor.pad(windows).items()}


# What can be measured: each function sets a thing up, and gives the call to be timed and facts about it.
Measure = tuple[Callable[[], object], dict]


def train(
    name: str,
    users: int,
    history: int,
    horizon: int,
    compile: bool = False,
    all_logits: bool = False,
    checkpoint: bool = False,
    **more,
) -> Measure:
    """A training step; `all_logits`: cross-entropy on the [B, T, C] logits of every record."""
    model, data = network(name, **more).train(), batch(users, history, horizon)
    if checkpoint:  # of activations: each layer is computed again in backward
        model.gradient_checkpointing_enable()
    facts = {"parameters": sum(p.numel() for p in model.parameters())}
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    if compile:
        facts["breaks"] = torch._dynamo.explain(model)(**data).graph_break_count
        torch._dynamo.reset()
        model = torch.compile(model)

    def step() -> None:
        with torch.autocast(DEVICE, dtype=KIND, enabled=DEVICE == "cuda"):
            if all_logits:
                logits = model.cell_logits(model.encode(data["inputs"], data["attention_mask"]))
                loss = F.cross_entropy(logits.flatten(0, 1), data["labels"].flatten())
            else:
                loss = model(**data).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    return step, facts


def predict(name: str, users: int, decoder: str) -> Measure:
    model, data, grid = network(name).eval(), batch(users, HISTORY, HORIZON), MobilityProcessor().grid
    settings = PredictionSettings(decoder=decoder)

    def call() -> None:
        with torch.autocast(DEVICE, dtype=KIND, enabled=DEVICE == "cuda"):
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
            with torch.autocast(DEVICE, dtype=KIND, enabled=DEVICE == "cuda"):
                states = model.encode(block, torch.ones_like(block[..., 0]))
                logits = model.cell_logits(states[:, -OUTPUT:])
            inputs[:, first : first + OUTPUT, -1] = logits.argmax(-1)

    return call, {}


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


def head_products(records: int, hidden: int, cells: int = 40000) -> Measure:
    """The four products of the cross-entropy: the logits, again in backward, and the gradients of both factors."""
    states, weight = (torch.randn(size, hidden, device=DEVICE, dtype=KIND) for size in (records, cells))

    def call() -> None:
        for _ in range(2):
            logits = states @ weight.t()
        logits @ weight
        logits.t() @ states

    return call, {}


def head_loss(records: int, hidden: int, chunk: int, cells: int = 40000) -> Measure:
    states, weight = (
        torch.randn(size, hidden, device=DEVICE, dtype=KIND, requires_grad=True) for size in (records, cells)
    )
    bias = torch.zeros(cells, device=DEVICE, dtype=KIND, requires_grad=True)
    labels = torch.randint(0, cells, (records,), device=DEVICE)

    def call() -> None:
        states.grad = weight.grad = bias.grad = None
        if chunk:
            CellLogProbability.apply(states, weight, bias, labels, chunk).sum().backward()
        else:
            F.cross_entropy(F.linear(states, weight, bias).float(), labels, reduction="sum").backward()

    return call, {}


def feed_forward(implementation: str, records: int = 9600, hidden: int = 128) -> Measure:
    """Forward and backward of a layer's experts, or of a dense feed-forward with as many active parameters."""
    config = STMoEBertConfig(hidden_size=hidden, intermediate_size=4 * hidden)
    config._experts_implementation = implementation
    states = torch.randn(records, hidden, device=DEVICE, requires_grad=True)
    weights, index = torch.rand(records, 8, device=DEVICE).topk(2, dim=-1)
    if implementation == "dense":
        dense = nn.Sequential(nn.Linear(hidden, 4 * hidden), nn.GELU(), nn.Linear(4 * hidden, hidden)).to(DEVICE)
        forward = lambda: dense(states)  # noqa: E731
    else:
        experts = STMoEBertExperts(config).to(DEVICE)
        for parameter in experts.parameters():
            nn.init.normal_(parameter, std=0.02)
        forward = lambda: experts(states, index, weights)  # noqa: E731

    def call() -> None:
        with torch.autocast(DEVICE, dtype=KIND, enabled=DEVICE == "cuda"):
            result = forward()
        result.float().sum().backward()

    return call, {}


def load(users: int) -> Measure:
    """What the Trainer's loader does for a step: windows of a city's Arrow file, padded to a batch."""
    from stmoe_hf.data.city import open_city
    from stmoe_hf.data.synthetic import synthesize
    from stmoe_hf.data.windows import TrainingWindows, WindowShape, split_users

    with tempfile.TemporaryDirectory() as folder:
        synthesize("B", 200, output_dir=folder)
        city = open_city("B", folder, cache_dir=Path(folder) / "cache")
        processor = MobilityProcessor.for_data(city.grid, city.calendar)
        windows = TrainingWindows(city, split_users(city, 60, 0.0, 0), WindowShape(), processor, 0)
        random = np.random.default_rng(0)
        processor.pad([windows[i] for i in range(users)])
    return lambda: processor.pad([windows[i] for i in random.integers(0, len(windows), users)]), {}


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
        with torch.autocast(DEVICE, dtype=KIND, enabled=DEVICE == "cuda"):
            loss = model(**data).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        pipe.send(None)


MEASURES = {
    f.__name__: f
    for f in (
        *(train, predict, predict_as_published, product, head_products, head_loss, feed_forward, load),
        train_in_processes,
    )
}


class Side:
    """One side of a comparison: a process that sets a thing up, then runs it once for every line it is sent."""

    def __init__(self, what: str, *arguments, **more):
        command = [sys.executable, __file__, "--measure", json.dumps([what, arguments, more])]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (read when the process fails)
        self._process = subprocess.Popen(
            command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
        )
        self.seconds: list[float] = []
        self.mb = float("nan")
        self.facts = self._answer() or {}
        self.run()  # warms up
        self.seconds = []

    def run(self) -> None:
        if self._process.poll() is None:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
            if answer := self._answer():
                self.seconds.append(answer["seconds"])
                self.mb = answer["mb"]

    def _answer(self) -> dict | None:
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            print(f"(did not run: {(self._errors.read().strip().splitlines() or ['killed'])[-1][:200]})")
        return json.loads(line) if line else None

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()

    @property
    def median(self) -> float:
        return float(np.median(self.seconds)) if self.seconds else float("nan")


def serve(what: str, arguments: list, more: dict) -> None:
    """The process of a side."""
    call, facts = MEASURES[what](*arguments, **more)
    print(json.dumps(facts), flush=True)
    for _ in sys.stdin:
        _synchronise()
        start = time.perf_counter()
        call()
        _synchronise()
        seconds = time.perf_counter() - start
        mb = torch.cuda.max_memory_allocated() / 2**20 if DEVICE == "cuda" else peak_mb()
        print(json.dumps({"seconds": seconds, "mb": mb}), flush=True)


def peak_mb() -> float:
    """Of this process alone: what `getrusage` says includes what its parent held when it was started."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def _synchronise() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def take_turns(sides: dict[str, Side], seconds: float = 20, turns: int = 3) -> dict[str, Side]:
    """Run all sides in turns, at least `turns` times and for `seconds` in all; then end their processes."""
    start = time.monotonic()
    done = 0
    while done < turns or (time.monotonic() - start < seconds and done < 50):
        for side in sides.values():
            side.run()
        done += 1
    for side in sides.values():
        side.close()
    return sides


def ratio(slow: Side, fast: Side) -> float:
    """Median, over the turns, of how many times longer `slow` took."""
    pairs = list(zip(slow.seconds, fast.seconds, strict=False))
    return float(np.median([a / b for a, b in pairs])) if pairs else float("nan")


def section_train() -> None:
    title = f"training, 8 windows a step of {INPUT} + {OUTPUT} records"
    print(f"| {title} | windows/s | times | peak MB | of the published | parameters |")
    print("| --- | --- | --- | --- | --- | --- |")
    size = (8, INPUT, OUTPUT)
    published = Side("train", "published", *size)

    def row(name: str, side: Side, times: float) -> None:
        print(
            f"| {name} | {8 / side.median:.2f} | {times:.1f} | {side.mb:.0f} | {side.mb / published.mb:.2f}"
            f" | {side.facts.get('parameters', 0):,} |",
            flush=True,
        )

    plan = {name: (name, {}) for name in [*NETWORKS, "history", "base"] if name != "published"}
    plan["same, experts of 512, activations computed again"] = ("same, experts of 512", {"checkpoint": True})
    plan["published, logits of all records"] = ("published", {"all_logits": True})
    for name, (which, more) in plan.items():
        # One at a time beside the published network, which needs gigabytes and half a minute a step.
        published.run()
        side = Side("train", which, *size, **more)
        take_turns({name: side}, 10, 1)
        row(name, side, published.seconds[-1] / side.median)
    published.close()
    row("published", published, 1.0)


def section_predict() -> None:
    print(f"| prediction of {HORIZON} records after {HISTORY} | users/s | times | peak MB |")
    print("| --- | --- | --- | --- |")
    sides = {"published, one user at a time, fed back": Side("predict_as_published")}
    for name, decoder in (("history", "balanced"), ("history", "day"), ("base", "balanced"), ("base", "day")):
        sides[f"{name}, {decoder}, 16 users at a time"] = Side("predict", name, 16, decoder)
    take_turns(sides, 60)
    published, *_ = sides.values()
    for title, side in sides.items():
        users = 1 if side is published else 16
        print(f"| {title} | {users / side.median:.2f} | {users * ratio(published, side):.0f} | {side.mb:.0f} |")


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


def section_limit() -> None:
    size = (8, HISTORY, HORIZON)
    flops = count_flops("base", *size)
    product = Side("product")
    sides = {
        "a training step of base.yaml": Side("train", "base", *size),
        "the same, attention_dropout 0.1": Side("train", "base", *size, attention_dropout=0.1),
    }
    take_turns({"product": product, **sides}, 60)
    limit = product.facts["flops"] / product.median
    print("| | GFLOP/s | of the product | peak MB |")
    print("| --- | --- | --- | --- |")
    print(f"| a matrix product, 4096 x 4096 x 4096 | {limit / 1e9:.0f} | 100 % | |")
    for title, side in sides.items():
        share = flops / side.median / limit
        print(f"| {title} | {flops / side.median / 1e9:.0f} | {share:.0%} | {side.mb:.0f} |")
    for dropout in (0.0, 0.1):
        print(f"\nwhere a step goes, attention_dropout {dropout}:\n")
        step, _ = train("base", *size, attention_dropout=dropout)
        step()
        with torch.profiler.profile() as profile:
            step()
        cost = dict.fromkeys([*KINDS_OF_WORK, "other arithmetic"], 0.0)
        for event in profile.key_averages():
            kind = next((k for k, names in KINDS_OF_WORK.items() if any(n in event.key for n in names)), None)
            spent = event.self_device_time_total if DEVICE == "cuda" else event.self_cpu_time_total
            cost[kind or "other arithmetic"] += spent
        total = sum(cost.values())
        print("| work | share |\n| --- | --- |")
        for kind, spent in sorted(cost.items(), key=lambda item: -item[1]):
            print(f"| {kind} | {spent / total:.0%} |")


def section_head() -> None:
    hidden, records = 128, 2400
    sides = {"the four products alone": Side("head_products", records, hidden)}
    for chunk in (64, 256, 1024):
        sides[f"cross-entropy, chunks of {chunk}"] = Side("head_loss", records, hidden, chunk)
    sides["cross-entropy, all logits at once"] = Side("head_loss", records, hidden, 0)
    sides["chunks of 256, 4 times the records"] = Side("head_loss", 4 * records, hidden, 256)
    take_turns(sides)
    products, *_ = sides.values()
    print(f"| the head, {records} records, hidden {hidden}, 40,000 cells | s | times the products | peak MB |")
    print("| --- | --- | --- | --- |")
    for title, side in sides.items():
        print(f"| {title} | {side.median:.3f} | {ratio(side, products):.2f} | {side.mb:.0f} |")


def section_experts() -> None:
    names = ("dense", "eager", "grouped_mm", "stmoe_grouped")
    sides = take_turns({name: Side("feed_forward", name) for name in names})
    print(f"| feed-forward of 9,600 records, hidden 128, inner 512 ({KIND}) | ms | times the dense one |")
    print("| --- | --- | --- |")
    for name, side in sides.items():
        title = name if name == "dense" else f"8 experts, top 2: {name}"
        print(f"| {title} | {side.median * 1e3:.1f} | {ratio(side, sides['dense']):.2f} |")


def section_compile() -> None:
    size = (8, 300, 100)
    sides = {"as it is": Side("train", "base", *size), "compiled": Side("train", "base", *size, compile=True)}
    take_turns(sides)
    plain, compiled = sides.values()
    print(
        f"torch.compile of a training step of base.yaml: {ratio(plain, compiled):.2f} times as fast,"
        f" {compiled.facts.get('breaks', '?')} graph breaks, peak {plain.mb:.0f} and {compiled.mb:.0f} MB"
    )


def section_loader() -> None:
    sides = take_turns({"load": Side("load", 8), "step": Side("train", "history", 8, 700, 200)})
    share = sides["load"].median / (sides["load"].median + sides["step"].median)
    print(
        f"Loader, history.yaml, batches of 8: {sides['load'].median * 1e3:.1f} ms beside a step of"
        f" {sides['step'].median * 1e3:.0f} ms, {share:.1%} of the time without workers"
    )


def section_start() -> None:
    commands = {
        "import torch and transformers' models": [
            "-c",
            "import torch; from transformers import AutoModel, AutoProcessor, PreTrainedModel;"
            "import transformers.models.bert.modeling_bert",
        ],
        "import stmoe_hf": ["-c", "import stmoe_hf"],
        "python -m stmoe_hf --help": ["-m", "stmoe_hf", "--help"],
        "python train_hf.py --help": ["train_hf.py", "--help"],
    }
    seconds: dict[str, list[float]] = {title: [] for title in commands}
    for _ in range(4):
        for title, command in commands.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *command], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            seconds[title].append(time.perf_counter() - start)
    print("| start | s |\n| --- | --- |")
    for title, times in seconds.items():
        print(f"| {title} | {np.median(times[1:]):.1f} |")


def section_scaling() -> dict[str, list[tuple[int, float, float]]]:
    """Rows, for the plot: what varies -> (value, seconds a window, peak MB)."""
    plan = {
        "records of history": [(n, ("train", "base", 4, n, 100), {}) for n in (100, 300, 1000, 3000)],
        "windows a batch": [(n, ("train", "base", n, 300, 100), {}) for n in (1, 4, 16, 64)],
        "experts": [(n, ("train", "base", 8, 300, 100), {"num_experts": n}) for n in (4, 8, 16, 64)],
        "processes of one core": [(n, ("train_in_processes", n, "base", 8, 300, 100), {}) for n in (1, 2)],
    }
    print("| training of base.yaml | | windows/s | peak MB |\n| --- | --- | --- | --- |")
    rows: dict[str, list[tuple[int, float, float]]] = {}
    for what, runs in plan.items():
        if what.startswith("processes") and DEVICE == "cuda" and torch.cuda.device_count() < 2:
            continue
        sides = take_turns({str(n): Side(*measure, **more) for n, measure, more in runs}, 15, 2)
        for n, measure, _ in runs:
            side = sides[str(n)]
            windows = n * measure[3] if measure[0] == "train_in_processes" else measure[2]
            is_whole = measure[0] == "train"  # the peak of the processes' parent says nothing
            rows.setdefault(what, []).append((n, side.median / windows, side.mb if is_whole else float("nan")))
            print(f"| {what} | {n} | {windows / side.median:.2f} | {side.mb if is_whole else 0:.0f} |")
    return rows


def plot(rows: dict[str, list[tuple[int, float, float]]], file: str) -> None:
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


SECTIONS = ("train", "predict", "limit", "head", "experts", "compile", "loader", "start", "scaling")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; all by default")
    parser.add_argument("--plot", metavar="FILE", help="a picture of the scaling (matplotlib)")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        serve(*json.loads(args.measure))
        return
    if unknown := set(args.sections) - set(SECTIONS):
        parser.error(f"there is no section {', '.join(sorted(unknown))}; sections are {', '.join(SECTIONS)}")
    name = torch.cuda.get_device_name() if DEVICE == "cuda" else f"{platform.machine()}, {os.cpu_count()} cores"
    print(f"{name}; {KIND}; torch {torch.__version__}, transformers {transformers.__version__}")
    for section in args.sections or SECTIONS:
        print(flush=True)
        rows = globals()[f"section_{section}"]()
        if section == "scaling" and args.plot:
            plot(rows, args.plot)


if __name__ == "__main__":
    main()
