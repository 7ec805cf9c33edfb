"""The scripts of benchmarks/: what the docs name is there, each says how it is run, and sides run in turns."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHARED = {"common.py", "workloads.py"}
SCRIPTS = [path for path in sorted((ROOT / "benchmarks").glob("*.py")) if path.name not in SHARED]


def test_the_scripts_that_the_docs_name_are_there():
    text = "\n".join(page.read_text() for page in PAGES)
    named = set(re.findall(r"benchmarks/(\w+\.py)", text)) | set(re.findall(r"\bspeed_\w+\.py\b", text))
    assert named and not {name for name in named if not (ROOT / "benchmarks" / name).is_file()}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_says_its_claim_in_a_line_and_how_it_is_run(script):
    about = ast.get_docstring(ast.parse(script.read_text())) or ""
    assert about.splitlines()[0].endswith((".", ":")) and not about.splitlines()[1]
    assert f"python benchmarks/{script.name}" in about


def test_what_a_script_takes_from_the_package_is_there():
    for script in (ROOT / "benchmarks").glob("*.py"):
        for node in ast.walk(ast.parse(script.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stmoe_hf"):
                missing = [name.name for name in node.names if not is_there(str(node.module), name.name)]
                assert not missing, f"{script.name}: {node.module} has no {missing}"


def is_there(module: str, name: str) -> bool:
    """Whether a module has this name, or is a package with a module of this name."""
    if hasattr(importlib.import_module(module), name):
        return True
    try:
        return importlib.import_module(f"{module}.{name}") is not None
    except ModuleNotFoundError:
        return False


TWO_SIDES = """
import time
from common import Measure, Side, ratio, table, row, take_turns

def rest(seconds: float, order: str) -> Measure:
    def call():
        with open(order, "a") as file:
            file.write(f"{seconds} ")
        time.sleep(seconds)
    return call, {"seconds": seconds}

def fails() -> Measure:
    raise MemoryError("too large")

if __name__ == "__main__":
    sides = {name: Side(rest, seconds, "order") for name, seconds in (("slow", 0.2), ("fast", 0.02))}
    take_turns(sides, 0, 3)
    slow, fast = sides.values()
    assert slow.facts == {"seconds": 0.2} and len(slow.seconds) == len(fast.seconds) == 3 and slow.mb > 1
    table("side", "times")
    row("slow", round(ratio(slow, fast)))
    broken = Side(fails)
    take_turns({"broken": broken}, 0, 1)
"""


def test_sides_are_processes_that_run_in_turns_and_one_that_fails_is_told(tmp_path):
    (tmp_path / "two_sides.py").write_text(TWO_SIDES)
    (tmp_path / "common.py").write_text((ROOT / "benchmarks" / "common.py").read_text())
    done = subprocess.run([sys.executable, "two_sides.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "(did not run: MemoryError: too large)" in done.stdout
    assert "| side | times |" in done.stdout and re.search(r"\| slow \| ([4-9]|1\d) \|", done.stdout)
    assert (tmp_path / "order").read_text().split() == ["0.2", "0.02", *["0.2", "0.02"] * 3]
