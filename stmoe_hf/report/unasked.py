"""The report that training, a backtest and the demo write by themselves: no trouble with it makes a run fail."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from .evidence import Evidence, of_run
from .page import write_report

REPORT = "report.html"
UNASKED_PEOPLE = 200  # the network runs once more over them: half a minute of one core
NEEDS = "needs plotly: pip install 'stmoe-hf[report]'"


def report_beside(evidence: Callable[[], Evidence], output: Path) -> str:
    """Write the report of evidence, which is gathered only if it can be shown.

    Returns:
        A line that says where it is, or why there is none: results are there already, and a report can be made later.
    """
    if find_spec("plotly") is None:
        return f"No report was written, since it {NEEDS}"
    try:
        return where_it_is(write_report(evidence(), output))
    except (ValueError, OSError) as error:
        return f"No report was written: {error}"


def report_of_run(folder: Path, output: Path) -> str:
    """Write the report of a finished run, of at most `UNASKED_PEOPLE` people; returns as `report_beside`."""
    return report_beside(lambda: of_run(folder, UNASKED_PEOPLE), output)


def where_it_is(path: Path) -> str:
    """Where a report is, for a person."""
    return f"The report is in {path} ({path.stat().st_size / 1e6:.1f} MB); open it in a browser"
