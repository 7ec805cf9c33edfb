"""What the speed_*.py scripts run: the published network and ours, random records, and a training step.

Inputs are random records and weights are random: time does not depend on what a network has learned. On a GPU in bf16
under autocast, else on the CPU in fp32, or in bf16 where that is asked for.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import Trainer, TrainingArguments

from common import ROOT, Measure, machine
from stmoe_hf import MobilityBERTMoE, MobilityProcessor, STMoEBertConfig, STMoEBertForMobility
from stmoe_hf.training.command_line import parse_arguments

HISTORY, HORIZON = 900, 300  # records of a typical user before and after the cut
INPUT, OUTPUT = 240, 30  # records in and out of the published network
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KIND = torch.bfloat16 if DEVICE == "cuda" else torch.float32

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
    "same, 4 experts of 1536": STMoEBertConfig(**SAME, intermediate_size=3072, num_experts=4),
}


def print_machine() -> None:
    device = f"{torch.cuda.get_device_name()}, " if DEVICE == "cuda" else ""
    print(f"{device}{machine('torch', 'transformers')}, {KIND}\n", flush=True)


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


def in_one_thread() -> bool:
    return DEVICE == "cpu" and torch.get_num_threads() == 1


def autocast(bf16: bool = False) -> torch.autocast:
    return torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=bf16 or DEVICE == "cuda")


def train(
    name: str,
    users: int,
    history: int,
    horizon: int,
    all_logits: bool = False,
    checkpoint: bool = False,
    bf16: bool = False,
    optim: str = "adamw_torch_fused",
    **more,
) -> Measure:
    """A training step.

    Args:
        all_logits: the cross-entropy is on the [B, T, C] logits of every record.
        checkpoint: of activations, so that each layer is computed again in backward.
        bf16: on a CPU too.
        optim: by the Trainer's name.
        more: of the configuration.
    """
    model, data = network(name, **more).train(), batch(users, history, horizon)
    if checkpoint:
        model.gradient_checkpointing_enable()
    facts = {"parameters": sum(p.numel() for p in model.parameters()), "one_thread": in_one_thread()}
    chosen, options = Trainer.get_optimizer_cls_and_kwargs(TrainingArguments(optim=optim, learning_rate=1e-4))
    optimiser = chosen(model.parameters(), **options)

    def step() -> None:
        with autocast(bf16):
            if all_logits:
                logits = model.cell_logits(model.encode(data["inputs"], data["attention_mask"]))
                loss = F.cross_entropy(logits.flatten(0, 1), data["labels"].flatten())
            else:
                loss = model(**data).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    return step, facts
