"""Saved models: where one lies, and what is wrong with it, before anything else is read."""

from __future__ import annotations

import importlib.resources
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, PreTrainedModel

from ..model.spacetime import Calendar, Grid

PRETRAINED = "pretrained"  # names the weights that come with the package


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
    """A saved model for the grid and calendar of data.

    Raises:
        ValueError: there is no such model, or it belongs to another grid or calendar.
    """
    name = find_model(model)
    config: Any = AutoConfig.from_pretrained(name)
    config = config.for_data(grid, calendar)
    loaded = AutoModel.from_pretrained(name, config=config)
    return loaded.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()


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
