"""The folder of a run: what lies in it under which name, whether a run may begin or go on there, and its record."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..data.files import open_aside
from ..model.records import KEY_COLUMNS
from .arguments import DataArguments, ModelArguments, RunArguments, with_true_names
from .run_data import RunData

logger = logging.getLogger(__name__)
RESULTS, PREDICTIONS, RECORD = "all_results.json", "predictions.csv.gz", "run.json"
PACKAGES = ("stmoe-hf", "torch", "transformers", "datasets", "accelerate", "numpy")
OF_THE_SPLIT = ("seed", "validation_users")
MAY_MOVE = ("data_dir", "data_path", "cache_dir")  # the files may lie elsewhere when a run goes on


class RunFolder:
    """The folder `path` of a run, which may hold an earlier one."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def checkpoint_to_resume(self, args: RunArguments) -> str | None:
        """The last whole checkpoint if a run is to go on; refuses to run over an earlier one unasked."""
        checkpoints = self._checkpoints()
        if args.resume:
            checkpoints.sort(key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
            for path in checkpoints:
                try:
                    # It is written last, so a checkpoint that has it is whole.
                    json.loads((path / "trainer_state.json").read_text())
                except (OSError, ValueError):
                    logger.warning("%s was cut off while it was written; an earlier checkpoint is taken", path)
                    continue
                logger.info("going on from %s", path)
                return str(path)
            logger.warning("%s has no checkpoint to go on from; training starts anew", self.path)
        elif (checkpoints or (self.path / RESULTS).exists()) and not args.overwrite:
            raise ValueError(
                f"{self.path} holds an earlier run: give --resume to go on with it, --overwrite to replace it, or"
                " another --output_dir"
            )
        return None

    def refuse_other_arguments(self, model_args: ModelArguments, data_args: DataArguments, args: RunArguments) -> None:
        """Raise ValueError if a run would go on with another model, data or split than it began with."""
        try:
            record = json.loads((self.path / RECORD).read_text())
        except FileNotFoundError:
            return
        now = vars(model_args) | vars(data_args) | {name: getattr(args, name) for name in OF_THE_SPLIT}
        training = with_true_names(record["training"])
        before = with_true_names(record["model"] | record["data"]) | {name: training[name] for name in OF_THE_SPLIT}
        differ = [
            f"{name} was {before[name]} and is {value}"
            for name, value in now.items()
            if name not in MAY_MOVE and name in before and before[name] != value
        ]
        if differ:
            raise ValueError(f"the run in {self.path} cannot be resumed with other arguments: {'; '.join(differ)}")

    def begin(self, model_args: ModelArguments, data_args: DataArguments, args: RunArguments, data: RunData) -> None:
        """Make the folder, remove what an earlier run left if it is to be replaced, and write the record."""
        self.path.mkdir(parents=True, exist_ok=True)
        if args.overwrite and not args.resume:
            self._remove_earlier_run(keep_weights=model_args.model_path)
        self._write(RECORD, record_of_run(model_args, data_args, args, data))

    def finish(self, results: dict[str, Any], predicted: list[pd.DataFrame]) -> None:
        """Write predictions, if there are any, and results."""
        if predicted:
            with open_aside(self.path / PREDICTIONS) as file:
                pd.concat(predicted).sort_values(list(KEY_COLUMNS)).to_csv(file, index=False)
        self._write(RESULTS, results)

    def _checkpoints(self) -> list[Path]:
        return [path for path in self.path.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.is_dir()]

    def _remove_earlier_run(self, keep_weights: str | None) -> None:
        """Remove what a run killed from here on, or its --resume, would be taken to have made.

        Args:
            keep_weights: the model that training starts from; it stays if it is the one of this folder.
        """
        for path in self._checkpoints():
            shutil.rmtree(path)
        old = [self.path / RESULTS, self.path / PREDICTIONS]
        if keep_weights is None or Path(keep_weights).resolve() != self.path.resolve():
            old += self.path.glob("model*.safetensors*")
        for path in old:
            path.unlink(missing_ok=True)

    def _write(self, name: str, value: dict[str, Any]) -> None:
        with open_aside(self.path / name) as file:
            file.write(json.dumps(value, indent=2, default=str) + "\n")


def record_of_run(
    model_args: ModelArguments, data_args: DataArguments, args: RunArguments, data: RunData
) -> dict[str, Any]:
    """What a repetition of the run needs to know."""
    city = data.city
    return {
        "command": without_tokens(sys.argv),
        "model": vars(model_args),
        "data": vars(data_args),
        "training": args.to_dict() | {"world_size": args.world_size},
        "city": {"name": city.name, "edition": city.edition.name, "users": len(city), "records": city.num_records},
        "source": [str(path) for path in city.source],
        "held_out_uids": city.uids[data.split.held_out].tolist(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "gpus": torch.cuda.device_count()},
    }


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
