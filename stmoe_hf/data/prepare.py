"""Preparation: from checked records to an Arrow file with one row a user, in bounded memory and never half-written."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
from filelock import FileLock
from tqdm.auto import tqdm

from ..model.spacetime import Calendar, Grid
from .errors import DataError
from .files import aside_of, open_aside, sha256_of, sweep
from .readers import Records, stream_parts, stream_records, where

USERS_FILE = "users.arrow"
DIGEST_FILE = "users.json"  # state and digest of the file of users
FORMAT = 3  # of a prepared city; raised when it changes
RECORDS_A_BUCKET = 4_000_000  # sorted in memory at a time, when a file is not in order
USERS_A_BATCH = 2000
logger = logging.getLogger(__name__)


def prepare(files: list[Path], grid: Grid, calendar: Calendar, root: Path, progress: bool = False) -> Path:
    """The folder, under `root`, of the city in these files; prepared if it is not there yet.

    It is found by the content of the files and what they are checked against. Of two processes that ask for one city
    at once, one prepares it while the other waits. The folder takes its name when all of it is written.

    Raises:
        DataError: naming file and line of what is wrong.
    """
    name = _fingerprint(files, grid, calendar, root)
    folder = root / name
    if _is_whole(folder):  # also in a cache that cannot be written
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        sweep(root)
        with FileLock(root / f"{name}.lock"):
            if not _is_whole(folder):
                _prepare(files, grid, calendar, folder, progress)
    except PermissionError as error:
        raise PermissionError(f"{root} cannot be written: give another folder for prepared cities ({error})") from None
    return folder


def _prepare(files: list[Path], grid: Grid, calendar: Calendar, folder: Path, progress: bool) -> None:
    """Fill the folder of a city."""
    aside = aside_of(folder)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    size = sum(file.stat().st_size for file in files)
    try:
        with tqdm(total=size, unit="B", unit_scale=True, desc="preparing", disable=not progress) as bar:
            try:
                _write(_users_in_order(files, grid, calendar, bar.update), grid, calendar, aside)
            except _OutOfOrder as error:
                logger.warning("%s is not in the order uid, d, t; it is sorted on disk", error)
                bar.reset()
                _write(_users_sorted(files, grid, calendar, aside, bar.update), grid, calendar, aside)
        made = aside / USERS_FILE
        (aside / DIGEST_FILE).write_text(json.dumps({"state": _state(made), "digest": sha256_of(made)}))
        if folder.exists():
            logger.warning("the prepared city in %s is damaged and is prepared again", folder)
            shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
        os.replace(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _is_whole(folder: Path) -> bool:
    """Whether a prepared city is there as it was written: its file's state is unchanged, or else its content is."""
    users, noted = folder / USERS_FILE, folder / DIGEST_FILE
    try:
        known = json.loads(noted.read_text())
        state = _state(users)
        if known["state"] == state:
            return True
        if known["digest"] != sha256_of(users):
            return False
    except (OSError, ValueError, KeyError, TypeError):
        return False
    with contextlib.suppress(OSError), open_aside(noted) as out:  # the cache was copied, or cannot be written
        json.dump(known | {"state": state}, out)
    return True


class _OutOfOrder(Exception):
    """The records do not come in the order uid, day, slot; names the file."""


class _Users:
    """Whole users one after another: uid [n], time [n] (slots since the first day) and cell [n] of their records."""

    def __init__(self, uid: np.ndarray, time: np.ndarray, cell: np.ndarray):
        self.uid, self.time, self.cell = uid, time, cell


def _users_in_order(files: list[Path], grid: Grid, calendar: Calendar, progress) -> Iterator[_Users]:
    """Users of files that are in order, as they are read; the last user of a block may go on in the next."""
    waiting: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    last_uid, last_time, last = -1, -1, (Path(), 0)
    for records in stream_parts(files, stream_records, grid, calendar, progress):
        time = _time(records, calendar)
        uid_step = np.diff(records.uid, prepend=last_uid)
        time_step = np.diff(time, prepend=last_time)
        same = uid_step == 0
        if ((uid_step < 0) | (same & (time_step < 0))).any():
            raise _OutOfOrder(records.path)
        twice = np.flatnonzero(same & (time_step == 0))
        if len(twice):
            row = int(twice[0])
            one, other = (records.path, records.first + row - 1) if row else last, (records.path, records.first + row)
            raise _twice(where(*one), where(*other), records.uid[row], int(time[row]), calendar)
        last_uid, last_time = int(records.uid[-1]), int(time[-1])
        last = records.path, records.first + len(records) - 1
        cut = int(np.searchsorted(records.uid, last_uid))  # the last user of the block may go on
        columns = (records.uid, time, records.cell)
        if cut or (waiting and waiting[-1][0][-1] != last_uid):
            waiting.append(tuple(column[:cut] for column in columns))  # type: ignore[arg-type]
            yield _Users(*(np.concatenate(parts) for parts in zip(*waiting, strict=True)))
            waiting = []
        waiting.append(tuple(column[cut:] for column in columns))  # type: ignore[arg-type]
    yield _Users(*(np.concatenate(parts) for parts in zip(*waiting, strict=True)))


_SPILLED = np.dtype([("uid", np.int64), ("row", np.int64), ("time", np.int32), ("cell", np.int32)])


