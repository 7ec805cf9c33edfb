"""Files that are whole or not there."""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def open_aside(path: Path, mode: str = "w", compresslevel: int = 6) -> Iterator[IO[Any]]:
    """A file to write ("w" text, "wb" bytes; gzip if it ends in .gz) that takes its name only when it is whole."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
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


def refuse_unwritable(path: Path, suffixes: tuple[str, ...]) -> None:
    """Raise if a file of this name cannot be written, or would hold something else than its name says."""
    if not path.name.endswith(suffixes):
        raise ValueError(f"{path} must end in {', '.join(suffixes[:-1])} or {suffixes[-1]}")
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
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield aside
        umask = os.umask(0)  # can only be read by setting it
        os.umask(umask)
        aside.chmod(0o777 & ~umask)
        if folder.exists():
            folder.rmdir()
        os.replace(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
