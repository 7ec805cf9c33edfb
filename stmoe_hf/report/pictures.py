"""Still pictures of a report, for the card of a model: nobody's path is in them, nor a place of few people."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .areas import ELSEWHERE, squares
from .colours import FORECAST, GREY, TRUTH
from .crowds import presence
from .errors import by_kind, calibration, record_errors
from .evidence import Evidence
from .places import Places

MIN_PEOPLE = 10  # of a square that is drawn, in the forecast and in truth
MOST_SQUARES = 40  # along the longer side of a map
INCHES, DOTS = (8.0, 3.2), 110


def can_draw() -> bool:
    """Whether matplotlib, of the extra `plots`, is there."""
    return find_spec("matplotlib") is not None


def draw_pictures(evidence: Evidence, folder: Path) -> dict[str, str]:
    """Draw the main pictures of a forecast whose truth is known.

    Args:
        evidence: with truth; without one nothing is drawn.
        folder: that the PNG files are written to.

    Returns:
        Name of each file -> what is to be seen in it.
    """
    if evidence.truth is None:
        return {}
    drawers = (("city.png", _city), ("errors.png", _errors), ("probabilities.png", _probabilities))
    said = {name: _drawn(folder / name, draw, evidence) for name, draw in drawers}
    return {name: text for name, text in said.items() if text is not None}


def _drawn(path: Path, draw: Callable[[Any, Evidence], str | None], evidence: Evidence) -> str | None:
    from matplotlib.figure import Figure  # without pyplot, which would look for a screen

    figure = Figure(figsize=INCHES, dpi=DOTS, layout="constrained")
    text = draw(figure, evidence)
    if text is not None:
        figure.savefig(path)
    return text


def people_by_square(evidence: Evidence) -> tuple[pd.DataFrame, int]:
    """Mean number of people by square over the hours of the forecast: columns x, y (of the square), forecast, truth.

    Squares in which either counts fewer than `MIN_PEOPLE` different people are left out.

    Returns:
        The table, and the side of a square in cells.
    """
    assert evidence.truth is not None
    grid = evidence.grid
    side = max(1, -(-max(grid.width, grid.height) // MOST_SQUARES))
    areas = squares(grid, side)
    asked = Places(evidence.predicted.assign(weight=1.0)).only(evidence.truth)
    counted = []
    for name, table in (("forecast", asked.chances), ("truth", evidence.truth.assign(weight=1.0))):
        parts = presence(table, grid, evidence.calendar, areas)
        hours = len(parts[["d", "hour"]].drop_duplicates())
        known = parts[parts["area"] != ELSEWHERE].groupby("area")
        enough = known["uid"].nunique() >= MIN_PEOPLE
        counted.append((known["weight"].sum() / hours)[enough].rename(name))
    both = pd.concat(counted, axis=1, join="inner").rename_axis("area").reset_index()
    return areas.labelled(both, "area"), side


def _city(figure: Any, evidence: Evidence) -> str | None:
    table, side = people_by_square(evidence)
    if table.empty:
        return None
    highest = table[["forecast", "truth"]].to_numpy().max()
    size = side * evidence.grid.cell_km
    low, high = table[["x", "y"]].min() - 1, table[["x", "y"]].max() + 1
    for axes, (name, colour) in zip(
        figure.subplots(1, 2, sharex=True, sharey=True), (("forecast", FORECAST), ("truth", TRUTH)), strict=True
    ):
        # The area of a spot is the number of people: squares beside each other stay apart.
        share = (table[name] / highest).to_numpy()
        axes.scatter(table["x"] * size, table["y"] * size, s=4 + 140 * share, color=colour, alpha=0.6, linewidth=0)
        axes.set(title=name, aspect="equal", xlabel="km", xlim=(low["x"] * size, high["x"] * size))
        axes.set(ylim=(low["y"] * size, high["y"] * size))
        _plain(axes)
    return (
        f"How many people are where on average, forecast and truth, in squares of {size:g} km; the largest spot:"
        f" {highest:.1f} people an hour. Squares in which fewer than {MIN_PEOPLE} people were, or were forecast, are"
        " left out."
    )


def _errors(figure: Any, evidence: Evidence) -> str:
    assert evidence.truth is not None
    errors = record_errors(evidence.predicted, evidence.truth, evidence.history, evidence.grid, evidence.calendar)
    for axes, kind in zip(figure.subplots(1, 2, sharey=True), ("hour", "days ahead"), strict=True):
        table = by_kind(errors, kind)
        at = table["kind"].astype(int).to_numpy()
        axes.fill_between(at, table["off_km_low"], table["off_km_high"], color=FORECAST, alpha=0.2, linewidth=0)
        axes.plot(at, table["off_km"], color=FORECAST, marker="o", markersize=3)
        axes.set(xlabel=kind if kind != "hour" else "hour of the day", ylim=(0, None))
        _plain(axes)
    figure.axes[0].set_ylabel("km off")
    return (
        f"Kilometres between forecast and true cell, by hour and by days ahead: mean {errors['off_km'].mean():.2f} km,"
        f" median {errors['off_km'].median():.2f} km. Shaded: 95 % intervals, people drawn with replacement."
    )


def _probabilities(figure: Any, evidence: Evidence) -> str | None:
    assert evidence.truth is not None
    table = calibration(evidence.places, evidence.truth)
    if table is None:
        return None
    figure.set_size_inches(INCHES[1] + 0.6, INCHES[1])
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":")
    sizes = np.clip(np.sqrt(table["records"]) / 3, 4, 14) ** 2
    axes.plot(table["probability"], table["right"], color=FORECAST, linewidth=1)
    axes.scatter(table["probability"], table["right"], s=sizes, color=FORECAST)
    axes.set(xlabel="probability of the best cell", ylabel="how often it is right", xlim=(0, 1), ylim=(0, 1))
    _plain(axes)
    return "How often the most probable cell is right, by its probability; on the dotted line probabilities are true."


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
