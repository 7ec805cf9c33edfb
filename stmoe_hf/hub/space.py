"""The app as a Space of the Hub: the package itself, a file that starts the app, what it needs, and a card."""

from __future__ import annotations

import importlib.metadata
import shutil
import tempfile
from pathlib import Path

from huggingface_hub.utils import validate_repo_id
from packaging.requirements import Requirement

from ..data.files import new_folder
from ..prediction.load import PRETRAINED
from .upload import upload

SDK, PORT = "gradio", 7860
DISTRIBUTION, EXTRA = "stmoe-hf", "app"
PYTHON = "3.11"  # that the versions of constraints.txt were tested with


def export_space(folder: str | Path, space: str, model: str | None = None) -> Path:
    """Write the folder that is uploaded: app.py, requirements.txt, README.md, and the package, which no index has.

    Args:
        folder: to be written; refused if it holds anything.
        space: organisation/name, under which the card shows it.
        model: that the app forecasts with, by its name on the Hub; unset: the weights that come with the package.

    Raises:
        ValueError: `space` or `model` is no name on the Hub. FileExistsError: the folder is not empty.
    """
    refuse_names(space, model)
    own = None if model == PRETRAINED else model
    package = Path(__file__).parents[1]
    with new_folder(Path(folder)) as aside:
        shutil.copytree(package, aside / package.name, ignore=shutil.ignore_patterns("__pycache__"))
        arguments = ["app", "--host", "0.0.0.0", "--port", str(PORT), *([] if own is None else ["--model", own])]
        (aside / "app.py").write_text(_APP.format(arguments=arguments))
        (aside / "requirements.txt").write_text("\n".join(requirements()) + "\n")
        (aside / "README.md").write_text(_card(space, own))
    return Path(folder)


def push_space(space: str, model: str | None = None, *, private: bool = False, token: str | None = None) -> str:
    """Upload the app as one commit; errors and what is returned as of `upload`."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = export_space(Path(temporary) / "space", space, model)
        return upload(folder, space, "Upload of the app of stmoe_hf", sdk=SDK, private=private, token=token)


def refuse_names(space: str, model: str | None) -> None:
    """Raise ValueError if a Space cannot be called so, or could not find its model."""
    validate_repo_id(space)
    if space.count("/") != 1:
        raise ValueError(f"--space {space}: give the name as ORG/NAME")
    if model in (None, PRETRAINED):
        return
    if Path(model).exists() or model[0] in "./~" or model.count("/") != 1:
        raise ValueError(
            f"a Space cannot read {model}, which is no name on the Hub: publish the model first (`stmoe push --model"
            f" {model} --repo_id ORG/MODEL`), then give --model ORG/MODEL; without --model it has the weights of the"
            " package"
        )
    validate_repo_id(model)


def requirements() -> list[str]:
    """What the app needs, as the installed package says: its requirements and those of its extra `app`."""
    try:
        said = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(f"{DISTRIBUTION} is not installed, so what it needs is not known: pip install .") from None
    found = {}
    for text in said:
        need = Requirement(text)
        if need.marker is None or need.marker.evaluate({"extra": EXTRA}):
            found[need.name] = f"{need.name}{need.specifier}"
    return sorted(found.values(), key=str.lower)


def _card(space: str, model: str | None) -> str:
    try:
        version = f"sdk_version: {importlib.metadata.version(SDK)}\n"
    except importlib.metadata.PackageNotFoundError:
        version = ""  # the Hub takes its newest
    models = "" if model is None else f"models:\n- {model}\n"
    weights = (
        "the weights that come with the package" if model is None else f"[{model}](https://huggingface.co/{model})"
    )
    title = space.rpartition("/")[2]
    return _CARD.format(title=title, sdk=SDK, version=version, python=PYTHON, models=models, weights=weights)


_APP = '''"""Starts the app; `stmoe app` starts the same one on your own machine."""

import sys

from stmoe_hf.__main__ import main

sys.exit(main({arguments!r}))
'''

_CARD = """---
title: {title}
sdk: {sdk}
{version}python_version: "{python}"
app_file: app.py
license: apache-2.0
{models}---

# Where will they be?

Give the past of some people (records or GPS points) and see where they will be in the days to come. It forecasts with
{weights}.

What is uploaded is read by the machine of this Space and removed when the page is closed. Do not give a public Space
records of people who have not agreed to it: `stmoe app` is the same page on a machine of your own.

The package lies in `stmoe_hf/`; `requirements.txt` says what it needs. Code and the weights of the package:
Apache-2.0.
"""
