"""Scores of predicted records: per day, then the mean of a user's days, then the mean of the users."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from ..model.records import KEY_COLUMNS, RECORD_COLUMNS, find_masked
from ..model.spacetime import Grid
from ..model.tables import record_columns, shown, to_table, whole

COLUMNS = list(RECORD_COLUMNS)
KEYS = list(KEY_COLUMNS)
SHOWN = 5  # keys that an error names
SECONDS_WITHOUT_BAR = 2
FEW_PAIRS = 64
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MetricEdition:
    """What differs between the editions of the metrics.

    Attributes:
        order: GEO-BLEU compares n-grams of 1 to `order` records.
        by_generated: p_n is divided by the number of generated n-grams, else by the number of matches.
        open_start: DTW may skip the start of the reference for free.
    """

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
    `per_day` has columns uid, d, records, geobleu, dtw; `per_user` uid, days, records, geobleu, dtw, accuracy.
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
        """All but the tables."""
        return {name: value for name, value in vars(self).items() if not isinstance(value, pd.DataFrame)}


def geobleu(generated: Any, reference: Any, edition: str, *, order: int | None = None, beta: float = 0.5) -> float:
    """GEO-BLEU of one day (Shimizu, Yabe and Tsubouchi, "GEO-BLEU", SIGSPATIAL 2022), 0 to 1, higher is better.

    Args:
        generated, reference: [n, 2] and [m, 2] cells (x, y) in time order, at least one each.
        edition: humob2024 or humob2025.
        order: of the longest n-grams; the edition's by default.
        beta: decay of the proximity e^(-beta * distance) by cell.

    Raises:
        ValueError: an unknown edition, no record, or a value that is no whole number.
    """
    from ._kernels import geobleu_day

    rules = _rules(edition, order)
    ours, theirs = _cells(generated, "generated day"), _cells(reference, "reference day")
    return float(geobleu_day(ours, theirs, rules.order, beta, rules.by_generated, _table(beta)))


def dtw(generated: Any, reference: Any, edition: str, *, cell_km: float = 0.5) -> float:
    """DTW of one day: the kilometres along the cheapest alignment; arguments and errors as for `geobleu`."""
    from ._kernels import dtw_day

    ours, theirs = _cells(generated, "generated day"), _cells(reference, "reference day")
    return float(dtw_day(ours, theirs, cell_km, _rules(edition).open_start))


def accuracy(generated: Any, reference: Any) -> float:
    """Share of the records whose cell is exactly right; [n, 2] cells each."""
    ours, theirs = _cells(generated, "generated day"), _cells(reference, "reference day")
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} generated and {len(theirs)} reference records have no accuracy")
    return float((ours == theirs).all(1).mean())


def geobleu_matrix(
    generated: Any, reference: Any, edition: str, *, order: int | None = None, beta: float = 0.5
) -> np.ndarray:
    """GEO-BLEU of many candidates of a day against many references.

    Args:
        generated, reference: sequences of [n, 2] cells (lengths may differ), or arrays [A, n, 2] and [R, m, 2].

    Returns:
        [A, R] scores, row by row as `geobleu` gives them.
    """
    from ._kernels import geobleu_rows

    rules = _rules(edition, order)
    return _matrix(generated, reference, geobleu_rows, rules.order, beta, rules.by_generated, _table(beta))


def dtw_matrix(generated: Any, reference: Any, edition: str, *, cell_km: float = 0.5) -> np.ndarray:
    """DTW of many candidates of a day against many references: [A, R] kilometres. As `geobleu_matrix`."""
    from ._kernels import dtw_rows

    return _matrix(generated, reference, dtw_rows, cell_km, _rules(edition).open_start)


def score(
    generated: Any,
    reference: Any,
    edition: str,
    *,
    order: int | None = None,
    beta: float = 0.5,
    grid: Grid | None = None,
    progress: bool = False,
) -> Scores:
    """Score predicted records against the true ones.

    Args:
        generated, reference: any tables of uid, d, t, x, y that `tables.to_table` takes (DataFrames, data sets, rows,
            mappings of columns, arrays [N, 5]), or files that `data.submission.read_table` reads; in any row order,
            the same (uid, d, t) on both sides.
        edition: humob2024 or humob2025; their scores cannot be compared with each other.
        order: of the longest n-grams; the edition's by default.
        beta: decay of the proximity by cell.
        grid: its `cell_km` is the unit of DTW; predictions outside of it are scored with a warning. By default that of
            a `city.json` beside a file, or of a table that was read from there; else cells of 500 m.
        progress: show a bar if it takes longer than two seconds.

    Raises:
        ValueError: an unknown edition, missing columns, a value that is no whole number, a masked reference, a record
            twice, or records of which one side has more; with how many, and the first five.
    """
    rules = _rules(edition, order)
    generated, reference = _table_of(generated, "prediction"), _table_of(reference, "reference")
    grid = grid or grid_of(generated, reference)
    ours, theirs = _sorted(generated, "prediction"), _sorted(reference, "reference")
    _refuse_masked(theirs, grid)
    _refuse_different(ours, theirs)
    _warn_of_the_outside(ours, grid)
    key = theirs[["uid", "d"]].to_numpy()
    starts = np.flatnonzero(np.append(True, (key[1:] != key[:-1]).any(1)))
    a, b = (np.ascontiguousarray(side[["x", "y"]].to_numpy()) for side in (ours, theirs))
    bounds = np.append(starts, len(theirs))
    day_geobleu, day_dtw = _days(a, b, bounds, rules, beta, grid.cell_km, progress)
    per_day = theirs.loc[starts, ["uid", "d"]].reset_index(drop=True)
    per_day["records"] = np.diff(bounds)
    per_day["geobleu"], per_day["dtw"] = day_geobleu, day_dtw
    per_user = per_day.groupby("uid").agg(
        days=("d", "size"), records=("records", "sum"), geobleu=("geobleu", "mean"), dtw=("dtw", "mean")
    )
    per_user["accuracy"] = pd.Series((a == b).all(1)).groupby(theirs["uid"].to_numpy()).mean()
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


def grid_of(generated: pd.DataFrame, reference: pd.DataFrame) -> Grid:
    """The grid that tables say they are of, in `attrs["grid"]`; cells of 500 m where neither does.

    Raises:
        ValueError: they are of different grids.
    """
    grids = [Grid(**table.attrs["grid"]) for table in (generated, reference) if table.attrs.get("grid")]
    if len(grids) == 2 and grids[0] != grids[1]:
        ours, theirs = (f"{g.width} x {g.height} cells of {g.cell_km:g} km" for g in grids)
        raise ValueError(
            f"the prediction is of a grid of {ours}, the reference of {theirs}; these cannot be compared (give grid,"
            " or --data, if one city.json does not belong to its file)"
        )
    return grids[0] if grids else Grid()


def _rules(edition: str, order: int | None = None) -> MetricEdition:
    if edition not in EDITIONS:
        raise ValueError(f"there is no edition {edition!r} of the metrics; the editions are {', '.join(EDITIONS)}")
    if order is not None and order < 1:
        raise ValueError(f"GEO-BLEU needs n-grams of at least 1 record, not of order {order}")
    return EDITIONS[edition] if order is None else replace(EDITIONS[edition], order=order)


@functools.lru_cache(maxsize=8)
def _table(beta: float) -> np.ndarray:
    from ._kernels import proximity_table  # numba takes a second to import

    return proximity_table(beta, 2 * 64 * 64)


def _cells(day: Any, name: str) -> np.ndarray:
    cells = np.asarray(day)
    if cells.ndim != 2 or cells.shape[1] != 2 or not len(cells):
        raise ValueError(f"the {name} must be [n, 2] cells (x, y) with n >= 1, not of shape {list(cells.shape)}")
    return _whole_cells(cells.ravel(), name).reshape(cells.shape)


def _whole_cells(values: np.ndarray, name: str) -> np.ndarray:
    """Values [n] of cells (x, y) one after another as int64; ValueError by the row of the first that is none."""
    numbers, missing, wrong = whole(values)
    if (missing | wrong).any():
        row = int(np.argmax(missing | wrong))
        raise ValueError(f"the {name}, row {row // 2}: {shown(values[row])} is no whole number")
    return numbers


def _matrix(generated: Any, reference: Any, kernel: Callable[..., None], *rules: Any) -> np.ndarray:
    """Scores of all pairs by a kernel of whole rows, which holds no lock: the rows are shared among threads."""
    (ours, our_bounds), (theirs, their_bounds) = (
        _days_in_one(generated, "generated"),
        _days_in_one(reference, "reference"),
    )
    scores = np.empty((len(our_bounds) - 1, len(their_bounds) - 1))
    threads = os.cpu_count() or 1

    def work(rows: np.ndarray) -> None:
        first, end = int(rows[0]), int(rows[-1]) + 1
        kernel(ours, our_bounds[first : end + 1], theirs, their_bounds, *rules, scores[first:end])

    parts = np.array_split(np.arange(len(scores)), min(len(scores), 4 * threads))
    if scores.size < FEW_PAIRS:  # starting threads would take longer
        work(np.arange(len(scores)))
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, parts))
    return scores


def _days_in_one(days: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The cells of all days one after another, and where each begins."""
    if isinstance(days, np.ndarray) and days.ndim == 3 and days.size and days.shape[2] == 2:
        cells = _whole_cells(days.ravel(), f"{name} day").reshape(-1, 2)
        return cells, np.arange(0, len(cells) + 1, days.shape[1])
    parts = [_cells(day, f"{name} day") for day in days]
    if not parts:
        raise ValueError(f"there is no {name} day")
    return np.concatenate(parts), np.cumsum([0] + [len(part) for part in parts])


