"""Files that are whole or not there."""

from __future__ import annotations

import contextlib
import gzip
import os
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
