"""Training, prediction and memory, beside the published network (`MobilityBERTMoE`) in the same run.

    python benchmarks/speed.py            # on a GPU if there is one (bf16), else on the CPU (fp32)

Every measurement is a process of its own, so that its peak memory is its own; the two sides of a ratio take turns.
Inputs are random records, weights are random: time does not depend on what a network has learned.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time

import numpy as np
import torch
import transformers

from stmoe_hf import MobilityBERTMoE, MobilityBertMoEConfig, MobilityProcessor, STMoEBertConfig, STMoEBertForMobility
from stmoe_hf.arguments import parse_arguments
from stmoe_hf.prediction import PredictionSettings, predict_cells

# The sizes of the published code, and a layer of experts with no more active parameters than a dense one.
PUBLISHED = {"hidden_size": 256, "num_hidden_layers": 24, "num_attention_heads": 16}
HISTORY, HORIZON = 900, 300  # records of a typical user before and after the cut
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def network(name: str, **more) -> torch.nn.Module:
    torch.manual_seed(0)
    if name == "published":
        return MobilityBERTMoE(MobilityBertMoEConfig(**PUBLISHED)).to(DEVICE)
    if name == "same sizes":
        config = STMoEBertConfig(**PUBLISHED, intermediate_size=1024, history_head=False)
        return STMoEBertForMobility(config).to(DEVICE)
    model_args, *_ = parse_arguments(["--city", "A", "--data_dir", ".", "--config", f"configs/{name}.yaml"])
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


def repeat(call, seconds: float, least: int = 2) -> float:
    """Median seconds of a call."""
    call()
    times: list[float] = []
    while len(times) < least or sum(times) < seconds:
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def train(name: str, users: int, history: int, horizon: int, **more) -> dict:
    model, data = network(name, **more).train(), batch(users, history, horizon)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step():
        with torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=DEVICE == "cuda"):
            loss = model(**data).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    return {"per_second": users / repeat(step, 10), "parameters": sum(p.numel() for p in model.parameters())}


def predict(name: str, users: int) -> dict:
    model, data = network(name).eval(), batch(users, HISTORY, HORIZON)
    block = {"input_seq_length": 240, "predict_seq_length": 30} if name == "published" else {}
    settings = PredictionSettings(decoder="mode" if name == "published" else "balanced", **block)
    grid = MobilityProcessor().grid
    return {"per_second": users / repeat(lambda: predict_cells(model, data, grid, settings), 10)}


def product() -> dict:
    """FLOP/s of a large matrix product."""
    kind = torch.bfloat16 if DEVICE == "cuda" else torch.float32
    a, b = (torch.rand(4096, 4096, device=DEVICE, dtype=kind) for _ in range(2))
    return {"per_second": 2 * 4096**3 / repeat(lambda: a @ b, 3)}


def flops(name: str, users: int, history: int, horizon: int) -> dict:
    """FLOP/s of a training step: counted products of forward and backward over the time they take."""
    from torch.utils.flop_counter import FlopCounterMode

    model, data = network(name, experts_implementation="eager").train(), batch(users, history, horizon)
    with FlopCounterMode(display=False) as counter:
        model(**data).loss.backward()
    return {"per_second": counter.get_total_flops() * train(name, users, history, horizon)["per_second"] / users}


MEASURES = {"train": train, "predict": predict, "product": product, "flops": flops}


def measure(what: str, *arguments, **more) -> dict:
    """In a process of its own: what the measure gives, and the peak memory in MB."""
    command = [sys.executable, __file__, "--measure", json.dumps([what, arguments, more])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"per_second": float("nan"), "mb": float("nan"), "error": done.stderr.strip().splitlines()[-1][:150]}
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="leave out the scaling")
    args = parser.parse_args()
    if args.measure:
        what, arguments, more = json.loads(args.measure)
        result = MEASURES[what](*arguments, **more)
        if DEVICE == "cuda":
            result["mb"] = torch.cuda.max_memory_allocated() / 2**20
        else:
            result["mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(result))
        return
    name = torch.cuda.get_device_name() if DEVICE == "cuda" else f"{platform.machine()}, {os.cpu_count()} cores"
    print(f"{name}; torch {torch.__version__}, transformers {transformers.__version__}")
    print(f"{'bf16' if DEVICE == 'cuda' else 'fp32'}\n")

    print("| training, 8 windows a step of 240 + 30 records | windows/s | peak MB | parameters |")
    print("| --- | --- | --- | --- |")
    rows = {name: measure("train", name, 8, 240, 30) for name in ("published", "same sizes", "history", "base")}
    for title, row in rows.items():
        print(f"| {title} | {row['per_second']:.2f} | {row['mb']:.0f} | {row.get('parameters', 0):,} |")
    ratio, memory = (rows["same sizes"][k] / rows["published"][k] for k in ("per_second", "mb"))
    print(f"\nat the same sizes: {ratio:.1f} times the windows/s, {memory:.2f} of the memory\n")

    print(f"| prediction of {HORIZON} records after {HISTORY} | users/s | peak MB |")
    print("| --- | --- | --- |")
    rows = {"published, one user at a time": measure("predict", "published", 1)}
    rows |= {f"{name}, 16 users at a time": measure("predict", name, 16) for name in ("history", "base")}
    for title, row in rows.items():
        print(f"| {title} | {row['per_second']:.2f} | {row['mb']:.0f} |")
    published, *ours = rows.values()
    print("\nratios: " + ", ".join(f"{row['per_second'] / published['per_second']:.0f}" for row in ours) + "\n")

    limit, base = measure("product")["per_second"], measure("flops", "base", 8, HISTORY, HORIZON)["per_second"]
    print(f"a matrix product: {limit / 1e9:.0f} GFLOP/s; a training step of base.yaml: {base / 1e9:.0f} GFLOP/s,")
    print(f"{base / limit:.0%} of it\n")
    if args.quick:
        return
    print("| base.yaml, training | windows/s | peak MB |")
    print("| --- | --- | --- |")
    for records in (100, 300, 1000, 3000):
        row = measure("train", "base", 4, records, 100)
        print(f"| 4 windows, {records} + 100 records | {row['per_second']:.2f} | {row['mb']:.0f} |", flush=True)
    for users in (1, 4, 16, 64):
        row = measure("train", "base", users, 300, 100)
        print(f"| {users} windows, 300 + 100 records | {row['per_second']:.2f} | {row['mb']:.0f} |", flush=True)
    for experts in (4, 8, 16, 64):
        row = measure("train", "base", 8, 300, 100, num_experts=experts)
        print(f"| 8 windows, 300 + 100, {experts} experts | {row['per_second']:.2f} | {row['mb']:.0f} |", flush=True)


if __name__ == "__main__":
    main()
