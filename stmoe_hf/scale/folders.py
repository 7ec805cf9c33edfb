"""Folders wherever fsspec reaches (a path, s3://, gs://, hf://, memory://): whole files or none, one run at a time."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import posixpath
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from typing import IO, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from ..data.description import DESCRIPTION, Description, parse_description
from ..data.errors import DataError

LOCK = "_lock"
OWN_DESCRIPTION = "_city.json"  # with _, or else readers of parquet take it for a part of the table
BEAT_SECONDS = 20.0  # a run says so often that it is alive;
STALE_SECONDS = 180.0  # one of another machine that has not for so long is dead


class Folder:
    """A folder of some file system; names are relative to it, with / between their parts.

    Raises:
        DataError: nothing is known of such a URL, or the package that reads it is missing.
    """

    def __init__(self, url: str):
        self.url = str(url).rstrip("/")
        try:
            self.fs, self.root = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise DataError(f"{url} cannot be opened: {error}") from None

    def path(self, name: str) -> str:
        return posixpath.join(self.root, name)

    def files(self) -> dict[str, dict[str, Any]]:
        """What the file system says of each file, also of folders within, by name."""
        with contextlib.suppress(FileNotFoundError):
            self.fs.invalidate_cache()
            found = self.fs.find(self.root, detail=True)
            start = len(self.root.rstrip("/")) + 1
            return {path[start:]: found[path] for path in sorted(found)}
        return {}

    def read(self, name: str) -> bytes:
        return self.fs.cat_file(self.path(name))

    def exists(self, name: str) -> bool:
        return self.fs.exists(self.path(name))

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self.path(name))

    @contextlib.contextmanager
    def local_copy(self, name: str) -> Iterator[str]:
        """The path of a file on this machine: its own, or that of a copy that is gone afterwards."""
        if isinstance(self.fs, LocalFileSystem):
            yield self.path(name)
            return
        with tempfile.TemporaryDirectory(prefix="stmoe_hf-") as folder:
            copy = os.path.join(folder, "copy")
            self.fs.get_file(self.path(name), copy)
            yield copy

    @contextlib.contextmanager
    def open_aside(self, name: str, lock: Lock | None = None) -> Iterator[IO[bytes]]:
        """A file to write that takes its name only when it is whole, and only while the run still has its lock."""
        path = self.path(name)
        folder, _, own = path.rpartition("/")
        aside = f"{folder}/.{own}.{uuid.uuid4().hex}.part"
        self.fs.makedirs(folder, exist_ok=True)
        try:
            with self.fs.open(aside, "wb") as file:
                yield file
            if lock is not None:
                lock.refuse_lost()
            self.fs.mv(aside, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                self.fs.rm_file(aside)

    def sweep(self) -> None:
        """Remove what runs that are no more left half-written; by who has the lock."""
        for name in self.files():
            own = posixpath.basename(name)
            if own.startswith(".") and own.endswith(".part"):
                self.remove(name)


def description_of(folder: Folder) -> Description | None:
    """What the `_city.json` or `city.json` of a folder says; None where there is none."""
    for name in (OWN_DESCRIPTION, DESCRIPTION):
        if folder.exists(name):
            return parse_description(folder.read(name), f"{folder.url}/{name}")
    return None


def describe_as(folder: Folder, description: Description) -> None:
    """Write the `_city.json` of a folder of shards."""
    with folder.open_aside(OWN_DESCRIPTION) as file:
        file.write(description.to_json().encode())


def state(info: dict[str, Any]) -> str:
    """What changes when a file is changed or replaced, by what its file system says of it; short."""
    text = json.dumps(info, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


class Lock:
    """That one run writes into a folder: a file that says whose it is, written again while that run lives.

    A run on another machine that has not been heard of for `STALE_SECONDS`, and one of this machine whose process is
    no more, has lost it.
    """

    def __init__(self, url: str, token: str):
        self.url, self.token = url, token

    def refuse_lost(self) -> None:
        """Raise OSError if another run has taken the folder over."""
        try:
            holder = json.loads(Folder(self.url).read(LOCK))
        except (FileNotFoundError, ValueError):
            holder = {}
        if holder.get("token") != self.token:
            raise OSError(f"{self.url} is written by another run now: this one stops")


@contextlib.contextmanager
def locked(folder: Folder) -> Iterator[Lock]:
    """Hold the lock of a folder.

    Raises:
        DataError: another run has it; says which, since when, and what to do.
    """
    lock = Lock(folder.url, uuid.uuid4().hex)
    folder.fs.makedirs(folder.root, exist_ok=True)
    _take(folder, lock)
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):
                lock.refuse_lost()
                folder.fs.pipe_file(folder.path(LOCK), _content(lock))

    threading.Thread(target=beat, daemon=True).start()
    try:
        yield lock
    finally:
        over.set()
        with contextlib.suppress(OSError):
            lock.refuse_lost()
            folder.remove(LOCK)


def _content(lock: Lock) -> bytes:
    who = {"token": lock.token, "host": socket.gethostname(), "process": os.getpid(), "alive": time.time()}
    return json.dumps(who).encode()


def _take(folder: Folder, lock: Lock) -> None:
    for _ in range(2):
        if _create(folder, _content(lock)):
            return
        holder = _holder(folder)
        if holder is not None and _alive(holder):
            raise DataError(
                f"{folder.url} is written by process {holder.get('process')} of {holder.get('host')}, heard of"
                f" {time.time() - holder.get('alive', 0):.0f} s ago: wait for it, or give another --output"
            )
        folder.remove(LOCK)
    raise DataError(f"{folder.url} was taken by another run at the same time: wait for it")


def _create(folder: Folder, content: bytes) -> bool:
    """Write the file of the lock if there is none; whether there was none."""
    try:
        with folder.fs.open(folder.path(LOCK), "xb") as file:
            file.write(content)
    except FileExistsError:
        return False
    except (ValueError, NotImplementedError):  # a file system without a way to do both at once
        if folder.exists(LOCK):
            return False
        folder.fs.pipe_file(folder.path(LOCK), content)
    return True


def _holder(folder: Folder) -> dict[str, Any] | None:
    """Who has the lock; None if nobody has it any more, or its file was cut off."""
    for _ in range(10):
        with contextlib.suppress(ValueError):  # it is being written
            return json.loads(folder.read(LOCK)) if folder.exists(LOCK) else None
        time.sleep(0.1)
    return None


def _alive(holder: dict[str, Any]) -> bool:
    if holder.get("host") == socket.gethostname():
        try:
            os.kill(int(holder["process"]), 0)
        except ProcessLookupError:
            return False
        except OSError:
            return True
        return True
    return time.time() - holder.get("alive", 0) < STALE_SECONDS
