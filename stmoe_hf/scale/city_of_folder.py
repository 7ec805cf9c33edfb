"""The people of a folder of shards, some at a time, as the cities in memory that counting takes."""

from __future__ import annotations

from collections.abc import Iterator

from ..data.city import City
from ..data.counting import PEOPLE_A_STEP
from ..data.description import Description
from ..data.errors import DataError
from .folders import Folder
from .rows import RECORD_LISTS, Stream, city_of_rows
from .run import shards_of
from .shards import batches_of, open_people


def cities_of_folder(source: str, where: Description) -> Iterator[City]:
    """The people of a folder or URL of parquet files, of one row a person, on the grid and days of `where`.

    Raises:
        DataError: naming the file, with the first row that cannot be read, or of a person who was there before.
    """
    folder, stream = Folder(source), Stream(None)
    for name in shards_of(source):
        yield from _people_of(folder, name, stream, where)


def _people_of(folder: Folder, name: str, stream: Stream, where: Description) -> Iterator[City]:
    """The people of one file."""
    with open_people(folder, name) as (_, file):
        for batch in batches_of(file, ("uid", *RECORD_LISTS), PEOPLE_A_STEP):
            try:
                city = city_of_rows(batch, stream, where.grid, where.calendar, where.place)
            except DataError as error:
                raise DataError(f"{name}: {error}") from None
            if city is not None:
                yield city
