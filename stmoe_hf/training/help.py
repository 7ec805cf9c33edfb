"""`stmoe train --help`: our arguments, what a person needs first at the top; `--help_all` has transformers' too."""

from __future__ import annotations

import argparse
import dataclasses
import textwrap
from typing import Any

from .arguments import ARGUMENTS, DataArguments, ModelArguments, RunArguments
from .config_files import config_names

_WINDOWS = (
    *("input_seq_length", "predict_seq_length", "look_back_len", "windows_per_user", "min_history_days"),
    *("min_horizon_days", "max_seq_length"),
)
_PREDICTION = ("decoder", "distance_weight", "num_candidates", "per_device_eval_batch_size")
_MODEL = ("model_path", "model_name", "freeze", "cell_table", "city_embedding")
_FIRST_OF_TRAINING = (
    *("output_dir", "num_train_epochs", "learning_rate", "per_device_train_batch_size", "validation_users", "seed"),
    *("resume", "overwrite", "max_steps", "gradient_accumulation_steps", "use_cpu"),
)
_NEVER_ASKED_FOR = ("remove_unused_columns", "ddp_find_unused_parameters")


def _names_of(kind: Any) -> list[str]:
    """The arguments that a class of them declares itself, in order."""
    return [name for name in kind.__dataclass_fields__ if name in kind.__annotations__]


def groups() -> dict[str, list[str]]:
    """Title -> names of our arguments; each stands in one group, wherever it is declared."""
    elsewhere = {*_WINDOWS, *_PREDICTION, *_MODEL, *_FIRST_OF_TRAINING, *_NEVER_ASKED_FOR}

    def rest(kind: Any) -> list[str]:
        return [name for name in _names_of(kind) if name not in elsewhere]

    return {
        "data": rest(DataArguments),
        "model": [*_MODEL],
        "training": [*_FIRST_OF_TRAINING, *rest(RunArguments)],
        "prediction": [*_PREDICTION],
        "sizes of a new model (unset: the network's own)": rest(ModelArguments),
        "windows": [*_WINDOWS],
    }


def training_help(usage: str, everything: bool = False) -> str:
    """The text of --help, or of --help_all."""
    names = config_names()
    parser = argparse.ArgumentParser(
        usage=usage,
        add_help=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=34, width=110),
        description="Train ST-MoE-BERT on a city, predict and score it.",
    )
    first = parser.add_argument_group("settings")
    first.add_argument("--config", metavar="NAME", help=f"YAML file, or one of {', '.join(_own_configs(names))}")
    first.add_argument("--config_path", metavar="NAME", help="print where a configuration lies, and stop")
    first.add_argument(
        "--help_all", action="store_true", help="list the other arguments of transformers' Trainer, too"
    )
    listed = groups()
    fields = {f.name: f for kind in ARGUMENTS for f in dataclasses.fields(kind) if f.init}
    if everything:
        told = {name for part in listed.values() for name in part}
        listed["transformers' Trainer"] = [name for name in fields if name not in told]
    for title, part in listed.items():
        group = parser.add_argument_group(title)
        for name in part:
            _tell(group, fields[name])
    return parser.format_help() + "\n" + _examples(names)


def _own_configs(names: list[str]) -> list[str]:
    return [name for name in names if "/" not in name]


def _tell(group: Any, field: dataclasses.Field) -> None:
    """One argument: name, values, help, default."""
    text = str(field.metadata.get("help", "")).strip()
    text = text if text.endswith("..") else text.removesuffix(".")
    default = field.default
    if default not in (None, dataclasses.MISSING, ""):
        text += f" ({getattr(default, 'value', default)})"
    choices = field.metadata.get("choices")
    metavar = field.metadata.get("metavar") or ("{" + ",".join(choices) + "}" if choices else _kind(field))
    group.add_argument(f"--{field.name}", metavar=metavar, help=text.replace("%", "%%"))


def _kind(field: dataclasses.Field) -> str:
    """What a value is, in a word, by the annotation (a type, or its text)."""
    text = getattr(field.type, "__name__", "") if isinstance(field.type, type) else str(field.type)
    for part, word in (("list", "..."), ("bool", "true|false"), ("int", "N"), ("float", "X")):
        if part in text:
            return word
    return "TEXT"


def _examples(names: list[str]) -> str:
    several = ", ".join(name for name in names if "/" in name)
    return textwrap.dedent(
        f"""\
        examples:
          stmoe train --city B --data_dir DIR --config history
          stmoe train --city B --data_dir DIR --config finetune --model runs/cityA
          accelerate launch --config_file "$(stmoe train --config_path accelerate/multi_gpu)" --num_processes 4 \\
              -m stmoe_hf.training --city A --data_dir DIR      # also: {several}
        """
    )
