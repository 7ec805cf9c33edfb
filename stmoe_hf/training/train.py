"""Training from Python: `stmoe_hf.train(city="B", data_dir=DIR, config="history")`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .command_line import DEFAULT_CONFIG, parse_arguments
from .run import run


def train(
    *,
    city: str | None = None,
    data_dir: str | Path | None = None,
    config: str | Path | None = None,
    **arguments: Any,
) -> dict[str, Any]:
    """Train on a city, predict and score it: what `stmoe train` does.

    Args:
        city, data_dir: name of the city and folder of its files; or `data_path`, a file.
        config: YAML file, or the name of one that comes with the package (`history`, `demo`, ...); by default
            `history` for a new network.
        arguments: any other of `stmoe train --help_all`, by its name; they win over the file.

    Returns:
        The results, as in `all_results.json` of the run's folder.

    Raises:
        ValueError, OSError: with what is wrong, where, and what to do.
    """
    argv = [] if config is None else ["--config", str(config)]
    values = {"city": city, "data_dir": data_dir, **arguments}
    return run(*parse_arguments(argv, values, DEFAULT_CONFIG))
