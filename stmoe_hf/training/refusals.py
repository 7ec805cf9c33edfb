"""What a run needs beside its data, and refuses to begin without: told before a record is read."""

from __future__ import annotations

from typing import Any

from transformers import Trainer
from transformers.integrations import integration_utils

from .arguments import RunArguments

# What transformers' check of a package is called, if not as in --report_to, and the package where pip installs it.
CHECKS = {"azure_ml": "azureml", "comet_ml": "comet", "flyte": "flytekit"}
PACKAGES = {"azure_ml": "azureml-core", "comet_ml": "comet-ml", "flyte": "flytekit"}


def refuse_what_is_missing(args: RunArguments) -> None:
    """Raise ValueError if what a run reports to, or its optimizer, is not installed, or not part of this Trainer."""
    if args.label_smoothing_factor:
        raise ValueError(
            f"label_smoothing_factor is {args.label_smoothing_factor}: these networks give the probability of the true"
            " cell, not of every cell, so nothing can be smoothed. Leave it at 0"
        )
    for name in args.report_to or []:
        if name not in integration_utils.INTEGRATION_TO_CALLBACK:
            known = ", ".join(integration_utils.INTEGRATION_TO_CALLBACK)
            raise ValueError(f"--report_to {name}: there is no such place; it is none, all, or of {known}")
        is_there: Any = getattr(integration_utils, f"is_{CHECKS.get(name, name)}_available", None)
        if is_there is not None and not is_there():
            package = PACKAGES.get(name, name)
            raise ValueError(f"--report_to {name} needs a package that is not installed: pip install {package}")
    try:
        Trainer.get_optimizer_cls_and_kwargs(args)
    except (ImportError, ValueError, RuntimeError) as error:
        name = getattr(args.optim, "value", args.optim)
        raise ValueError(f"--optim {name} cannot be used here: {error}") from error
