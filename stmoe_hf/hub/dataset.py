"""A city as a dataset for the Hub: parquet files of records, a `city.json` and a card."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from huggingface_hub import DatasetCard, DatasetCardData

from ..data.city import City
from ..data.description import DESCRIPTION, OWN, Description
from ..data.files import new_folder
from ..model.records import MASKED

USERS_A_FILE = 25_000
USERS_A_GROUP = 1_000
RECORDS = "data"  # folder of the parquet files
CC_BY, UNKNOWN = "cc-by-4.0", "unknown"


def export_city(
    city: City, folder: str | Path, *, license: str | None = None, name: str | None = None, with_place: bool = False
) -> Path:
    """Write the folder that `datasets.load_dataset` loads, `--data_path` takes, and `hf upload` publishes.

    Args:
        city: any prepared city.
        folder: to be written; refused if it holds anything.
        license: identifier of the Hub; by default CC BY 4.0 for the files of humob2023 (YJMob100K), else unknown.
        name: title of the card; by default the city and its edition.
        with_place: keep latitude and longitude of the grid, if they are known.

    Raises:
        FileExistsError: the folder is not empty. DataError: a masked cell, which is written as 999, would be a cell.
    """
    license = license or (CC_BY if city.edition.name == "humob2023" else UNKNOWN)
    grid, calendar = city.grid, city.calendar
    largest = {
        "d": calendar.last_day,
        "t": calendar.num_slots,
        "x": max(grid.width, MASKED),
        "y": max(grid.height, MASKED),
    }
    schema = pa.schema(
        [("uid", pa.int64())] + [(n, pa.int16() if top < 2**15 else pa.int32()) for n, top in largest.items()]
    )
    files = -(-len(city) // USERS_A_FILE)
    description = Description(
        city.name,
        RECORDS,
        grid,
        calendar,
        city.edition.cut_day,
        city.place if with_place else None,
        city.edition.name,
    )
    with new_folder(Path(folder)) as aside:
        (aside / RECORDS).mkdir()
        for file in range(files):
            path = aside / RECORDS / f"train-{file:05}-of-{files:05}.parquet"
            with pa.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
                last = min((file + 1) * USERS_A_FILE, len(city))
                for first in range(file * USERS_A_FILE, last, USERS_A_GROUP):
                    writer.write_table(_records(city, range(first, min(first + USERS_A_GROUP, last)), schema))
        description.write(aside)
        _card(city, license, name or f"City {city.name} ({city.edition.name})").save(aside / "README.md")
    return Path(folder)


def _records(city: City, rows: range, schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pandas(city.select(np.asarray(rows)).to_pandas(), schema, preserve_index=False)


def _card(city: City, license: str, title: str) -> DatasetCard:
    sizes = [(10**n, name) for n, name in enumerate(("n<1K 1K<n<10K 10K<n<100K 100K<n<1M 1M<n<10M").split(), 3)]
    sizes += [(10**8, "10M<n<100M"), (10**9, "100M<n<1B")]
    metadata = DatasetCardData(
        license=license,
        pretty_name=title,
        task_categories=["time-series-forecasting"],
        tags=["human-mobility", "trajectories"],
        size_categories=[next((name for top, name in sizes if city.num_records < top), "n>1T")],
        configs=[{"config_name": "default", "data_files": f"{RECORDS}/*.parquet"}],
    )
    grid, calendar = city.grid, city.calendar
    minutes = 1440 / calendar.num_slots
    own = city.edition.name == OWN
    terms = {
        CC_BY: "CC BY 4.0: say whose data they are (below), and what you changed.",
        UNKNOWN: "The licence of these records is not known. Ask their owners before you publish or pass them on.",
    }
    masked = ""
    if city.num_masked:
        masked = (
            f" In {city.num_masked:,} records of {(city.masked_counts > 0).sum():,} people x = y = 999: the cell is"
            " asked for."
        )
    text = _TEXT.format(
        metadata=metadata.to_yaml(),
        title=title,
        people=f"{len(city):,}",
        records=f"{city.num_records:,}",
        edition="of no edition of the challenge" if own else f"in the format of edition {city.edition.name}",
        first=calendar.first_day,
        last=calendar.last_day,
        slots=calendar.num_slots - 1,
        minutes=f"{minutes:g}",
        width=grid.width,
        height=grid.height,
        metres=f"{grid.cell_km * 1000:g}",
        cut=city.edition.cut_day,
        masked=masked,
        description=DESCRIPTION,
        license=terms.get(license, f"{license}, as said by whoever made this folder."),
        source="" if own else _SOURCE,
    )
    return DatasetCard(text)


_SOURCE = """
If these are records of the HuMob Challenge, and not a generated city in its format, cite: Yabe, Tsubouchi, Shimizu,
Sekimoto, Sezaki, Moro and Pentland, "YJMob100K: City-scale and longitudinal dataset of anonymized human mobility
trajectories", Scientific Data 11, 2024.
"""

_TEXT = """---
{metadata}
---

# {title}

Trajectories of {people} people, {records} records, {edition}.

| column | what it is |
| --- | --- |
| `uid` | number of the person |
| `d` | day, {first} to {last}; days from {cut} on are to be predicted |
| `t` | slot of the day, 0 to {slots}, {minutes} minutes each |
| `x`, `y` | cell of a grid of {width} x {height} cells of {metres} m, from 1 |

A slot in which a person was not seen has no row.{masked} The rows are in the order of uid, d and t.
`{description}` has the grid and the calendar, with weekdays and holidays.

```python
from datasets import load_dataset

records = load_dataset("NAME_OR_FOLDER", split="train")
```

With `stmoe_hf`: `stmoe train --data_path FOLDER`.

## Licence

{license}
{source}
## Privacy

Each row says where a person was. Without a name such trajectories can still point to one person: few places and times
are enough to tell people apart. Do not try to find out who these people are, and do not join these records with others
to do so. Before you publish trajectories of your own collection, make sure that these people agreed to it.
"""
