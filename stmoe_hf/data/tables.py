"""Tables that are written some rows at a time and take their name when they are whole: csv, csv.gz, parquet."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from .files import open_aside

TABLE_SUFFIXES = (".parquet", ".csv", ".csv.gz")


@contextlib.contextmanager
def table_writer(path: Path) -> Iterator[Callable[[pd.DataFrame], None]]:
    """A function that appends rows; the file appears when the context ends without an error.

    Times are written with their zone: in csv as ISO 8601 with offset.
    """
    if path.name.endswith(".parquet"):
        aside = path.with_name(f".{path.name}.{os.getpid()}.part")
        writer: pa.parquet.ParquetWriter | None = None

        def write_parquet(table: pd.DataFrame) -> None:
            nonlocal writer
            rows = pa.Table.from_pandas(table, preserve_index=False)
            writer = writer or pa.parquet.ParquetWriter(aside, rows.schema)
            writer.write_table(rows.cast(writer.schema))

        try:
            yield write_parquet
            if writer is None:
                raise ValueError(f"there is nothing to write to {path}")
            writer.close()
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
        return
    with open_aside(path) as file:
        header = True

        def write_csv(table: pd.DataFrame) -> None:
            nonlocal header
            if "time" in table:
                table = table.assign(time=[time.isoformat() for time in table["time"]])
            table.to_csv(file, index=False, header=header, float_format="%.6g" if "latitude" not in table else "%.7g")
            header = False

        yield write_csv
