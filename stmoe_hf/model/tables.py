"""Tables of records at every door: any kind of table becomes a DataFrame, any kind of whole number an int64.

Everything is converted once, here, before anything is sorted or grouped: `to_table`, then `record_columns`.
"""

import datetime
import decimal
import numbers
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from .records import RECORD_COLUMNS

KINDS = (
    "a DataFrame of pandas or polars, an Arrow table, a datasets.Dataset, a dict of columns, a list or generator of"
    " rows (dicts) or of such tables"
)
_WHOLE = re.compile(r"-?[0-9]+(?:\.0*)?", re.ASCII)
_SPACE = " \t\r\n"
_DIGITS = 19  # of the largest int64
SHOWN = 40  # characters of a value that an error shows
_UNREADABLE = object()


def shown(value: Any) -> str:
    """A value as an error shows it: in quotes if it is text, and never longer than a line can be."""
    if isinstance(value, float | np.floating):
        return f"{value:.15g}"
    if isinstance(value, str):
        return repr(value) if len(value) <= SHOWN else f"{value[:SHOWN]!r}... ({len(value):,} characters)"
    if isinstance(value, numbers.Number | np.generic):
        return str(value)[:SHOWN]
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def to_table(values: Any, columns: Sequence[str] | None = RECORD_COLUMNS) -> pd.DataFrame:
    """A DataFrame of any kind of table, its rows numbered from 0.

    Args:
        values: one of `KINDS`; or an array [n, len(columns)], or a list of such rows.
        columns: the names of the columns of an array; None if arrays are not taken.

    Raises:
        ValueError: it is no table; says which kinds are taken.
    """
    table = _frame(values, columns)
    twice = table.columns[table.columns.duplicated()]
    if len(twice):
        raise ValueError(f"the table has two columns called {twice[0]!r}")
    if not isinstance(table.index, pd.RangeIndex) or table.index.start or table.index.step != 1:
        table = table.reset_index(drop=True)
    return table


def _frame(values: Any, columns: Sequence[str] | None) -> pd.DataFrame:
    if isinstance(values, pd.DataFrame):
        return values
    if isinstance(values, type | str | bytes | pd.Series) or hasattr(values, "__fspath__"):
        raise _no_table(values, columns)
    for method in ("to_pandas", "toPandas", "read_pandas"):  # Arrow, polars, datasets; Spark; Arrow's readers
        if callable(getattr(values, method, None)):
            return _frame(getattr(values, method)(), None)
    from_arrow = getattr(pd.DataFrame, "from_arrow", None)  # since pandas 3
    if hasattr(values, "__arrow_c_stream__") and from_arrow is not None:
        return from_arrow(values)
    if callable(getattr(values, "collect", None)):  # a lazy frame of polars
        return _frame(values.collect(), columns)
    if isinstance(values, Mapping):
        return _of_columns(values, columns)
    if hasattr(values, "detach"):  # a tensor
        values = values.detach().cpu().numpy()
    if isinstance(values, np.ndarray):
        if values.dtype.names is not None:
            return pd.DataFrame(values)
        if columns is None or values.ndim != 2 or values.shape[1] != len(columns):
            raise _no_table(values, columns)
        return pd.DataFrame(values, columns=list(columns))
    if isinstance(values, Iterable):
        return _of_rows(list(values), columns)
    raise _no_table(values, columns)


def _of_columns(values: Mapping, columns: Sequence[str] | None) -> pd.DataFrame:
    """A mapping of columns; or one row, if its values are single ones."""
    if any(hasattr(value, "column_names") for value in values.values()):
        raise ValueError(f"this is a dict of data sets; give one of them: {', '.join(map(str, values))}")
    plain = {
        name: value.detach().cpu().numpy() if hasattr(value, "detach") else value for name, value in values.items()
    }
    if plain and not any(hasattr(value, "__len__") and not isinstance(value, str) for value in plain.values()):
        plain = {name: [value] for name, value in plain.items()}
    try:
        return pd.DataFrame({name: _column(value) for name, value in plain.items()})
    except ValueError as error:
        raise ValueError(f"the columns {', '.join(map(str, plain))} make no table: {error}") from None


