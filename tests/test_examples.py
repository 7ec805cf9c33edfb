"""The notebooks of examples/: they run from an empty folder, and what is committed of them is theirs to show."""

import importlib.util
import json
import re

import pytest

from .helpers import ROOT

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
MOST_BYTES = 600_000


def cells(path) -> list[dict]:
    return json.loads(path.read_text())["cells"]


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 4


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_committed_has_run_whole_shows_pictures_and_names_no_machine(path):
    code = [cell for cell in cells(path) if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert [output for output in outputs if "image/png" in output.get("data", {})]
    assert path.stat().st_size < MOST_BYTES
    text = json.dumps(
        [{key: value for key, value in output.get("data", {}).items() if key != "image/png"} for output in outputs]
        + [output.get("text", "") for output in outputs]
    )
    assert not re.search(r"/(home|root|tmp|work|usr|Users|var)/", text)
    assert "generated" in "".join("".join(cell["source"]) for cell in cells(path) if cell["cell_type"] == "markdown")


@pytest.mark.notebooks
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_from_an_empty_folder_and_draws_what_is_committed(path):
    pytest.importorskip("nbclient")
    spec = importlib.util.spec_from_file_location("execute", ROOT / "examples" / "execute.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    notebook = script.execute(path)

    def kinds(of):
        return [[sorted(output.get("data", [])) for output in cell.get("outputs", [])] for cell in of]

    drawn = [kind for cell in kinds(notebook.cells) for kind in cell if "image/png" in kind]
    assert drawn == [kind for cell in kinds(cells(path)) for kind in cell if "image/png" in kind] != []
