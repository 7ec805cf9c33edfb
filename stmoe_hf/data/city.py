"""A city's trajectories: an Arrow dataset with one row a user, prepared once and memory-mapped."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
from filelock import FileLock

from ..spacetime import Calendar, Grid
from .editions import Edition, find_file, get_edition
from .readers import Records, read_records

USERS_A_BATCH = 2000
FORMAT = 1  # of a prepared city; raised when it changes


@dataclass(frozen=True)
class Trajectory:
    """The records of one user in time order: day, slot and cell [T] int64, the cell `mask_id` where asked for."""

    uid: int
    day: np.ndarray
    slot: np.ndarray
    cell: np.ndarray


class City:
    """The trajectories of a city.

    Attributes:
        name, edition, grid, calendar, source: what it is and from which files it was prepared.
        dataset: `datasets.Dataset`, memory-mapped, one row a user: uid, and day, slot, cell as lists.
        uids, lengths, masked_counts: [users] uid, records and masked records of each user.
    """

    def __init__(
        self,
        name: str,
        edition: Edition,
        grid: Grid,
        calendar: Calendar,
        dataset: datasets.Dataset,
        source: list[Path],
    ):
        self.name, self.edition, self.grid, self.calendar = name, edition, grid, calendar
        self.dataset, self.source = dataset, source
        table = dataset.data.table
        self._columns = [
            [(chunk.offsets.to_numpy(), chunk.values.to_numpy()) for chunk in table.column(column).chunks]
            for column in ("day", "slot", "cell")
        ]
        self._starts = np.cumsum([0] + [len(offsets) - 1 for offsets, _ in self._columns[0]])
        self.uids = table.column("uid").to_numpy().astype(np.int64)
        self.lengths = table.column("records").to_numpy().astype(np.int64)
        self.masked_counts = table.column("masked").to_numpy().astype(np.int64)
        self._rows = np.arange(len(self.uids))

    def __len__(self) -> int:
        return len(self.uids)

    @property
    def num_users(self) -> int:
        return len(self)

    @property
    def num_records(self) -> int:
        return int(self.lengths.sum())

    @property
    def num_masked(self) -> int:
        return int(self.masked_counts.sum())

    def trajectory(self, row: int) -> Trajectory:
        """The records of one user, straight from the memory-mapped buffers."""
        stored = int(self._rows[row])
        chunk = int(np.searchsorted(self._starts, stored, side="right")) - 1
        index = stored - int(self._starts[chunk])
        parts = []
        for column in self._columns:
            offsets, values = column[chunk]
            parts.append(values[offsets[index] : offsets[index + 1]].astype(np.int64))
        return Trajectory(int(self.uids[row]), *parts)

    def select(self, rows: np.ndarray) -> City:
        """The city of these users only, without a copy of their records."""
        part = object.__new__(City)
        part.__dict__ |= self.__dict__
        part._rows = self._rows[rows]
        part.uids, part.lengths, part.masked_counts = (v[rows] for v in (self.uids, self.lengths, self.masked_counts))
        part.dataset = self.dataset.select(part._rows)
        return part


def open_city(
    city: str | None = None,
    data_dir: str | Path | None = None,
    *,
    path: str | Path | None = None,
    edition: str | None = None,
    grid: Grid | None = None,
    cache_dir: str | Path | None = None,
) -> City:
    """Find the file of a city, prepare it once, and open it.

    Args:
        city, data_dir: name of the city and folder of its file; or
        path: a file, of the format of `edition` (humob2024 if not said).
        edition: humob2023, humob2024 or humob2025; by default told from the file's name.
        grid: of the cells; 200 x 200 cells of 500 m by default.
        cache_dir: where prepared cities are kept; by default in the cache of `datasets`.

    Raises:
        DataError: naming file and line of what is wrong. FileNotFoundError: naming the folder and the accepted names.
    """
    if path is not None:
        file, found = Path(path), get_edition(edition or "humob2024")
    elif city is None or data_dir is None:
        raise ValueError("say which city in which folder (city and data_dir), or give a file (path)")
    else:
        file, found = find_file(city, data_dir, edition)
    grid, calendar = grid or Grid(), found.calendar
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    root = Path(cache_dir or Path(datasets.config.HF_DATASETS_CACHE) / "stmoe_hf")
    root.mkdir(parents=True, exist_ok=True)
    folder = root / _fingerprint(file, grid, calendar)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            _prepare(read_records(file, grid, calendar), grid, folder)
    dataset = datasets.Dataset.from_file(str(folder / "users.arrow"))
    return City(city or file.name.split(".")[0], found, grid, calendar, dataset, [file])


def _fingerprint(file: Path, grid: Grid, calendar: Calendar) -> str:
    """Of the file's content and of what its records are checked against."""
    digest = hashlib.sha256(json.dumps([FORMAT, asdict(grid), asdict(calendar)]).encode())
    with open(file, "rb") as content:
        while block := content.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()[:32]


def _prepare(records: Records, grid: Grid, folder: Path) -> None:
    """Write the Arrow file aside, then rename its folder, so that a kill leaves nothing that looks complete."""
    uids, starts = np.unique(records.uid, return_index=True)
    offsets = np.append(starts, len(records.uid))
    masked = np.add.reduceat((records.cell == grid.mask_id).astype(np.int64), starts)
    columns = {
        name: values.astype(np.min_scalar_type(int(values.max())))
        for name, values in (("day", records.day), ("slot", records.slot), ("cell", records.cell))
    }
    schema = pa.schema(
        [("uid", pa.int64()), ("records", pa.int32()), ("masked", pa.int32())]
        + [(name, pa.list_(pa.from_numpy_dtype(values.dtype))) for name, values in columns.items()]
    )
    aside = Path(tempfile.mkdtemp(prefix=".prepare-", dir=folder.parent))
    try:
        with pa.OSFile(str(aside / "users.arrow"), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            for first in range(0, len(uids), USERS_A_BATCH):
                users = slice(first, first + USERS_A_BATCH)
                bounds = offsets[first : first + USERS_A_BATCH + 1]
                lists = [
                    pa.ListArray.from_arrays(
                        pa.array((bounds - bounds[0]).astype(np.int32)), pa.array(v[bounds[0] : bounds[-1]])
                    )
                    for v in columns.values()
                ]
                counts = [pa.array(np.diff(bounds).astype(np.int32)), pa.array(masked[users].astype(np.int32))]
                writer.write_batch(pa.record_batch([pa.array(uids[users]), *counts, *lists], schema=schema))
        os.replace(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
