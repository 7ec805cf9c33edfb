"""Opening files: what compresses them is told by their bytes, the header and separator of a csv by its first line."""

from __future__ import annotations

import bz2
import contextlib
import csv
import gzip
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from ..model.tables import shown
from .errors import DataError

TEXT_SUFFIXES = tuple(
    f".{kind}{packed}" for kind in ("csv", "tsv", "txt") for packed in ("", ".gz", ".bz2", ".xz", ".zip")
)
LONGEST_LINE = 1 << 20  # characters; what is longer is no row of a table
SEPARATORS = (",", ";", "\t", "|")
MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\xfd7zXZ\x00": "xz", b"PK\x03\x04": "zip", b"PAR1": "parquet"}
NOT_READ = {
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf": "7z",
    b"Rar!": "rar",
    b"\xd0\xcf\x11\xe0": "an Excel file",
    b"SQLite format 3": "an SQLite file, such as a GeoPackage (.gpkg)",
    b"ARROW1": "an Arrow file",
}
CUT_OFF = (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError, zipfile.BadZipFile)


def is_parquet(path: Path) -> bool:
    """Whether a file is parquet, by its name or by its first bytes."""
    return path.suffix in (".parquet", ".geoparquet", ".pq") or packing(path) == "parquet"


def packing(path: Path) -> str | None:
    """gzip, bz2, xz, zip or parquet, by a file's first bytes; a name that ends in .gz is gzip in any case.

    Raises:
        DataError: it is of a kind that is not read, such as zstd.
    """
    if path.suffix == ".gz":
        return "gzip"
    with open(path, "rb") as file:
        first = file.read(16)
    for magic, kind in NOT_READ.items():
        if first.startswith(magic):
            raise DataError(f"{path} is packed as or is {kind}, which is not read; give csv or parquet")
    return next((kind for magic, kind in MAGIC.items() if first.startswith(magic)), None)


@contextlib.contextmanager
def open_bytes(path: Path) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """The unpacked bytes of a text file, to be read once from its start; and the file itself, to see how far.

    Raises:
        DataError: it cannot be read, is no whole packed file, no text in UTF-8, or a zip archive of several files.
    """
    kind = packing(path)
    with told(path, kind), open(path, "rb") as raw:
        opened: Any = raw
        if kind == "gzip":
            opened = gzip.GzipFile(fileobj=raw)
        elif kind == "bz2":
            opened = bz2.BZ2File(raw)
        elif kind == "xz":
            opened = lzma.LZMAFile(raw)  # noqa: SIM115
        elif kind == "zip":
            opened = _only_member(path, zipfile.ZipFile(raw))
        yield opened, raw


def _only_member(path: Path, archive: zipfile.ZipFile) -> IO[bytes]:
    names = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX")]
    if len(names) != 1:
        raise DataError(f"{path} is a zip archive of {len(names)} files; unpack it")
    if archive.getinfo(names[0]).flag_bits & 1:
        raise DataError(f"{path} is a zip archive with a password; unpack it")
    return archive.open(names[0])


@contextlib.contextmanager
def told(path: Path, kind: str | None = None) -> Iterator[None]:
    """What goes wrong while a file is read becomes a DataError that names it."""
    try:
        yield
    except CUT_OFF as error:
        raise DataError(f"{path} is no whole {kind or 'packed'} file: {error}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not a text file in UTF-8") from None
    except (pa.ArrowException, OSError, NotImplementedError) as error:
        if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
            raise
        raise DataError(f"{path} cannot be read: {' '.join(str(error).split())[:300]}") from None


def stream_text(path: Path, skip: int, block_bytes: int) -> Iterator[tuple[int, bytes, int]]:
    """Whole lines of a text file after the first `skip` lines, some megabytes at a time.

    Yields:
        The number of the first line, from 1; the lines; the bytes of the file that were read since the last time.

    Raises:
        DataError: as `open_bytes`; or a line is longer than `LONGEST_LINE`.
    """
    with open_bytes(path) as (stream, raw):
        line, before = skip + 1, 0
        first = stream.readline(LONGEST_LINE + 1)
        end = b"\r" if _is_of_old_lines(first) else b"\n"
        if end == b"\r":
            rest = b"".join(first.split(end, skip)[skip:])
        else:
            for _ in range(skip - 1):
                stream.readline(LONGEST_LINE + 1)
            rest = b"" if skip else first
        while True:
            data = stream.read(block_bytes)
            cut = data.rfind(end) + 1 if data else len(rest)
            if data and not cut:
                rest += data
                if len(rest) > LONGEST_LINE:
                    raise too_long(path, line + rest.count(end))
                continue
            block, rest = (rest + data[:cut], data[cut:]) if data else (rest, b"")
            if len(rest) > LONGEST_LINE:
                raise too_long(path, line + block.count(end))
            if block:
                yield line, block, raw.tell() - before
                before = raw.tell()
                line += block.count(end)
            if not data:
                return


