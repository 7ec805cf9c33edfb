"""The command `stmoe`: what it shows, and how it ends when something is wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import stmoe_hf
from stmoe_hf import __main__ as stmoe

from ..helpers import ROOT

STMOE = [sys.executable, "-m", "stmoe_hf"]


def test_alone_it_shows_all_commands_in_lines(capsys):
    assert stmoe.main([]) == 0
    alone = capsys.readouterr().out
    assert stmoe.main(["--help"]) == 0
    assert capsys.readouterr().out == alone
    assert all(f"\n  {name} " in alone for name in stmoe.COMMANDS)
    assert max(map(len, alone.splitlines())) <= 100


def test_every_module_of_the_commands_has_a_line():
    modules = {path.stem for path in (Path(stmoe_hf.__file__).parent / "commands").glob("*.py")}
    assert modules - {"__init__", "options", "scaled"} == {name.replace("-", "_") for name in stmoe.COMMANDS}


def test_the_version_is_told(capsys):
    assert stmoe.main(["--version"]) == 0
    assert capsys.readouterr().out == f"stmoe {stmoe_hf.__version__}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "there is no command trian; did you mean train?"),
        (["xyzzy"], "there is no command xyzzy; `stmoe --help` lists the commands"),
        (["--verbose"], "there is no option --verbose"),
    ],
)
def test_an_unknown_command_names_the_nearest(capsys, words, said):
    assert stmoe.main(words) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in stmoe.COMMANDS if name != "train"])
def test_every_command_has_a_help(name, capsys):
    with pytest.raises(SystemExit) as stop:
        stmoe.main([name, "--help"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: stmoe {name} ")


def test_an_interrupted_command_ends_in_a_line(monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("stmoe_hf.commands.synthesize.run", interrupt)
    options = ["--city", "A", "--users", "1", "--output_dir", "none"]
    assert stmoe.main(["synthesize", *options]) == 130
    assert capsys.readouterr().err.strip() == "interrupted"


def test_a_reader_that_goes_away_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as nobody:
        done = subprocess.run([*STMOE, "--help"], stdout=nobody, stderr=subprocess.PIPE, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, b"")
