"""Files that are whole or not there."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

_HOST = re.sub(r"\W", "_", socket.gethostname(), flags=re.ASCII)[:40]
_ASIDE = re.compile(r"\..+\.(\w+)\.([0-9]+)\.[0-9]+\.part", re.ASCII)
SECONDS_UNTIL_STALE = 86_400  # of what a process of another machine has begun: it cannot be seen from here


def sha256_of(path: str | Path) -> str:
    """The hash of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as content:
        while block := content.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def aside_of(path: Path) -> Path:
    """The name, beside `path`, of a file or folder that is being made; tells of which machine, process and thread."""
    return path.with_name(f".{path.name}.{_HOST}.{os.getpid()}.{threading.get_ident()}.part")


def sweep(folder: Path) -> None:
    """Remove from a folder what processes left half-made that are no more."""
    with contextlib.suppress(OSError):
        for path in list(folder.glob(".*.part")):
            made = _ASIDE.fullmatch(path.name)
            if made is not None and _is_stale(path, made[1], int(made[2])):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _is_stale(path: Path, host: str, process: int) -> bool:
    if host == _HOST:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False  # it is another user's
        return False
    return time.time() - path.stat().st_mtime > SECONDS_UNTIL_STALE


@contextlib.contextmanager
def open_aside(path: Path, mode: str = "w", compresslevel: int = 6) -> Iterator[IO[Any]]:
    """A file to write ("w" text, "wb" bytes; gzip if it ends in .gz) that takes its name only when it is whole."""
    sweep(path.parent)
    aside = aside_of(path)
    try:
        opened: Any
        if path.suffix == ".gz":
            opened = gzip.open(aside, "wt" if mode == "w" else mode, compresslevel=compresslevel)  # noqa: SIM115
        else:
            opened = open(aside, mode)  # noqa: SIM115
        with opened as file:
            yield file
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def give_usual_mode(path: Path) -> None:
    """Let a file or folder be read by whom any new one could be read; a temporary one is its owner's only."""
    umask = os.umask(0)  # can only be read by setting it
    os.umask(umask)
    path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)


def refuse_unwritable(path: Path, suffixes: tuple[str, ...]) -> None:
    """Raise if a file of this name cannot be written, or would hold something else than its name says."""
    if not path.name.endswith(suffixes):
        others = f"{', '.join(suffixes[:-1])} or " if len(suffixes) > 1 else ""
        raise ValueError(f"{path} must end in {others}{suffixes[-1]}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder {path.parent} for {path.name} does not exist")
    if not os.access(path.parent, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise PermissionError(f"{path} cannot be written: no permission")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the name of a file")


def refuse_full_folder(folder: Path) -> None:
    """Raise FileExistsError if this cannot become the name of a new folder."""
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; give the name of a new folder")
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; give the name of a new folder")


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill that takes its name only when it is whole.

    Raises:
        FileExistsError: a folder of this name holds something, or a file is called so.
    """
    refuse_full_folder(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    sweep(folder.parent)
    aside = aside_of(folder)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        yield aside
        if folder.exists():
            folder.rmdir()
        os.replace(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