def _is_of_old_lines(first: bytes) -> bool:
    """Whether lines end in a carriage return alone, by what stands before the first line feed."""
    return b"\r" in first.rstrip(b"\r\n")


def too_long(path: Path, line: int) -> DataError:
    return DataError(f"{path}, line {line} is longer than {LONGEST_LINE:,} characters")


@dataclass(frozen=True)
class Header:
    """The first line of a csv file: the names of its columns, what separates them, and how many lines it takes."""

    names: list[str]
    separator: str
    lines: int


def read_header(path: Path, wanted: Any = ()) -> Header:
    """The header of a csv file, by its first line that is not blank.

    Args:
        path: the file.
        wanted: called with a list of names, how many of the sought columns are among them; the separator of the most
            is taken, of equals the one that gives the most columns.

    Raises:
        DataError: the file is empty, is no text in UTF-8, is no whole packed file, or its first line is too long.
    """
    with open_bytes(path) as (file, _):
        for number in range(1, 1 << 30):
            raw = file.readline(LONGEST_LINE + 4)
            if not raw:
                break
            if number == 1 and raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
                raise DataError(f"{path} is not a text file in UTF-8 but in UTF-16")
            if b"\0" in raw:
                raise DataError(f"{path} is not a text file in UTF-8")
            if number == 1 and _is_of_old_lines(raw):
                lines = raw.split(b"\r")
                number = 1 + next(i for i, other in enumerate(lines) if other)
                raw = lines[number - 1]
            if len(raw) > LONGEST_LINE:
                raise too_long(path, number)
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8", "replace").replace("\r", "").strip("\n")
            if line:
                break
        if not raw:
            empty = path.stat().st_size == 0
            raise DataError(f"{path} is empty" if empty else f"{path} holds no line")
    best = Header([], ",", number)
    best_rank = (-1, -1)
    with _long_fields():
        for separator in SEPARATORS:
            names = [name.strip() for name in next(csv.reader([line], delimiter=separator), [])]
            rank = (wanted(names) if wanted else 0, len(names))
            if rank > best_rank:
                best, best_rank = Header(names, separator, number), rank
    return best


@contextlib.contextmanager
def _long_fields() -> Iterator[None]:
    """Within, a field of a csv file may be as long as a line."""
    before = csv.field_size_limit(2 * LONGEST_LINE)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def rows_by_line(path: Path, header: Header, block_bytes: int = 8 << 20) -> Iterator[tuple[int, list[str]]]:
    """The line and the fields of each row of a csv file after its header, blank ones left out; slowly."""
    for first, data, _ in stream_text(path, header.lines, block_bytes):
        yield from rows_of(path, header, first, data)


def rows_of(path: Path, header: Header, first: int, data: bytes) -> Iterator[tuple[int, list[str]]]:
    """The line and the fields of each row of some lines of a csv file, of which the first has the number `first`.

    Raises:
        DataError: with the line that is no text in UTF-8, has an open quote, or is longer than `LONGEST_LINE`.
    """
    with told(path), _long_fields():
        for number, raw in enumerate(data.splitlines(), first):
            if len(raw) > LONGEST_LINE:
                raise too_long(path, number)
            if not raw:
                continue
            line = raw.decode()
            try:
                yield number, next(csv.reader([line], delimiter=header.separator, strict=True), [])
            except csv.Error as error:
                raise DataError(f"{path}, line {number}: {error}: {shown(line)}") from None


def lines_of(path: Path, rows: list[int], header_lines: int) -> list[int]:
    """The lines of rows of a text file, from 0 after its header, blank lines counted; `rows` in rising order."""
    lines: list[int] = []
    row, wanted = -1, iter(rows)
    sought = next(wanted, None)
    for first, data, _ in stream_text(path, header_lines, 8 << 20):
        for number, line in enumerate(data.splitlines(), first):
            if sought is None:
                return lines
            if line:
                row += 1
                while sought == row:
                    lines.append(number)
                    sought = next(wanted, None)
    return lines


def partition(path: Path) -> dict[str, str]:
    """What the folders right above a file say about its rows: d=3/part-0.parquet holds rows of d 3."""
    found: dict[str, str] = {}
    for folder in path.absolute().parents:
        key, equals, value = folder.name.partition("=")
        if not equals or not key:
            break
        found.setdefault(key, value)
    return found


def parts_of_folder(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The files of a folder and of its folders called key=value, without hidden and empty ones, by their names."""
    parts: list[Path] = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", "_")):
            continue
        if path.is_dir():
            parts += parts_of_folder(path, suffixes) if "=" in path.name else []
        elif path.name.endswith(suffixes) and path.stat().st_size:
            parts.append(path)
    return parts
