"""Where people are or will be, as tables: records, predictions, forecasts with probabilities, samples of days."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ..data.errors import DataError
from ..model.records import KEY_COLUMNS, RECORD_COLUMNS, find_masked
from ..model.spacetime import Calendar, Grid
from ..model.tables import record_columns

KEYS, COLUMNS = list(KEY_COLUMNS), list(RECORD_COLUMNS)
TOLERANCE = 1e-4  # by which the probabilities of a slot may exceed 1, as they are rounded in files


@dataclass(frozen=True)
class Places:
    """Where people are, as far as it is known.

    Attributes:
        chances: columns uid, d, t, x, y, weight; the weights of a person's slot sum to 1 or less, and what is missing
            is the chance to be in none of the cells named.
        samples: columns uid, d, t, sample, x, y, one cell a slot and sample, each sample a whole course of days; None
            without samples.
    """

    chances: pd.DataFrame
    samples: pd.DataFrame | None = None

    @property
    def num_samples(self) -> int:
        return 0 if self.samples is None else int(self.samples["sample"].nunique())

    def best(self) -> pd.DataFrame:
        """The most probable cell of each slot, columns uid, d, t, x, y, probability; of equals the first named."""
        order = self.chances.sort_values([*KEYS, "weight"], ascending=[True, True, True, False], kind="stable")
        return order.drop_duplicates(KEYS).rename(columns={"weight": "probability"}).reset_index(drop=True)

    def only(self, keys: pd.DataFrame) -> Places:
        """Of these (uid, d, t) only."""
        keys = keys[KEYS].drop_duplicates()
        samples = None if self.samples is None else self.samples.merge(keys, on=KEYS)
        return Places(self.chances.merge(keys, on=KEYS), samples)


def read_file(path: str | Path) -> pd.DataFrame:
    """A csv, csv.gz or parquet file, or a folder of parquet, with at least the columns uid, d, t, x, y, as it is.

    Raises:
        FileNotFoundError: there is no such file. DataError: it cannot be read, or lacks a column.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        text: dict = {"user": str}  # names that are numbers keep their zeros
        csv = {"dtype": text, "encoding": "utf-8-sig"}
        table = pd.read_parquet(path) if path.suffix == ".parquet" or path.is_dir() else pd.read_csv(path, **csv)  # type: ignore[call-overload]
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise DataError(f"{path} has the columns {','.join(map(str, table.columns))}; it lacks {','.join(missing)}")
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes the first fields of longer rows for names of rows
        raise DataError(f"{path}: its rows have more values than its header has names")
    try:
        return table.assign(**record_columns(table, missing_cells=True))
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None


def read_places(path: str | Path, grid: Grid, calendar: Calendar) -> Places:
    """Read records, predictions or a forecast: csv, csv.gz or parquet; errors as of `read_file` and `as_places`."""
    try:
        return as_places(read_file(path), grid, calendar)
    except DataError as error:
        raise DataError(str(error) if str(path) in str(error) else f"{path}: {error}") from None


def known(table: pd.DataFrame, grid: Grid) -> pd.DataFrame:
    """The rows that say where somebody is; a masked record asks for it."""
    return table[~find_masked(table["x"].to_numpy(), table["y"].to_numpy(), grid)[0]]


def as_places(table: pd.DataFrame, grid: Grid, calendar: Calendar) -> Places:
    """Check a table of records (uid, d, t, x, y), of a forecast (and probability) or of samples (and sample).

    Rows with a sample are samples, the others chances; where there are only samples, the chances are their shares.
    Masked records are left out.

    Raises:
        DataError: a column is missing, a value is no whole number or out of range, a cell is named twice for a slot,
            probabilities of a slot exceed 1, a sample lacks a slot.
    """
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise DataError(f"the columns are {','.join(map(str, table.columns))}; it lacks {','.join(missing)}")
    table = known(table, grid)
    if not len(table):
        raise DataError("it holds no record whose cell is known")
    _check_ranges(table, grid, calendar)
    whole = table[COLUMNS].astype(np.int64)
    sampled = table["sample"].notna().to_numpy() if "sample" in table.columns else np.zeros(len(table), bool)
    samples = None
    if sampled.any():
        samples = _samples(whole[sampled].assign(sample=table.loc[sampled, "sample"].astype(np.int64)))
    if sampled.all():
        assert samples is not None
        shares = samples.groupby(COLUMNS, as_index=False).agg(weight=("sample", "size"))
        return Places(shares.assign(weight=shares["weight"] / samples["sample"].nunique()), samples)
    return Places(_chances(table[~sampled], whole[~sampled]), samples)


def _chances(table: pd.DataFrame, whole: pd.DataFrame) -> pd.DataFrame:
    has_probability = "probability" in table.columns and "rank" in table.columns
    named = COLUMNS if has_probability else KEYS
    twice = whole.duplicated(named).to_numpy()
    if twice.any():
        raise DataError(f"{_row(whole, twice)} is there twice")
    if not has_probability:  # a record, or the one cell that was predicted
        return whole.assign(weight=1.0).reset_index(drop=True)
    weight = pd.to_numeric(table["probability"], errors="coerce").to_numpy(float)
    wrong = ~((weight >= 0) & (weight <= 1 + TOLERANCE))
    if wrong.any():
        raise DataError(
            f"{_row(whole, wrong)} has a probability that is none: {table['probability'].iloc[np.argmax(wrong)]}"
        )
    chances = whole.assign(weight=weight).reset_index(drop=True)
    total = chances.groupby(KEYS)["weight"].transform("sum").to_numpy()
    if (total > 1 + TOLERANCE).any():
        row = int(np.argmax(total > 1 + TOLERANCE))
        raise DataError(f"the probabilities of {_row(whole, total > 1 + TOLERANCE)} sum to {total[row]:.4f}")
    chances["weight"] /= np.maximum(total, 1)
    return chances


def _samples(samples: pd.DataFrame) -> pd.DataFrame:
    twice = samples.duplicated([*KEYS, "sample"]).to_numpy()
    if twice.any():
        raise DataError(f"{_row(samples, twice)} has a sample twice")
    count = samples["sample"].nunique()
    short = (samples.groupby(KEYS)["sample"].transform("size") < count).to_numpy()
    if short.any():
        raise DataError(f"{_row(samples, short)} is not in all of the {count} samples")
    return samples.reset_index(drop=True)


def _check_ranges(table: pd.DataFrame, grid: Grid, calendar: Calendar) -> None:
    limits = {
        "uid": (0, 2**62),
        "d": (None, None),
        "t": (0, calendar.num_slots - 1),
        "x": (1, grid.width),
        "y": (1, grid.height),
    }
    for name, (low, high) in limits.items():
        values = pd.to_numeric(table[name], errors="coerce").to_numpy(float)
        wrong = ~np.isfinite(values) | (values != np.floor(values))
        if wrong.any():
            raise DataError(f"{name} is {table[name].iloc[int(np.argmax(wrong))]}, which is no whole number")
        if low is not None and high is not None:
            wrong = (values < low) | (values > high)
            if wrong.any():
                found = values[int(np.argmax(wrong))]
                raise DataError(f"{name} is {found:.0f} in {_row(table, wrong)}; it must be {low}..{high}")


def _row(table: pd.DataFrame, wrong: np.ndarray) -> str:
    """The first wrong row, for a person."""
    uid, d, t = (int(v) for v in table[KEYS].iloc[int(np.argmax(wrong))])
    return f"uid {uid}, day {d}, slot {t}"