def _column(values: Any) -> Any:
    """A column as pandas takes it; a list as it stands, so that true is not taken for 1 beside numbers."""
    if isinstance(values, pd.Series):
        return values.reset_index(drop=True)
    return _narrow(list(values)) if isinstance(values, list | tuple) else values


def _narrow(values: list) -> Any:
    """A list with bools among its numbers stays a column of objects: numpy would make numbers of the bools."""
    kinds = set(map(type, values))
    if len(kinds) > 1 and kinds & {bool, np.bool_}:
        return np.array([*values, None], object)[:-1]
    return values


def _of_rows(rows: list, columns: Sequence[str] | None) -> pd.DataFrame:
    """Rows (dicts, named tuples or, if arrays are taken, plain sequences), or tables, one after another."""
    if not rows:
        return pd.DataFrame(columns=list(columns or ()))
    first = rows[0]
    if isinstance(first, Mapping) and not any(isinstance(v, list | tuple | np.ndarray) for v in first.values()):
        if not all(isinstance(row, Mapping) for row in rows):
            raise ValueError("some rows are dicts and some are not")
        names = list(dict.fromkeys(name for row in rows for name in row))
        return pd.DataFrame({name: _narrow([row.get(name) for row in rows]) for name in names})
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return _of_rows([dict(zip(first._fields, row, strict=True)) for row in rows], columns)
    if isinstance(first, list | tuple) or (isinstance(first, np.ndarray) and first.ndim == 1):
        if columns is None or any(not hasattr(row, "__len__") or len(row) != len(columns) for row in rows):
            raise _no_table(rows, columns)
        return pd.DataFrame({name: _narrow([row[i] for row in rows]) for i, name in enumerate(columns)})
    if isinstance(first, str | bytes | numbers.Number | datetime.datetime) or first is None:
        raise _no_table(rows, columns)
    return pd.concat([_frame(part, columns) for part in rows], ignore_index=True)


def _no_table(values: Any, columns: Sequence[str] | None) -> ValueError:
    what = f"{type(values).__module__}.{type(values).__name__}".removeprefix("builtins.")
    if isinstance(values, np.ndarray):
        what += f" of shape {list(values.shape)}"
    array = f", or an array [n, {len(columns)}] of {', '.join(columns)}" if columns else ""
    return ValueError(f"this is no table but {what}; taken are {KINDS}{array}")


def find_columns(found: Iterable[Any], wanted: Sequence[str]) -> dict[str, Any]:
    """What the wanted columns are called among the found ones: exactly so, or in other letters and with spaces around.

    Returns:
        Wanted name -> found name, without those that are not there or that two columns could be.
    """
    found = list(found)
    names = {}
    for name in wanted:
        like = [other for other in found if str(other).strip().lower() == name]
        exact = [other for other in found if other == name]
        if len(exact) == 1 or len(like) == 1:
            names[name] = (exact or like)[0]
    return names


