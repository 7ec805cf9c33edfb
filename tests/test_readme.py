"""The snippets of README and docs: the Python ones run, and the command lines are understood."""

import argparse
import importlib
import re
import shlex
from pathlib import Path

import pytest

from stmoe_hf.__main__ import COMMANDS
from stmoe_hf.training.command_line import parse_arguments

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MODEL = re.compile(r"""(["'])(runs/city\w+|[\w-]+/stmoe-bert-city\w+)\1""")  # the models that snippets speak of

CALL = r"stmoe |(accelerate launch|python) .*((train_hf|push_to_hub)\.py|-m stmoe_hf(\.training)?) "
SCRIPTS = {"train_hf.py": "train", "stmoe_hf.training": "train", "push_to_hub.py": "push"}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def command_lines() -> list[str]:
    """Every call of the command, or of a script that does the same, without comments and optional brackets."""
    text = "\n".join(block for page in PAGES for kind in ("", "bash") for block in blocks(page, kind))
    lines = [line.split("#")[0] for line in text.replace("\\\n", " ").splitlines()]
    return sorted({re.sub(r"[\[\]]", "", line).strip() for line in lines if re.match(CALL, f"{line} ")})


def command_of(line: str) -> tuple[str, list[str]]:
    """The command that a line calls, and its options."""
    words = shlex.split(line)
    for number, word in enumerate(words):
        if word in ("stmoe", "stmoe_hf"):
            return words[number + 1], words[number + 2 :]
        if (name := SCRIPTS.get(Path(word).name)) is not None:
            return name, words[number + 1 :]
    raise AssertionError(f"no command in {line}")


def test_python_snippets_run_one_after_another(exported, records, monkeypatch, tmp_path):
    snippets = blocks(ROOT / "README.md", "python")
    assert snippets
    monkeypatch.chdir(tmp_path)
    names = {"records": records, "df": records}
    for snippet in snippets:
        exec(MODEL.sub(repr(str(exported)), snippet), names)
    assert type(names["model"]).__name__ == "STMoEBertForMobility"


@pytest.mark.parametrize("line", command_lines())
def test_command_lines_are_understood(line, monkeypatch):
    monkeypatch.chdir(ROOT)  # where configs/ is
    command, options = command_of(line)
    if command == "COMMAND" or "--help" in options:
        return
    assert command in COMMANDS, command
    if command == "train":
        parse_arguments(options)
    else:
        parser = argparse.ArgumentParser()
        importlib.import_module(f"stmoe_hf.commands.{command.replace('-', '_')}").add_arguments(parser)
        parser.parse_args(options)


def test_every_way_to_call_a_command_is_recognised():
    for line in (
        "stmoe train --city B",
        "python -m stmoe_hf train --city B",
        "python train_hf.py --city B",
        "accelerate launch --config_file configs/accelerate/fsdp.yaml train_hf.py --city B",
        'accelerate launch --config_file "$(stmoe train --config_path accelerate/fsdp)" -m stmoe_hf.training --city B',
    ):
        assert re.match(CALL, f"{line} ") and command_of(line) == ("train", ["--city", "B"])
