"""The rooms of the package: what each may import, and that nothing imports upward."""

import ast
import sys
from pathlib import Path

import pytest

from .helpers import ROOT

PACKAGE = ROOT / "stmoe_hf"
# The way of a record: a room imports itself and the rooms before it, nothing later.
ORDER = ("model", "data", "prediction", "metrics", "evaluation", "report")
ON_TOP = ("training", "hub", "scale", "conversion")  # stand on all of these; commands stand on everything
MODEL_MAY_IMPORT = {"torch", "transformers", "numpy", "pandas", "huggingface_hub", *sys.stdlib_module_names}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(file: Path) -> list[tuple[int, str]]:
    """(dots, module) of every import in a file, also of those within functions."""
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module or ""))
        elif isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
    return found


def room(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def rooms_imported(file: Path) -> set[str]:
    """The rooms that a file of a room imports."""
    depth = len(file.relative_to(PACKAGE).parts)
    return {
        module.split(".")[1 if level == 0 else 0]
        for level, module in imports(file)
        if level == depth or (level == 0 and module.startswith("stmoe_hf."))
    } - {""}


@pytest.mark.parametrize("file", sorted((PACKAGE / "model").glob("*.py")), ids=lambda file: file.stem)
def test_what_a_checkpoint_carries_imports_only_its_neighbours_and_what_everybody_has(file):
    for level, module in imports(file):
        assert level <= 1, f"from {'.' * level}{module}: a checkpoint has no folder above"
        if level == 1:
            assert module and "." not in module, "transformers copies `from .x import y` and nothing else"
            assert (PACKAGE / "model" / f"{module}.py").is_file()
        else:
            assert module.partition(".")[0] in MODEL_MAY_IMPORT, module


def test_no_room_imports_one_above_it():
    wrong = []
    for file in FILES:
        own = room(file)
        if own in ("__init__", "__main__", "registration", "commands"):
            continue
        allowed = {*ORDER, *ON_TOP} if own in ON_TOP else set(ORDER[: ORDER.index(own) + 1])
        wrong += [f"{file.relative_to(PACKAGE)} imports {name}" for name in rooms_imported(file) - allowed]
    assert not wrong


def test_the_rooms_on_top_form_no_circle():
    above = {name: set() for name in ON_TOP}
    for file in FILES:
        if room(file) in ON_TOP:
            above[room(file)] |= rooms_imported(file) & set(ON_TOP) - {room(file)}
    while free := [name for name in above if not above[name]]:
        for name in free:
            del above[name]
        for others in above.values():
            others.difference_update(free)
    assert not above


def test_there_are_few_rooms_and_no_hall():
    assert len([path for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]) <= 15
    assert {file.name: n for file in FILES if (n := len(file.read_text().splitlines())) > 450} == {}
