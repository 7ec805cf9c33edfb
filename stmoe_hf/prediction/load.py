"""Saved models: where one lies, and what is wrong with it, before anything is predicted or trained from it."""

from __future__ import annotations

import importlib.resources
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoProcessor, PreTrainedConfig, PreTrainedModel
from transformers.utils import cached_file

from ..model.processing_stmoe_bert import MobilityProcessor
from ..model.spacetime import Calendar, Grid

PRETRAINED = "pretrained"  # names the weights that come with the package
PROCESSOR_FILE = "processor_config.json"
SHOWN = 3  # tensors that an error names


def pretrained_folder() -> Path:
    """The folder of the weights that come with the package."""
    return Path(str(importlib.resources.files("stmoe_hf"))) / PRETRAINED


def find_model(model: str | Path | None) -> str:
    """A folder or Hub id of a model; by default, or by the name `pretrained`, the weights that come with the package.

    Raises:
        ValueError: there is no model of this name.
    """
    if model is None or (str(model) == PRETRAINED and not Path(PRETRAINED).is_dir()):
        return str(pretrained_folder())
    refuse_missing_model(str(model))
    return str(model)


def load_model(model: str | Path | None, grid: Grid, calendar: Calendar, device: str | None = None) -> PreTrainedModel:
    """A saved model, checked as by `load_saved`, for the grid and calendar of data.

    Raises:
        ValueError: there is no such model, something is wrong with it, or it belongs to another grid or calendar.
    """
    name = find_model(model)
    config: Any = load_config(name)
    loaded, _ = load_saved(name, config=config.for_data(grid, calendar))
    return loaded.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()  # type: ignore[arg-type]


def load_saved(model: str | Path, **options: Any) -> tuple[PreTrainedModel, MobilityProcessor | None]:
    """A saved model and the processor beside it, both checked: nothing is missing, and every number is finite.

    Args:
        model: folder of a saved model, or its name on the Hub.
        options: of `from_pretrained`, such as `config` or `attn_implementation`.

    Returns:
        The model, in eval mode, and its processor; None where none lies beside it (grid and calendar are then the
        data's: a default would be a guess).

    Raises:
        ValueError: there is no model, it cannot be read, tensors are missing, of other shapes or not of this network,
            a weight or setting is no finite number, or the processor has another grid than the model.
    """
    name = str(model)
    saved: Any = load_config(name)
    options.setdefault("config", saved)
    try:
        loaded, info = AutoModel.from_pretrained(name, output_loading_info=True, **options)
    except (OSError, RuntimeError, SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"the weights of {name} cannot be read: {_in_a_line(error)}") from error
    _refuse_other_tensors(name, info)
    refuse_unfinite_weights(loaded, f"the model at {name} is damaged")
    processor = load_processor(name)
    if processor is not None:
        try:
            processor.refuse_other_model(saved)
        except ValueError as error:
            raise ValueError(f"{PROCESSOR_FILE} of {name} is not of this model: {error}") from None
    return loaded, processor


def load_config(model: str | Path) -> PreTrainedConfig:
    """The configuration of a saved model; raises ValueError as `load_saved` does."""
    name = str(model)
    refuse_missing_model(name)
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StrictDataclassError) as error:
        raise ValueError(f"config.json of {name} cannot be read: {_in_a_line(error)}") from error
    wrong = [key for key, value in config.to_dict().items() if isinstance(value, float) and not math.isfinite(value)]
    if wrong:
        raise ValueError(f"config.json of {name}: {wrong[0]} is {getattr(config, wrong[0])}, no finite number")
    return config


def load_processor(model: str | Path) -> MobilityProcessor | None:
    """The processor of a saved model; None if there is none, which `AutoProcessor` would replace by a default."""
    name = str(model)
    there = (
        Path(name, PROCESSOR_FILE).is_file()
        if Path(name).is_dir()
        else cached_file(name, PROCESSOR_FILE, _raise_exceptions_for_missing_entries=False) is not None
    )
    if not there:
        return None
    try:
        return AutoProcessor.from_pretrained(name)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{PROCESSOR_FILE} of {name} cannot be read: {_in_a_line(error)}") from error


def refuse_missing_model(model: str) -> None:
    """Raise ValueError if this is neither the folder of a saved model nor a name that the Hub may know.

    Otherwise a path with a typing error would be looked for on the Hub, for half a minute where there is no network.
    """
    folder = Path(model)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ValueError(f"the folder {model} holds no saved model: it has no config.json")
    elif model.count("/") != 1 or folder.parent.is_dir() or model.startswith((".", "~", "runs/")):
        raise ValueError(f"there is no model at {model}")


def refuse_unfinite_weights(weights: nn.Module | Mapping[str, Tensor], what: str) -> None:
    """Raise ValueError, beginning with `what`, if a weight is NaN or infinite."""
    tensors = weights.state_dict() if isinstance(weights, nn.Module) else weights
    wrong = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not _all_finite(tensor)]
    if wrong:
        raise ValueError(f"{what}: {_some(wrong)} {'holds' if len(wrong) == 1 else 'hold'} NaN or infinite numbers")


def _all_finite(tensor: Tensor) -> bool:
    local = tensor.to_local() if hasattr(tensor, "to_local") else tensor  # of FSDP
    # The sum is finite if all are, unless it overflows; it takes no second tensor.
    return bool(torch.isfinite(local.sum(dtype=torch.float64)))


def _refuse_other_tensors(name: str, info: Mapping[str, Any]) -> None:
    for kind, said in (
        ("missing_keys", "lacks the weights"),
        ("mismatched_keys", "has weights of other shapes than its config.json says:"),
        ("unexpected_keys", "has weights that are not of this network:"),
        ("error_msgs", "cannot be read:"),
    ):
        if found := info.get(kind):
            names = sorted(str(key[0] if isinstance(key, tuple) else key) for key in found)
            raise ValueError(f"the model at {name} {said} {_some(names)}")


def _some(names: list[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
