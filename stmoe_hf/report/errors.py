"""Where a forecast errs, how true its probabilities are, and its scores, all with 95 % intervals over people."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..metrics import EDITIONS, Scores, score
from ..model.spacetime import Calendar, Grid
from .places import KEYS, Places

DRAWS = 1000
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
KM_EDGES = (0, 0.75, 2, 5, 10, 20, np.inf)
HISTORY_EDGES = (0, 200, 400, 700, 1000, 1500, np.inf)
PROBABILITY_EDGES = tuple(np.arange(0, 1.01, 0.1).round(1).tolist())
NIGHT_HOURS = (0, 6)  # whose most frequent cell is taken for a home
MEASURES = ("geobleu", "dtw", "accuracy")


@dataclass(frozen=True)
class Interval:
    """A mean over people and the 95 % interval of it, by drawing people with replacement."""

    mean: float
    low: float
    high: float


def draws(people: int, seed: int = 0) -> np.ndarray:
    """[DRAWS, people] how often each person is drawn."""
    return np.random.default_rng(seed).multinomial(people, np.full(people, 1 / people), DRAWS)


def interval(values: np.ndarray) -> Interval:
    """Of one value a person."""
    means = draws(len(values)) @ values / len(values)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high))


def scores_of(predicted: pd.DataFrame, truth: pd.DataFrame, grid: Grid) -> dict[str, Scores]:
    """Scores in each edition of the metrics, over the slots whose truth is known."""
    asked = predicted.merge(truth[KEYS], on=KEYS)
    known = truth.merge(asked[KEYS], on=KEYS)
    return {edition: score(asked, known, edition, grid=grid) for edition in EDITIONS}


def homes(history: pd.DataFrame, calendar: Calendar) -> pd.DataFrame:
    """Columns uid, home_x, home_y: the cell a person was most often seen in at night, else at all."""
    hour = history["t"] * 24 // calendar.num_slots
    night = hour.between(NIGHT_HOURS[0], NIGHT_HOURS[1] - 1)
    counts = (
        history.assign(night=night)
        .groupby(["uid", "x", "y"], as_index=False)
        .agg(nights=("night", "sum"), records=("night", "size"))
    )
    best = counts.sort_values(["uid", "nights", "records"], ascending=[True, False, False], kind="stable")
    home = best.drop_duplicates("uid")[["uid", "x", "y"]]
    return home.rename(columns={"x": "home_x", "y": "home_y"}).reset_index(drop=True)


def record_errors(
    best: pd.DataFrame, truth: pd.DataFrame, history: pd.DataFrame | None, grid: Grid, calendar: Calendar
) -> pd.DataFrame:
    """A row a record whose truth is known: off_km, hit, and what kind of record it is (text, in order)."""
    table = best.merge(truth, on=KEYS, suffixes=("", "_true"))
    table["off_km"] = np.hypot(table["x"] - table["x_true"], table["y"] - table["y_true"]) * grid.cell_km
    table["hit"] = (table["off_km"] == 0).astype(float)
    hour = table["t"] * 24 // calendar.num_slots
    kinds = {
        "hour": _coded(hour.to_numpy(), [str(h) for h in range(24)]),
        "weekday": _coded(calendar.weekday(table["d"]), list(WEEKDAYS)),
    }
    ahead = table["d"] - table["d"].min() + 1
    kinds["days ahead"] = pd.Categorical(ahead.astype(str), [str(day) for day in sorted(ahead.unique())])
    if history is not None:
        place = homes(history, calendar)
        of_home = table[["uid", "x_true", "y_true"]].merge(place, how="left", on="uid")
        km = np.hypot(of_home["x_true"] - of_home["home_x"], of_home["y_true"] - of_home["home_y"]) * grid.cell_km
        kinds["km from home"] = _binned(np.asarray(km), KM_EDGES)
        past = table["uid"].map(history.groupby("uid").size()).fillna(0).to_numpy()
        kinds["past records"] = _binned(past, HISTORY_EDGES)
        kinds["cell"] = _known_cells(table, history)
    return table.assign(**kinds)


def _known_cells(table: pd.DataFrame, history: pd.DataFrame) -> Any:
    """Whether the person had been in the true cell before."""
    cells = history[["uid", "x", "y"]].drop_duplicates().assign(known="known")
    found = table[["uid", "x_true", "y_true"]].merge(
        cells, how="left", left_on=["uid", "x_true", "y_true"], right_on=["uid", "x", "y"]
    )
    return pd.Categorical(found["known"].fillna("new"), ["known", "new"])


def _coded(codes: np.ndarray, labels: list[str]) -> Any:
    return pd.Categorical.from_codes(codes, pd.Index(labels))  # type: ignore[arg-type]


def _binned(values: np.ndarray, edges: tuple[float, ...]) -> Any:
    labels = [f"{low:g}-{high:g}" if np.isfinite(high) else f"over {low:g}" for low, high in itertools.pairwise(edges)]
    return _coded(np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(labels) - 1), labels)


def by_kind(errors: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Columns kind, records, people, hit and off_km (means over records) with `_low` and `_high`."""
    uid = errors["uid"].factorize()[0]
    people = int(uid.max()) + 1
    weights = draws(people)
    rows = []
    for label in errors[kind].cat.categories:
        of_kind = (errors[kind] == label).to_numpy()
        if not of_kind.any():
            continue
        counts = np.bincount(uid[of_kind], minlength=people)
        drawn = weights @ counts
        row = {"kind": label, "records": int(of_kind.sum()), "people": int((counts > 0).sum())}
        for name in ("hit", "off_km"):
            sums = np.bincount(uid[of_kind], errors.loc[of_kind, name], people)
            means = (weights @ sums)[drawn > 0] / drawn[drawn > 0]
            low, high = np.quantile(means, [0.025, 0.975])
            row |= {name: sums.sum() / counts.sum(), f"{name}_low": low, f"{name}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)


def calibration(places: Places, truth: pd.DataFrame) -> pd.DataFrame | None:
    """Of the most probable cell: columns probability (mean of a bin), right (share), records; None without chances."""
    best = places.best()
    if (best["probability"] >= 1).all():
        return None
    both = best.merge(truth, on=KEYS, suffixes=("", "_true"))
    both["right"] = (both["x"] == both["x_true"]) & (both["y"] == both["y_true"])
    both["bin"] = np.clip(np.digitize(both["probability"], PROBABILITY_EDGES) - 1, 0, len(PROBABILITY_EDGES) - 2)
    return both.groupby("bin", as_index=False).agg(
        probability=("probability", "mean"), right=("right", "mean"), records=("right", "size")
    )
