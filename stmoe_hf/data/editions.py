"""The editions of the HuMob challenge: files, days, users and what is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..model.spacetime import Calendar
from .errors import DataError

HOLIDAYS_2019 = (1, 8, 29, 37, 50)  # weekdays of 2023/24 that look like holidays; fits a start on 2019-09-15


@dataclass(frozen=True)
class Edition:
    """One edition of the challenge.

    Attributes:
        name: humob2023, humob2024 or humob2025.
        calendar: its days, with weekdays and holidays as inferred from the data.
        cut_day: the first day that is asked for.
        files: city -> names (without .csv, .csv.gz or .parquet) of its file or folder, the preferred one first.
    """

    name: str
    calendar: Calendar
    cut_day: int
    files: dict[str, tuple[str, ...]] = field(default_factory=dict)


_CALENDAR_2019 = Calendar(first_day=0, first_weekday=6, holidays=HOLIDAYS_2019)

EDITIONS: dict[str, Edition] = {
    "humob2023": Edition(
        "humob2023",
        _CALENDAR_2019,
        60,
        {
            "task1": ("yjmob100k-dataset1", "task1_dataset_kotae", "task1_dataset"),
            "task2": ("yjmob100k-dataset2", "task2_dataset_kotae", "task2_dataset"),
        },
    ),
    "humob2024": Edition(
        "humob2024",
        _CALENDAR_2019,
        60,
        {city: (f"city{city}_groundtruthdata", f"city{city}_challengedata", f"city{city}-dataset") for city in "ABCD"},
    ),
    "humob2025": Edition(
        "humob2025",
        Calendar(first_day=1, first_weekday=5),
        61,
        {city: (f"city_{city}_challengedata",) for city in "ABCD"},
    ),
}
FILE_SUFFIXES = (".csv.gz", ".csv", ".parquet", "")  # the last: a folder of parts


def find_file(city: str, data_dir: str | Path, edition: str | None = None) -> tuple[Path, Edition]:
    """The file of a city in a folder, or the folder of its parts, and the edition that its name belongs to.

    Raises:
        DataError: an unknown edition or city.
        FileNotFoundError: naming the folder and every accepted file name.
    """
    editions = [get_edition(edition)] if edition else list(EDITIONS.values())
    accepted = []
    for candidate in editions:
        for name in candidate.files.get(city, ()):
            for suffix in FILE_SUFFIXES:
                path = Path(data_dir) / (name + suffix)
                if path.is_file() or (not suffix and path.is_dir()):
                    return path, candidate
                accepted.append(path.name if suffix else f"{name}/")
    if not accepted:
        known = sorted({name for candidate in editions for name in candidate.files})
        raise DataError(
            f"there is no city {city!r}; the cities are {', '.join(known)}. For other data give a file's path"
        )
    what = "has none of" if Path(data_dir).is_dir() else "does not exist. It should hold one of"
    raise FileNotFoundError(f"the folder {data_dir} {what} the files of city {city}: {', '.join(accepted)}")


def get_edition(name: str) -> Edition:
    if name not in EDITIONS:
        raise DataError(f"there is no edition {name!r}; the editions are {', '.join(EDITIONS)}")
    return EDITIONS[name]
