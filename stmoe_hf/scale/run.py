"""A run over a folder: every file of the input a shard, done on an engine; what is done already is not done again.

    OUTPUT/part-00000.parquet        answers, under the name of the file they are for
    OUTPUT/_manifest.parquet         a row a shard: hashes of its input, weights and settings, people, rows
    OUTPUT/_run.json                 settings, weights and versions of the run
    OUTPUT/_city.json                grid, calendar and place of records
    OUTPUT/_quarantine/*.csv         rows that could not be read, with the reason
    OUTPUT/_lock                     while a run is at work

pandas, pyarrow, Spark and DuckDB take the folder for one table: they leave out what begins with _.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import platform
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from .. import __version__
from ..data.errors import DataError
from ..data.files import sha256_of
from .batches import Job
from .folders import Folder, Lock, locked, state
from .shards import QUARANTINE, SUFFIX, Done, Shard, do_shard, read_done

MANIFEST, RUN = "_manifest.parquet", "_run.json"
TRIES = 3
SAVE_SECONDS = 60.0
SHOWN = 3  # shards that an error names
logger = logging.getLogger(__name__)


class Engine(Protocol):
    """Where shards are done: `slots` of them at a time, by processes that keep their weights."""

    slots: int

    def submit(self, function: Callable[[Shard], Done], shard: Shard) -> Future[Done]:
        """Do a shard somewhere; a worker that dies is an exception of its future, and of no other one."""
        ...

    def close(self) -> None: ...


class ShardsFailed(DataError):
    """Some shards could not be done, or more rows could not be read than may."""


@dataclass(frozen=True)
class Summary:
    """What became of a run: shards done now, and of all that are done shards, people, rows and bad rows."""

    done_now: int
    shards: int
    people: int
    rows: int
    bad: int


def run_shards(
    job: Job,
    source: str,
    output: str,
    engine: Engine,
    *,
    max_bad: int = 0,
    replace_others: bool = False,
    progress: Callable[[int], Any] | None = None,
) -> Summary:
    """Do what is missing or changed of the files of a folder.

    Args:
        job: what is done with each person.
        source, output: paths or URLs of folders.
        engine: where it is done; it is left open.
        max_bad: so many rows may be unreadable; beyond that the run stops.
        replace_others: replace what other settings or weights have made, in place of a refusal.
        progress: called with the number of people of each shard that is done, or found done.

    Raises:
        ShardsFailed: naming the shards that failed three times, or the first of too many bad rows. What is done stays.
        DataError: there is nothing to do, or the output belongs to another run or other settings.
    """
    inputs = shards_of(source)
    job = job.pinned()
    folder = Folder(output)
    if folder.path("").startswith(Folder(source).path("")):
        raise DataError(f"the output {output} lies within the input {source}: give another folder")
    with locked(folder) as lock:
        folder.sweep()
        made_from = _refuse_others(folder, job, replace_others)
        done = _found_done(folder, Folder(source), inputs, made_from)
        for name in _answers(folder) - set(done):
            folder.remove(name)  # of an input that is no more, or has changed
        if progress is not None:
            progress(sum(shard.people for shard in done.values()))
        todo = [Shard(name, source, output, job, lock, made_from) for name in inputs if name not in done]
        now = len(todo)
        try:
            failed = _work(todo, done, engine, folder, lock, max_bad, progress)
        finally:
            with contextlib.suppress(OSError):
                _save(folder, done, lock)
    total = Summary(
        now - len(failed),
        len(done),
        *(sum(getattr(d, name) for d in done.values()) for name in ("people", "rows", "bad")),
    )
    if failed:
        names = [f"{name} ({reason})" for name, reason in sorted(failed.items())[:SHOWN]]
        more = "; ..." if len(failed) > SHOWN else ""
        raise ShardsFailed(
            f"{len(failed)} of {len(inputs)} shards failed {TRIES} times: {'; '.join(names)}{more}. The others"
            f" are done in {output}; the same command tries these again"
        )
    return total


def shards_of(source: str) -> dict[str, str]:
    """The state of each parquet file of a folder, also of folders within, by its name; hidden ones are left out."""
    found = {
        name: state(info)
        for name, info in Folder(source).files().items()
        if name.endswith(SUFFIX) and not any(part.startswith((".", "_")) for part in name.split("/"))
    }
    if not found:
        raise DataError(f"{source} holds no parquet file; `stmoe partition` makes a folder of them")
    return found


def with_columns(job: Job, source: str) -> Job:
    """The job, told whether the rows of a folder say what people are called."""
    folder = Folder(source)
    with folder.fs.open(folder.path(next(iter(shards_of(source)))), "rb") as file:
        try:
            names = pq.read_schema(file).names
        except pa.ArrowException:
            return job  # its shard says what is wrong
    return replace(job, with_user="user" in names)


def _work(
    todo: list[Shard],
    done: dict[str, Done],
    engine: Engine,
    folder: Folder,
    lock: Lock,
    max_bad: int,
    progress: Callable[[int], Any] | None,
) -> dict[str, str]:
    """Do shards, into `done`; returns those that failed too often, each with the last reason."""
    waiting, running = todo[::-1], dict[Future, Shard]()
    tries: Counter[str] = Counter()
    failed: dict[str, str] = {}
    due = time.monotonic() + SAVE_SECONDS
    _refuse_bad(done, max_bad, folder)
    try:
        while waiting or running:
            while waiting and len(running) < engine.slots:
                shard = waiting.pop()
                running[engine.submit(do_shard, shard)] = shard
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                shard = running.pop(future)
                try:
                    found = future.result()
                except Exception as error:  # whatever a worker dies of
                    lock.refuse_lost()
                    tries[shard.name] += 1
                    reason = " ".join(str(error).split())[:300] or type(error).__name__
                    logger.warning("%s failed, try %d of %d: %s", shard.name, tries[shard.name], TRIES, reason)
                    if tries[shard.name] < TRIES:
                        waiting.insert(0, shard)  # after all others
                    else:
                        failed[shard.name] = reason
                    continue
                done[shard.name] = found
                if progress is not None:
                    progress(found.people)
            _refuse_bad(done, max_bad, folder)
            if time.monotonic() > due:
                begun = time.monotonic()
                _save(folder, done, lock)
                # Of a million shards it takes seconds: never more than a twentieth of the time.
                due = time.monotonic() + max(SAVE_SECONDS, 20 * (time.monotonic() - begun))
    finally:
        for future in running:
            future.cancel()
    return failed


def _refuse_bad(done: dict[str, Done], max_bad: int, folder: Folder) -> None:
    bad = sum(shard.bad for shard in done.values())
    if bad > max_bad:
        first = min((shard for shard in done.values() if shard.bad), key=lambda shard: shard.name)
        raise ShardsFailed(
            f"{bad} rows cannot be read, more than --max_bad {max_bad}: first {first.name}, {first.first_bad}. All of"
            f" them are in {folder.url}/{QUARANTINE}"
        )


def _refuse_others(folder: Folder, job: Job, replace_others: bool) -> str:
    """See to it that the output is of these settings and weights, or empty; returns the hash of both."""
    settings = json.loads(json.dumps(job.settings(), default=str))
    made_from = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    if folder.exists(RUN):
        before = json.loads(folder.read(RUN))["settings"]
        if before != settings and not replace_others:
            raise DataError(
                f"{folder.url} holds answers of other settings ({_difference(before, settings)}): give another"
                " --output, or --replace to do all of them again"
            )
    elif _answers(folder):
        raise DataError(f"{folder.url} holds parquet files that are none of ours: give another --output")
    versions = {"stmoe_hf": __version__, "torch": torch.__version__, "pyarrow": pa.__version__}
    versions["python"] = platform.python_version()
    with folder.open_aside(RUN) as file:
        file.write(json.dumps({"settings": settings, "versions": versions}, indent=2).encode())
    return made_from


def _difference(before: dict[str, Any], now: dict[str, Any], where: str = "") -> str:
    """The first setting that differs, for a person."""
    for key in sorted({*before, *now}):
        one, other = before.get(key), now.get(key)
        if one != other:
            if isinstance(one, dict) and isinstance(other, dict):
                return _difference(one, other, f"{where}{key}.")
            return f"{where}{key} was {str(one)[:40]}, is {str(other)[:40]}"
    return "none"


def _answers(folder: Folder) -> set[str]:
    return {
        name
        for name in folder.files()
        if name.endswith(SUFFIX) and not any(part.startswith((".", "_")) for part in name.split("/"))
    }


def _found_done(folder: Folder, source: Folder, inputs: dict[str, str], made_from: str) -> dict[str, Done]:
    """The shards that are done and whose input is the same, by the manifest, or by what stands within the files."""
    there = folder.files()
    noted: dict[str, tuple[Done, str]] = {}
    if MANIFEST in there:
        with contextlib.suppress(pa.ArrowException, KeyError, TypeError):
            for row in pq.read_table(pa.BufferReader(folder.read(MANIFEST))).to_pylist():
                output_state = row.pop("output_state")
                noted[row["name"]] = Done(**row), output_state
    done = {}
    for name, input_state in inputs.items():
        if name not in there:
            continue
        known, output_state = noted.get(name, (None, ""))
        if known is None or output_state != state(there[name]):
            known = read_done(folder, name)
        if known is None or known.made_from != made_from:
            continue
        if known.input_state != input_state:
            with source.local_copy(name) as path:
                if sha256_of(path) != known.input_sha256:
                    continue
            known = replace(known, input_state=input_state)  # it was copied or touched, and is the same
        done[name] = known
    return done


def _save(folder: Folder, done: dict[str, Done], lock: Lock) -> None:
    """Write the manifest."""
    there = folder.files()
    rows = [
        asdict(shard) | {"output_state": state(there[name])} for name, shard in sorted(done.items()) if name in there
    ]
    if rows:
        with folder.open_aside(MANIFEST, lock) as file:
            pq.write_table(pa.Table.from_pylist(rows), file, compression="zstd")
