"""From a YAML file and a command line (which wins) to the arguments of a run."""

import dataclasses
import difflib
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import yaml
from transformers import HfArgumentParser

from .arguments import ALIASES, ARGUMENTS, DataArguments, ModelArguments, RunArguments, with_true_names
from .config_files import config_file
from .help import training_help

logger = logging.getLogger(__name__)
DEFAULT_CONFIG = "history"
KNOWN = {f.name for kind in ARGUMENTS for f in dataclasses.fields(kind) if f.init}
USAGE = "stmoe train --city CITY --data_dir DIR [--config NAME] [any argument that --help or --help_all lists]"


def parse_arguments(
    argv: list[str], values: Mapping[str, Any] | None = None, default_config: str | None = None
) -> tuple[ModelArguments, DataArguments, RunArguments]:
    """The arguments of a run from a command line, with the values of `--config` (YAML) as defaults.

    Args:
        argv: the command line.
        values: arguments by name, which win over the file, too; None leaves one unset.
        default_config: taken where no --config is given, for a new network of ours.

    Raises:
        ValueError: no city, an unknown key or a wrong value in the file, or an unusable combination.
        SystemExit: a wrong command line (argparse has said why), or help, which was printed.
    """
    parser = HfArgumentParser(ARGUMENTS, usage=USAGE, add_help=False)  # type: ignore[arg-type]
    _answer_questions(argv)
    file, rest = _take_config(argv)
    if file is None and default_config is not None and not _names_a_network(rest, values or {}):
        logger.info("no --config is given: %s is taken", default_config)
        file = default_config
    tokens = _yaml_tokens(parser, config_file(file)) if file else []
    tokens += _value_tokens(parser, values or {}, "train")
    model, data, run, *_, unknown = parser.parse_args_into_dataclasses(tokens + rest, return_remaining_strings=True)
    if unknown:
        raise ValueError(f"there is no argument {unknown[0]}{_near(unknown[0].partition('=')[0])}")
    if data.city is None and data.data_path is None:
        raise ValueError("say which city to train on: --city A --data_dir DIR, or a file with --data_path FILE")
    if run.output_dir is None or run.output_dir == "trainer_output":
        run.output_dir = f"runs/city{data.city or Path(data.data_path).name.split('.')[0]}"
    return model, data, run


def _answer_questions(argv: list[str]) -> None:
    """Print what --help, --help_all or --config_path ask for, and exit."""
    for index, word in enumerate(argv):
        option, _, name = word.partition("=")
        if option in ("-h", "--help", "--help_all"):
            print(training_help(USAGE, everything=option == "--help_all"))
            sys.exit(0)
        if option == "--config_path":
            print(config_file(name or next(iter(argv[index + 1 :]), "")).resolve())
            sys.exit(0)


def _take_config(argv: list[str]) -> tuple[str | None, list[str]]:
    rest, file = [], None
    tokens = iter(argv)
    for token in tokens:
        if token == "--config":
            file = next(tokens, None)
            if file is None:
                raise ValueError("--config needs a file, or the name of one that comes with the package")
        elif token.startswith("--config="):
            file = token.partition("=")[2]
        else:
            rest.append(token)
    return file, rest


def _names_a_network(argv: list[str], values: Mapping[str, Any]) -> bool:
    """Whether a command line or arguments say by themselves which network is trained."""
    words = {word.partition("=")[0].removeprefix("--") for word in argv if word.startswith("--")}
    words |= {name for name, value in values.items() if value is not None}
    return bool({"model", "model_path", "model_name"} & words)


def _near(name: str) -> str:
    """The argument that was probably meant, for an error."""
    near = difflib.get_close_matches(name.lstrip("-"), sorted({*KNOWN, *ALIASES}), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _yaml_tokens(parser: HfArgumentParser, path: Path) -> list[str]:
    """The file's values as a command line."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold `argument: value` lines")
    return _value_tokens(parser, values, str(path))


def _value_tokens(parser: HfArgumentParser, values: Mapping[str, Any], where: str) -> list[str]:
    """Values as a command line, so that all are read, converted and refused in one way; `where` begins an error."""
    try:
        values = with_true_names(values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    tokens: list[str] = []
    for key, value in values.items():
        if key not in KNOWN:
            raise ValueError(f"{where}: there is no argument {key!r}{_near(str(key))}")
        if value is None:
            continue
        if isinstance(value, dict):
            raise ValueError(f"{where}: {key} must be a single value or a list, not a mapping")
        part = [f"--{key}", *(str(v) for v in (value if isinstance(value, (list, tuple)) else [value]))]
        _check_value(parser, where, key, part)
        tokens += part
    return tokens


def _check_value(parser: HfArgumentParser, where: str, key: str, part: list[str]) -> None:
    """Let the parser read one value, to name its place and key if it cannot."""

    def fail(message: str) -> NoReturn:
        raise ValueError(f"{where}: {key}: {message}")

    usual, parser.error = parser.error, fail  # type: ignore[method-assign]
    try:
        parser.parse_known_args(part)
    finally:
        parser.error = usual  # type: ignore[method-assign]