def _table_of(side: Any, name: str) -> pd.DataFrame:
    """One side as a table; a path is read."""
    if isinstance(side, str | os.PathLike):
        from ..data.submission import read_table

        return read_table(os.fspath(side))
    try:
        return to_table(side)
    except ValueError as error:
        raise ValueError(f"the {name}: {error}") from None


def _sorted(side: pd.DataFrame, name: str) -> pd.DataFrame:
    """The five columns as int64 in the order uid, d, t."""
    if not len(side):
        raise ValueError(f"the {name} holds no record")
    table = record_columns(side, name, missing_cells=name == "reference")
    keys = table[KEYS].to_numpy()
    step = np.diff(keys, axis=0)
    rising = (step[:, 0] > 0) | ((step[:, 0] == 0) & ((step[:, 1] > 0) | ((step[:, 1] == 0) & (step[:, 2] > 0))))
    return table if rising.all() else table.sort_values(KEYS, ignore_index=True, kind="stable")


def _refuse_masked(reference: pd.DataFrame, grid: Grid) -> None:
    both, half = find_masked(reference["x"], reference["y"], grid)
    masked = reference[both | half]
    if len(masked):
        raise ValueError(
            f"{len(masked)} records of the reference are masked, first (uid, d, t) {_first(masked)}: the truth must be"
            " known to be scored against"
        )


