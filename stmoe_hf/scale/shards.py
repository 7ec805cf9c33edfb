"""A shard: one file of people in, one file of answers out, done by itself by whatever worker.

The answers are written aside and take their name when they are whole. What they were made from (hashes of the input,
the weights and the settings) stands within them, so a file that is there can be trusted, whatever became of the run.
Rows that cannot be read go to `_quarantine/NAME.csv` with their reason.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import pyarrow as pa
import pyarrow.parquet as pq

from ..data.errors import DataError
from ..data.files import sha256_of
from .batches import PEOPLE_A_BATCH, Job
from .folders import Folder, Lock, state
from .rows import BadPerson

SUFFIX = ".parquet"
QUARANTINE = "_quarantine"
ABOUT = b"stmoe_hf"  # key of the metadata of a file of answers
ROWS_A_GROUP = 500_000  # of a file of answers


@dataclass(frozen=True)
class Shard:
    """What a worker needs to do a shard. `job` and `lock` are those of the run, `made_from` the hash of settings."""

    name: str
    source: str
    output: str
    job: Job
    lock: Lock
    made_from: str


@dataclass(frozen=True)
class Done:
    """A shard that is done, as it stands in the manifest and within its file.

    Attributes:
        name: of the file, in the input and in the output.
        input_state, input_sha256: of the input file, as the file system and as its content tells.
        made_from: hash of weights and settings.
        people, rows, bad: people answered for, rows of answers, rows that could not be read.
        first_bad: the first of these.
        seconds: that it took; not within the file, so that its bytes are the same whoever made it.
    """

    name: str
    input_state: str
    input_sha256: str
    made_from: str
    people: int
    rows: int
    bad: int
    first_bad: str
    seconds: float = 0.0


def do_shard(shard: Shard) -> Done:
    """Do a shard.

    Raises:
        DataError: naming the file and what is wrong with it. OSError.
    """
    start = time.monotonic()
    source, output = Folder(shard.source), Folder(shard.output)
    bad: list[BadPerson] = []
    people = 0
    before = state(source.fs.info(source.path(shard.name)))
    with open_people(source, shard.name) as (path, file):
        batches = batches_of(file, ("uid", "user", *shard.job.lists), PEOPLE_A_BATCH)
        with output.open_aside(shard.name, shard.lock) as sink:
            writer = pq.ParquetWriter(sink, shard.job.schema(), compression="zstd")
            rows = _write(writer, shard.job(batches, bad.append))
            people = file.metadata.num_rows - len(bad)
            first = str(bad[0]) if bad else ""
            done = Done(shard.name, before, sha256_of(path), shard.made_from, people, rows, len(bad), first)
            writer.add_key_value_metadata({ABOUT: json.dumps(asdict(done)).encode()})
            writer.close()
            _quarantine(output, shard, bad)
    return replace(done, seconds=round(time.monotonic() - start, 3))


@contextlib.contextmanager
def open_people(folder: Folder, name: str) -> Iterator[tuple[str, pq.ParquetFile]]:
    """A file of people, of one row each: the path of its local copy, and its reader.

    Raises:
        DataError: naming the file, where Arrow fails within.
    """
    try:
        with folder.local_copy(name) as path, pq.ParquetFile(path) as file:
            yield path, file
    except pa.ArrowException as error:
        raise DataError(f"{name} cannot be read: {' '.join(str(error).split())[:300]}") from None


def batches_of(file: pq.ParquetFile, wanted: Sequence[str], people: int) -> Iterator[pa.RecordBatch]:
    """So many people of a file at a time, with those of the wanted columns that it has."""
    return file.iter_batches(people, columns=[name for name in file.schema_arrow.names if name in wanted])


def _write(writer: pq.ParquetWriter, batches: Iterable[pa.RecordBatch]) -> int:
    """Write batches, in groups of rows that are worth reading; returns the number of rows."""
    waiting: list[pa.RecordBatch] = []
    rows = written = 0
    for batch in batches:
        waiting.append(batch)
        rows += batch.num_rows
        if rows - written >= ROWS_A_GROUP:
            writer.write_table(pa.Table.from_batches(waiting))
            waiting, written = [], rows
    if waiting:
        writer.write_table(pa.Table.from_batches(waiting))
    return rows


def _quarantine(output: Folder, shard: Shard, bad: list[BadPerson]) -> None:
    """Write the rows that could not be read, or remove the file of an earlier run."""
    name = f"{QUARANTINE}/{shard.name}.csv"
    if not bad:
        output.remove(name)
        return
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["file", "row", "uid", "reason"])
    writer.writerows([shard.name, row.row, row.uid, row.reason] for row in bad)
    with output.open_aside(name, shard.lock) as file:
        file.write(text.getvalue().encode())


def read_done(output: Folder, name: str) -> Done | None:
    """What stands within a file of answers; None if it is none of ours."""
    try:
        with output.fs.open(output.path(name), "rb") as file:
            about = (pq.read_metadata(file).metadata or {}).get(ABOUT)
        return None if about is None else Done(**json.loads(about))
    except (pa.ArrowException, OSError, ValueError, TypeError):
        return None
