"""Runs the notebooks of this folder, each in an empty folder of its own, and keeps what they printed and drew.

    python examples/execute.py [NAME ...]        (make notebooks)

Needs the extras dev and plots. Nothing of the machine gets into them: they run with relative names only.
"""

import os
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
SECONDS = 600  # a cell; on two cores a whole notebook takes less than two minutes


def execute(path: Path) -> nbformat.NotebookNode:
    """The notebook with what it printed and drew; raises CellExecutionError where a cell fails, or a command in it."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        # The commands of this environment; what is cached is removed with the folder.
        programs = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
        alone = {"HF_HUB_OFFLINE": "1", "HF_HOME": f"{folder}/cache", "PATH": programs}
        where = {"metadata": {"path": folder}}
        client = NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources=where)
        client.execute(env=os.environ | alone)
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = _without_progress(cell.outputs)
    return notebook


def _without_progress(outputs: list) -> list:
    """The outputs without stderr, which has the progress of what did not fail; what was printed on end is one."""
    kept: list = []
    for output in outputs:
        if output.output_type == "stream" and output.name == "stderr":
            continue
        if kept and output.output_type == kept[-1].output_type == "stream":
            kept[-1].text += output.text
        else:
            kept.append(output)
    return kept


def main() -> None:
    names = sys.argv[1:] or sorted(path.stem for path in FOLDER.glob("*.ipynb"))
    for name in names:
        path, start = FOLDER / f"{name.removesuffix('.ipynb')}.ipynb", time.monotonic()
        nbformat.write(execute(path), path)
        print(f"{path.name}: {time.monotonic() - start:.0f} s, {path.stat().st_size / 1e3:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