def _users_sorted(files: list[Path], grid: Grid, calendar: Calendar, folder: Path, progress) -> Iterator[_Users]:
    """Users of files in any order: records are dealt on disk into ranges of uids that fit into memory, then sorted."""
    starts: list[tuple[int, Path]] = []  # first row of each file
    part: np.ndarray
    uids: np.ndarray = np.empty(0, np.int64)
    counts: np.ndarray = np.empty(0, np.int64)
    rows = 0
    with open(folder / "spilled", "wb") as spilled:
        for records in stream_parts(files, stream_records, grid, calendar, progress):
            part = np.empty(len(records), _SPILLED)
            part["uid"], part["time"], part["cell"] = records.uid, _time(records, calendar), records.cell
            part["row"] = rows + np.arange(len(records))
            part.tofile(spilled)
            if not records.first:
                starts.append((rows, records.path))
            uids, index = np.unique(np.concatenate([uids, records.uid]), return_inverse=True)
            counts = np.bincount(index, np.concatenate([counts, np.ones(len(records))]))
            rows += len(records)
    bucket_of_uid = (np.cumsum(counts) / RECORDS_A_BUCKET).astype(np.int64)
    names = [folder / f"bucket{bucket}" for bucket in range(int(bucket_of_uid[-1]) + 1)]
    everything = np.memmap(folder / "spilled", _SPILLED, "r")
    for first in range(0, rows, RECORDS_A_BUCKET):
        part = np.asarray(everything[first : first + RECORDS_A_BUCKET])
        bucket = bucket_of_uid[np.searchsorted(uids, part["uid"])]
        for number in np.unique(bucket):
            with open(names[number], "ab") as file:
                part[bucket == number].tofile(file)
    del everything
    (folder / "spilled").unlink()
    for name in names:
        if not name.exists():  # one user fills more than a bucket
            continue
        part = np.fromfile(name, _SPILLED)
        name.unlink()
        order = np.lexsort((part["time"].copy(), part["uid"].copy()))  # of equals, the first row stays first
        uid, time = part["uid"][order], part["time"][order]
        twice = np.flatnonzero((np.diff(uid) == 0) & (np.diff(time) == 0))
        if len(twice):
            row = int(twice[0])
            one, other = (_where_of_row(starts, int(part["row"][order[i]])) for i in (row, row + 1))
            raise _twice(one, other, int(uid[row]), int(time[row]), calendar)
        yield _Users(uid, time, part["cell"][order])


def _write(users: Iterator[_Users], grid: Grid, calendar: Calendar, folder: Path) -> None:
    """Write the Arrow file; the integer types are the smallest that hold the days, slots and cells."""
    kinds = {
        "day": np.min_scalar_type(calendar.last_day),
        "slot": np.min_scalar_type(calendar.num_slots - 1),
        "cell": np.min_scalar_type(grid.mask_id),
    }
    schema = pa.schema(
        [("uid", pa.int64()), ("records", pa.int32()), ("masked", pa.int32())]
        + [("first_day", pa.int32()), ("last_day", pa.int32())]
        + [(name, pa.list_(pa.from_numpy_dtype(kind))) for name, kind in kinds.items()]
    )
    with pa.OSFile(str(folder / USERS_FILE), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for some in users:
            starts = np.flatnonzero(np.diff(some.uid, prepend=some.uid[0] - 1))
            bounds = np.append(starts, len(some.uid))
            day, slot = np.divmod(some.time, calendar.num_slots)
            day += calendar.first_day
            values = {"day": day, "slot": slot, "cell": some.cell}
            for first in range(0, len(starts), USERS_A_BATCH):
                part = bounds[first : first + USERS_A_BATCH + 1]
                records = slice(part[0], part[-1])
                masked = np.add.reduceat((some.cell[records] == grid.mask_id).astype(np.int32), part[:-1] - part[0])
                offsets = pa.array((part - part[0]).astype(np.int32))
                columns = [
                    pa.array(some.uid[part[:-1]]),
                    pa.array(np.diff(part).astype(np.int32)),
                    pa.array(masked),
                    pa.array(day[part[:-1]].astype(np.int32)),
                    pa.array(day[part[1:] - 1].astype(np.int32)),
                ]
                columns += [
                    pa.ListArray.from_arrays(offsets, pa.array(values[name][records].astype(kind)))
                    for name, kind in kinds.items()
                ]
                writer.write_batch(pa.record_batch(columns, schema=schema))


def _time(records: Records, calendar: Calendar) -> np.ndarray:
    return (records.day - calendar.first_day) * calendar.num_slots + records.slot


def _where_of_row(starts: list[tuple[int, Path]], row: int) -> str:
    first, path = next(found for found in reversed(starts) if found[0] <= row)
    return where(path, row - first)


def _twice(one: str, other: str, uid: int, time: int, calendar: Calendar) -> DataError:
    day, slot = divmod(time, calendar.num_slots)
    return DataError(
        f"{one} and {other}: two records of uid {uid} on day {day + calendar.first_day}, slot {slot}. Keep one of them"
    )


def _fingerprint(files: list[Path], grid: Grid, calendar: Calendar, root: Path) -> str:
    """Of the content of the files and of what their records are checked against."""
    digest = hashlib.sha256(json.dumps([FORMAT, asdict(grid), asdict(calendar)]).encode())
    for file in files:
        digest.update(_digest(file, root).encode())
    return digest.hexdigest()[:32]


def _digest(file: Path, root: Path) -> str:
    """Of the content; read once, and remembered as long as the file's state stays the same."""
    state = _state(file)
    known = root / f"{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:32]}.digest"
    try:
        remembered = json.loads(known.read_text())
        if remembered["state"] == state:
            return remembered["digest"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not known yet
    digest = sha256_of(file)
    with contextlib.suppress(OSError):  # of a cache that cannot be written
        root.mkdir(parents=True, exist_ok=True)
        with open_aside(known) as out:
            json.dump({"state": state, "digest": digest}, out)
    return digest


def _state(file: Path) -> list[int]:
    """What changes when a file is changed or replaced, though it keep its size and its time: `cp -p`, `rsync -t`."""
    status = file.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
