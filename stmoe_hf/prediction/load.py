"""Saved models: where one lies, and what is wrong with it, before anything else is read."""

from __future__ import annotations

from pathlib import Path


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
