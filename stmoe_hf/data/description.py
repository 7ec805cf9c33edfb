"""`city.json`: what a data set of one's own says about itself, beside its records: grid, calendar and place.

    {"name": "kyoto", "records": "records.parquet",
     "grid": {"width": 60, "height": 40, "cell_km": 0.25},
     "calendar": {"first_day": 0, "num_days": 75, "num_slots": 24, "first_weekday": 6, "holidays": [1, 8]},
     "cut_day": 60,
     "place": {"latitude": 35.01, "longitude": 135.77, "timezone": "Asia/Tokyo", "first_date": "2026-02-01"}}

`stmoe gps` and `export` write it; for other records a person can. `place` may be left out: it is only
needed to go back to latitude, longitude and time.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..model.spacetime import Calendar, Grid
from .editions import EDITIONS, Edition
from .errors import DataError
from .files import open_aside
from .geography import Place

DESCRIPTION = "city.json"
USERS = "users.csv"  # beside records that were made from points: what the people of the points are called
OWN = "own"  # the name of the edition of such data


@dataclass(frozen=True)
class Description:
    """What `city.json` says.

    Attributes:
        name: of the city.
        records: file or folder of parts with its records, beside `city.json`.
        grid, calendar: what the records are in.
        cut_day: the first day of the horizon.
        place: where and when it is, if that is known.
        edition: whose days and metrics these are; `own` if of no edition of the challenge.
    """

    name: str
    records: str
    grid: Grid
    calendar: Calendar
    cut_day: int
    place: Place | None = None
    edition: str = OWN

    def __post_init__(self) -> None:
        first, last = self.calendar.first_day, self.calendar.last_day
        if not first < self.cut_day <= last:
            raise DataError(f"cut_day {self.cut_day} leaves no history or no horizon in the days {first}..{last}")
        if self.edition != OWN and self.edition not in EDITIONS:
            raise DataError(f"there is no edition {self.edition!r}; it is {OWN}, or one of {', '.join(EDITIONS)}")

    def as_edition(self) -> Edition:
        """An edition of these days."""
        return Edition(self.edition, self.calendar, self.cut_day)

    def to_json(self) -> str:
        values = {name: value for name, value in asdict(self).items() if value is not None}
        return json.dumps(values, indent=2) + "\n"

    def write(self, folder: Path) -> None:
        with open_aside(folder / DESCRIPTION) as file:
            file.write(self.to_json())


def describe(path: str | Path) -> tuple[Path, Description] | None:
    """The records file that a `city.json` in this folder, or beside this file, describes; None where there is none.

    Raises:
        DataError: naming the file and what is wrong in it.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    file = folder / DESCRIPTION
    if not file.is_file():
        return None
    found = parse_description(file.read_bytes(), str(file))
    return (folder / found.records if path.is_dir() else path), found


def parse_description(content: bytes, where: str) -> Description:
    """What the content of a `city.json` says; DataError, naming `where`, with what is wrong in it."""
    try:
        values = json.loads(content.decode("utf-8"))
        nested = {"grid": Grid, "calendar": Calendar, "place": Place}
        for name, kind in nested.items():
            if isinstance(values, dict) and name in values:
                values[name] = _build(kind, values[name], f"{name}: ")
        return _build(Description, values, "")
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None


def _build(kind: Any, values: Any, where: str) -> Any:
    """An object of these values; DataError, with `where` before it, if they are not those of such an object."""
    if not isinstance(values, dict):
        raise DataError(f"{where}this must be a mapping of {', '.join(f.name for f in fields(kind))}")
    unknown = set(values) - {f.name for f in fields(kind)}
    if unknown:
        names = ", ".join(f.name for f in fields(kind))
        raise DataError(f"{where}there is no {', '.join(sorted(unknown))}; the keys are {names}")
    missing = [f.name for f in fields(kind) if f.default is MISSING and f.name not in values]
    if missing:
        raise DataError(f"{where}it lacks {', '.join(missing)}")
    try:
        return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
    except (ValueError, TypeError) as error:
        raise DataError(f"{where}{error}") from None
