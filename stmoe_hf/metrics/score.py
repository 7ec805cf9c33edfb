"""Scores of predicted records: per day, then the mean of a user's days, then the mean of the users."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

COLUMNS = ["uid", "d", "t", "x", "y"]


@dataclass(frozen=True)
class MetricEdition:
    """What differs between the editions of the metrics: n-gram orders, the denominator of p_n, the start of DTW."""

    order: int
    by_generated: bool
    open_start: bool


EDITIONS = {
    "humob2024": MetricEdition(order=3, by_generated=False, open_start=True),
    "humob2025": MetricEdition(order=5, by_generated=True, open_start=False),
}


@dataclass(frozen=True)
class Scores:
    """Scores of an edition: GEO-BLEU (higher is better), DTW in km (lower is better), and accuracy.

    GEO-BLEU and DTW are means over a user's days, then over users; accuracy over a user's records, then over users.
    """

    edition: str
    users: int
    days: int
    records: int
    geobleu: float
    dtw: float
    accuracy: float
    per_day: pd.DataFrame
    per_user: pd.DataFrame

    def to_dict(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if not isinstance(value, pd.DataFrame)}


def score(generated: Any, reference: Any, edition: str, *, beta: float = 0.5, cell_km: float = 0.5) -> Scores:
    """Score predicted records against the true ones.

    Args:
        generated, reference: DataFrames (or what makes one) of uid, d, t, x, y in any order; the same (uid, d, t).
        edition: humob2024 or humob2025; their scores cannot be compared with each other.
        beta: decay of the proximity by cell.
        cell_km: side of a cell, the unit of DTW.

    Raises:
        ValueError: an unknown edition, missing columns, or records of which one side has more.
    """
    if edition not in EDITIONS:
        raise ValueError(f"there is no edition {edition!r} of the metrics; the editions are {', '.join(EDITIONS)}")
    ours, theirs = (_sorted(side, name) for side, name in ((generated, "prediction"), (reference, "reference")))
    _refuse_different(ours, theirs)
    key = theirs[["uid", "d"]].to_numpy()
    starts = np.flatnonzero(np.append(True, (key[1:] != key[:-1]).any(1)))
    a, b = (side[["x", "y"]].to_numpy(np.float64) for side in (ours, theirs))
    geobleu, dtw = _days(a, b, np.append(starts, len(theirs)), EDITIONS[edition], beta, cell_km)
    per_day = theirs.loc[starts, ["uid", "d"]].reset_index(drop=True)
    per_day["records"] = np.diff(np.append(starts, len(theirs)))
    per_day["geobleu"], per_day["dtw"] = geobleu, dtw
    per_user = per_day.groupby("uid").agg(days=("d", "size"), geobleu=("geobleu", "mean"), dtw=("dtw", "mean"))
    hit = pd.Series((a == b).all(1)).groupby(theirs["uid"].to_numpy())
    per_user["records"], per_user["accuracy"] = hit.size(), hit.mean()
    return Scores(
        edition,
        len(per_user),
        len(per_day),
        len(theirs),
        float(per_user["geobleu"].mean()),
        float(per_user["dtw"].mean()),
        float(per_user["accuracy"].mean()),
        per_day,
        per_user.reset_index(),
    )


def _sorted(side: Any, name: str) -> pd.DataFrame:
    table = side if isinstance(side, pd.DataFrame) else pd.DataFrame(side)
    missing = [column for column in COLUMNS if column not in table.columns]
    if missing:
        raise ValueError(f"the {name} lacks the columns {missing}; it needs uid, d, t, x, y")
    if not len(table):
        raise ValueError(f"the {name} holds no record")
    return table[COLUMNS].sort_values(["uid", "d", "t"], ignore_index=True)


def _refuse_different(ours: pd.DataFrame, theirs: pd.DataFrame) -> None:
    keys = ["uid", "d", "t"]
    if len(ours) == len(theirs) and (ours[keys].to_numpy() == theirs[keys].to_numpy()).all():
        return
    for side, name in ((ours, "prediction"), (theirs, "reference")):
        if (twice := side[side.duplicated(keys)]).size:
            raise ValueError(f"the {name} has {len(twice)} records twice, first (uid, d, t) {_first(twice)}")
    both = ours[keys].merge(theirs[keys], how="outer", indicator="side")
    missing, extra = both[both["side"] == "right_only"], both[both["side"] == "left_only"]
    raise ValueError(
        f"the prediction lacks {len(missing)} asked-for (uid, d, t), first {_first(missing)}, and has {len(extra)}"
        f" that are not asked for, first {_first(extra)}"
    )


def _first(table: pd.DataFrame) -> list[tuple[int, ...]]:
    return [tuple(int(v) for v in row) for row in table[["uid", "d", "t"]].head(5).to_numpy()]


def _days(
    a: np.ndarray, b: np.ndarray, bounds: np.ndarray, edition: MetricEdition, beta: float, cell_km: float
) -> tuple[np.ndarray, np.ndarray]:
    """GEO-BLEU and DTW of each day; the kernels hold no lock, so days are shared among threads."""
    from ._kernels import dtw_day, geobleu_day  # numba takes a second to import

    days = len(bounds) - 1
    geobleu, dtw = np.empty(days), np.empty(days)

    def work(part: Iterable[int]) -> None:
        for day in part:
            rows = slice(bounds[day], bounds[day + 1])
            geobleu[day] = geobleu_day(a[rows], b[rows], edition.order, beta, edition.by_generated)
            dtw[day] = dtw_day(a[rows], b[rows], cell_km, edition.open_start)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(work, np.array_split(np.arange(days), 4 * (os.cpu_count() or 1))))
    return geobleu, dtw