def whole(values: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values of any type as whole numbers.

    Whole numbers are those of integer types, of floats (85.0) and decimals without a fraction, and ASCII text of such
    ("85", "85.0"); not bools, "+3", "1_0", "0x10" or other scripts' digits. Missing are None, nan and empty text.

    Args:
        values: [n], a Series, an array or a list.

    Returns:
        [n] int64, 0 where there is none; [n] whether it is missing; [n] whether it is neither missing nor whole.
    """
    series = values if isinstance(values, pd.Series) else pd.Series(_narrow(list(values)))
    kind = series.dtype
    if isinstance(kind, pd.CategoricalDtype):
        number, missing, wrong = whole(pd.Series(series.cat.categories))
        code = series.cat.codes.to_numpy()
        none = code < 0
        if not len(number):
            return np.zeros(len(code), np.int64), none, ~none
        return np.where(none, 0, number[code]), missing[code] | none, wrong[code] & ~none
    missing = series.isna().to_numpy(bool)
    if pd.api.types.is_bool_dtype(kind):
        return np.zeros(len(series), np.int64), missing, ~missing
    if pd.api.types.is_integer_dtype(kind):
        if pd.api.types.is_unsigned_integer_dtype(kind):
            wide = series.fillna(0).to_numpy(np.uint64)
            wrong = wide > np.iinfo(np.int64).max
            return np.where(wrong, 0, wide).astype(np.int64), missing, wrong
        filled = series.fillna(0) if missing.any() else series
        return filled.to_numpy(np.int64), missing, np.zeros(len(series), bool)
    if pd.api.types.is_float_dtype(kind):
        number = series.to_numpy(np.float64, na_value=np.nan)
        with np.errstate(invalid="ignore"):
            wrong = ~missing & ~((np.abs(number) < 2**53) & (number == np.floor(number)))
        return np.where(missing | wrong, 0, number).astype(np.int64), missing, wrong
    if pd.api.types.infer_dtype(series, skipna=True) == "string":
        code, texts = pd.factorize(series)
        return _look_up([_one(text) for text in texts], code)
    return _look_up([_one(value) for value in series], np.arange(len(series)))


def _look_up(found: list, code: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `whole` returns, of the values `found` by their numbers, -1 for a missing one."""
    found = [*found, None]
    number = np.array([value if isinstance(value, int) else 0 for value in found], np.int64)
    missing, wrong = (np.array([value is which for value in found]) for which in (None, _UNREADABLE))
    return number[code], missing[code], wrong[code]


def _one(value: Any) -> Any:
    """One value as an int; None if it is missing, `_UNREADABLE` if it is no whole number of 64 bits."""
    if isinstance(value, str):
        text = value.strip(_SPACE)
        if not text:
            return None
        if not _WHOLE.fullmatch(text):
            return _UNREADABLE
        digits = text.partition(".")[0].lstrip("-").lstrip("0")
        if len(digits) > _DIGITS:
            return _UNREADABLE
        value = int(digits or "0") * (-1 if text.startswith("-") else 1)
    elif value is None or value is pd.NA or value is pd.NaT:
        return None
    elif isinstance(value, bool | np.bool_):
        return _UNREADABLE
    elif isinstance(value, float | np.floating | decimal.Decimal):
        near = float(value)
        if near != near:
            return None
        if abs(near) >= 2**64 or value != int(value):
            return _UNREADABLE
    elif not isinstance(value, numbers.Integral):
        return _UNREADABLE
    number: int = int(value)
    return number if -(2**63) <= number < 2**63 else _UNREADABLE


def record_columns(table: pd.DataFrame, what: str = "table", *, missing_cells: bool = False) -> pd.DataFrame:
    """The columns uid, d, t, x, y of a table as whole numbers, in its order.

    Args:
        table: as from `to_table`.
        what: the table's name in errors.
        missing_cells: x and y may be missing, and so may both columns: the cell is asked for.

    Returns:
        [n] uid, d, t, x, y as int64; x and y as float64, nan where missing, if one is.

    Raises:
        ValueError: a column is missing, or naming column, row and value, a value is missing or no whole number.
    """
    names = find_columns(table.columns, RECORD_COLUMNS)
    lacking = [name for name in RECORD_COLUMNS if name not in names]
    if lacking and not (missing_cells and lacking == ["x", "y"]):
        found = ", ".join(map(str, table.columns)) or "none"
        raise ValueError(f"the {what} lacks the columns {lacking}; it needs uid, d, t, x, y and has {found}")
    result: dict[str, np.ndarray] = {}
    for name in RECORD_COLUMNS:
        if name not in names:
            result[name] = np.full(len(table), np.nan)
            continue
        values = table[names[name]]
        number, missing, wrong = whole(values)
        refused = wrong if missing_cells and name in ("x", "y") else wrong | missing
        if refused.any():
            row = int(np.argmax(refused))
            known = ", ".join(f"{other} {result[other][row]}" for other in ("uid", "d", "t") if other in result)
            where = f"row {row}" + (f" ({known})" if known else "")
            count = f" ({refused.sum():,} such values in all)" if refused.sum() > 1 else ""
            text = "is missing" if missing[row] else f"is {shown(values.iloc[row])}, which is no whole number"
            raise ValueError(f"the {what}, {where}: {name} {text}{count}")
        result[name] = np.where(missing, np.nan, number) if missing.any() else number
    records = pd.DataFrame(result)
    records.attrs = dict(table.attrs)
    return records
