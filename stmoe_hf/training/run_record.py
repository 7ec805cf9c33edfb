"""`run.json`: what a repetition of a run needs to know, and whether a run that goes on is still the same one."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..prediction.load import find_model
from ..prediction.trained_on import describe_trained_on, record_of_model
from .arguments import DataArguments, ModelArguments, RunArguments, with_true_names
from .run_data import RunData

logger = logging.getLogger(__name__)
PACKAGES = ("stmoe-hf", "torch", "transformers", "datasets", "accelerate", "numpy")
# What may change when a run goes on, since no weight and no prediction depends on it: where files lie, ...
MAY_MOVE = ("data_dir", "data_path", "cache_dir", "output_dir", "poi")
# ... how a run goes on, is saved and shown, and on what it computes: names, or their beginnings.
MAY_CHANGE = (
    *("resume", "overwrite", "verbose", "disable_tqdm", "report", "run_name", "project", "local_rank", "_n_gpu"),
    *(
        "log",
        "save",
        "dataloader_num",
        "dataloader_p",
        "dataloader_m",
        "dataloader_i",
        "hub",
        "push_to_hub",
        "trackio",
        "include",
        "ddp",
        "fsdp",
        "deepspeed",
    ),
    *("torch_compile", "activation_checkpointing", "gradient_checkpointing", "skip_memory_metrics", "use_cpu"),
    *("accelerator_config", "parallelism_config", "per_device_eval_batch_size", "eval_accumulation_steps"),
    *("attn_implementation", "experts_implementation", "tf32", "world_size", "eval_delay"),
)
# Of the machine where it is not given.
OF_THE_MACHINE = ("bf16", "bf16_full_eval")
# Told by the batch of a whole step, whatever the number of processes.
OF_THE_BATCH = ("per_device_train_batch_size", "gradient_accumulation_steps", "world_size")
# Set by the data where nobody can be evaluated.
OF_EVALUATION = ("eval_strategy", "load_best_model_at_end", "metric_for_best_model", "greater_is_better")


def record_of_run(
    model_args: ModelArguments, data_args: DataArguments, args: RunArguments, data: RunData
) -> dict[str, Any]:
    """What a repetition of the run needs to know."""
    city = data.city
    start = model_args.model_path
    earlier = [] if start is None else record_of_model(find_model(start)).get("trained_on", [])
    return {
        "command": without_tokens(sys.argv),
        "model": vars(model_args),
        "data": vars(data_args),
        "training": args.to_dict() | {"world_size": args.world_size},
        "city": {"name": city.name, "edition": city.edition.name, "users": len(city), "records": city.num_records},
        "source": [str(path) for path in city.source],
        "held_out_uids": city.uids[data.split.held_out].tolist(),
        "trained_on": [*earlier, *(_trained_on(data) if args.trains else [])],
        "versions": _versions(),
        "machine": _machine(),
    }


def resumption(checkpoint: str, args: RunArguments) -> dict[str, Any]:
    """That a run went on, from where, by which command and with what."""
    return {
        "from": Path(checkpoint).name,
        "command": without_tokens(sys.argv),
        "world_size": args.world_size,
        "versions": _versions(),
        "machine": _machine(),
    }


def other_arguments(
    record: dict[str, Any], model_args: ModelArguments, data_args: DataArguments, args: RunArguments
) -> list[str]:
    """What a run began with and would go on with, of every argument that differs and on which its results depend."""
    now = vars(model_args) | vars(data_args) | args.to_dict() | {"world_size": args.world_size}
    now = json.loads(json.dumps(now, default=str))
    before = with_true_names(record["model"] | record["data"]) | with_true_names(record["training"])
    for name in OF_THE_MACHINE:
        if name in before and before[name] != now[name]:
            logger.warning(
                "%s was %s and is %s on this machine: the weights will be others", name, before[name], now[name]
            )
    same = {*MAY_MOVE, *OF_THE_MACHINE, *OF_THE_BATCH, *(OF_EVALUATION if before.get("eval_strategy") == "no" else ())}
    differ = [
        f"{name} was {before[name]} and is {value}"
        for name, value in now.items()
        if name in before and before[name] != value and name not in same and not name.startswith(MAY_CHANGE)
    ]
    sizes = [np.prod([values.get(name, 1) for name in OF_THE_BATCH], dtype=int) for values in (before, now)]
    if sizes[0] != sizes[1]:
        parts = [" x ".join(f"{name} {values.get(name, 1)}" for name in OF_THE_BATCH) for values in (before, now)]
        differ.append(f"a step took {sizes[0]} windows ({parts[0]}) and takes {sizes[1]} ({parts[1]})")
    return differ


def _trained_on(data: RunData) -> list[dict[str, Any]]:
    """Whose days this run trains on."""
    parts = [describe_trained_on(data.city, data.split.train_until)]
    for city in data.others:
        end = np.where(city.masked_counts > 0, city.edition.cut_day, city.calendar.last_day + 1)
        parts.append(describe_trained_on(city, end))
    return parts


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


def _machine() -> dict[str, Any]:
    return {"processor": platform.machine(), "cores": os.cpu_count(), "gpus": torch.cuda.device_count()}


def without_tokens(command: list[str]) -> list[str]:
    """A command line without the values of options like --hub_token."""
    words, secret = [], False
    for word in command:
        option, equals, _ = word.partition("=")
        is_secret = option.startswith("--") and "token" in option
        words.append("..." if secret else f"{option}=..." if is_secret and equals else word)
        secret = is_secret and not equals
    return words


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