def _refuse_different(ours: pd.DataFrame, theirs: pd.DataFrame) -> None:
    for side, name in ((ours, "prediction"), (theirs, "reference")):
        keys = side[KEYS].to_numpy()
        twice = np.flatnonzero((keys[1:] == keys[:-1]).all(1))
        if len(twice):
            raise ValueError(f"the {name} has {len(twice)} records twice, first (uid, d, t) {_first(side.loc[twice])}")
    if len(ours) == len(theirs) and (ours[KEYS].to_numpy() == theirs[KEYS].to_numpy()).all():
        return
    both = ours[KEYS].merge(theirs[KEYS], how="outer", indicator="side")
    texts = []
    for which, text in (
        ("right_only", "the prediction lacks {} of the reference's records"),
        ("left_only", "the prediction has {} records that the reference lacks"),
    ):
        some = both[both["side"] == which]
        if len(some):
            users = some["uid"].nunique()
            texts.append(f"{text.format(len(some))}, of {users} users, first (uid, d, t) {_first(some)}")
    raise ValueError("; ".join(texts))


def _warn_of_the_outside(prediction: pd.DataFrame, grid: Grid) -> None:
    x, y = prediction["x"], prediction["y"]
    outside = prediction[(x < 1) | (x > grid.width) | (y < 1) | (y > grid.height)]
    if len(outside):
        logger.warning(
            "%d predicted records lie outside the grid and are scored as they are, first (uid, d, t) %s",
            len(outside),
            _first(outside),
        )


def _first(table: pd.DataFrame) -> list[tuple[int, ...]]:
    return [tuple(int(v) for v in row) for row in table[KEYS].head(SHOWN).to_numpy()]


def _days(
    a: np.ndarray, b: np.ndarray, bounds: np.ndarray, rules: MetricEdition, beta: float, cell_km: float, progress: bool
) -> tuple[np.ndarray, np.ndarray]:
    """GEO-BLEU and DTW of each day; the kernels hold no lock, so days are shared among threads."""
    from ._kernels import score_days

    days = len(bounds) - 1
    day_geobleu, day_dtw = np.empty(days), np.empty(days)
    table = _table(beta)

    def work(part: np.ndarray) -> int:
        first, end = int(part[0]), int(part[-1]) + 1
        score_days(
            a,
            b,
            bounds[first : end + 1],
            rules.order,
            beta,
            rules.by_generated,
            table,
            cell_km,
            rules.open_start,
            day_geobleu[first:end],
            day_dtw[first:end],
        )
        return end - first

    threads = os.cpu_count() or 1
    parts = np.array_split(np.arange(days), min(days, 16 * threads))
    with (
        ThreadPoolExecutor(threads) as pool,
        tqdm(total=days, unit="days", disable=not progress, delay=SECONDS_WITHOUT_BAR) as bar,
    ):
        for done in pool.map(work, parts):
            bar.update(done)
    return day_geobleu, day_dtw
