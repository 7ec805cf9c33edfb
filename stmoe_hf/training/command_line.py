"""From a YAML file and a command line (which wins) to the arguments of a run."""

import dataclasses
import difflib
from pathlib import Path
from typing import NoReturn

import yaml
from transformers import HfArgumentParser

from .arguments import DataArguments, ModelArguments, RunArguments

KINDS = (ModelArguments, DataArguments, RunArguments)
KNOWN = {f.name for kind in KINDS for f in dataclasses.fields(kind) if f.init}


def parse_arguments(argv: list[str]) -> tuple[ModelArguments, DataArguments, RunArguments]:
    """The arguments of a run from a command line, with the values of `--config FILE` (YAML) as defaults.

    Raises:
        ValueError: an unknown key or a wrong value in the file, or an unusable combination.
        SystemExit: a wrong command line (argparse has said why), or --help.
    """
    parser = HfArgumentParser(
        KINDS,  # type: ignore[arg-type]
        description="Train ST-MoE-BERT on a city.",
        usage="train_hf.py --city CITY --data_dir DIR [--config FILE] [any argument that --help lists]",
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file of any of these arguments, flat.")
    file, rest = _take_config(argv)
    tokens = _yaml_tokens(parser, Path(file)) if file else []
    model, data, run, *_, unknown = parser.parse_args_into_dataclasses(tokens + rest, return_remaining_strings=True)
    if unknown:
        raise ValueError(f"there is no argument {unknown[0]}{_near(unknown[0].partition('=')[0])}")
    if data.city is None and data.data_path is None:
        parser.error("say which city to train on: --city A --data_dir DIR, or a file with --data_path FILE")
    if run.output_dir is None or run.output_dir == "trainer_output":
        run.output_dir = f"runs/city{data.city or Path(data.data_path).name.split('.')[0]}"
    return model, data, run


def _take_config(argv: list[str]) -> tuple[str | None, list[str]]:
    rest, file = [], None
    tokens = iter(argv)
    for token in tokens:
        if token == "--config":
            file = next(tokens, None)
            if file is None:
                raise ValueError("--config needs a file")
        elif token.startswith("--config="):
            file = token.partition("=")[2]
        else:
            rest.append(token)
    return file, rest


def _near(name: str) -> str:
    """The argument that was probably meant, for an error."""
    near = difflib.get_close_matches(name.lstrip("-"), KNOWN, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _yaml_tokens(parser: HfArgumentParser, path: Path) -> list[str]:
    """The file's values as a command line, so that both are read, converted and refused in one way."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        raise ValueError(f"there is no configuration file {path}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold `argument: value` lines")
    tokens: list[str] = []
    for key, value in values.items():
        if key not in KNOWN:
            raise ValueError(f"{path}: there is no argument {key!r}{_near(str(key))}")
        if value is None:
            continue
        if isinstance(value, dict):
            raise ValueError(f"{path}: {key} must be a single value or a list, not a mapping")
        part = [f"--{key}", *(str(v) for v in (value if isinstance(value, list) else [value]))]
        _check_value(parser, path, key, part)
        tokens += part
    return tokens


def _check_value(parser: HfArgumentParser, path: Path, key: str, part: list[str]) -> None:
    """Let the parser read one value of the file, to name file and key if it cannot."""

    def fail(message: str) -> NoReturn:
        raise ValueError(f"{path}: {key}: {message}")

    usual, parser.error = parser.error, fail  # type: ignore[method-assign]
    try:
        parser.parse_known_args(part)
    finally:
        parser.error = usual  # type: ignore[method-assign]
