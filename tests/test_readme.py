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


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def command_lines() -> list[str]:
    """Every call of train_hf.py and `python -m stmoe_hf` in the pages, without comments and optional brackets."""
    text = "\n".join(block for page in PAGES for kind in ("", "bash") for block in blocks(page, kind))
    lines = [line.split("#")[0] for line in text.replace("\\\n", " ").splitlines()]
    calls = re.compile(r"(accelerate launch|python) .*(train_hf\.py|-m stmoe_hf) ")
    return sorted({re.sub(r"[\[\]]", "", line).strip() for line in lines if calls.match(f"{line} ")})


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
    words = shlex.split(line)
    if "train_hf.py" in line:
        if "--help" not in words:
            parse_arguments(words[next(i for i, word in enumerate(words) if word.endswith("train_hf.py")) + 1 :])
        return
    command, *options = words[words.index("stmoe_hf") + 1 :]
    if command in COMMANDS and "--help" not in options:
        parser = argparse.ArgumentParser()
        importlib.import_module(f"stmoe_hf.commands.{command}").add_arguments(parser)
        parser.parse_args(options)
    else:
        assert command in (*COMMANDS, "COMMAND"), command
