"""What the app does: a file of records or GPS points in, the forecast on a map out; nothing leaves its machine.

What a session uploads and what is made from it lies in a folder of its own, which is removed when the page is closed.
"""

from __future__ import annotations

import contextlib
import html
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..data.city import City
from ..data.errors import DataError
from ..data.sources import holds_points, open_source
from ..data.synthetic import generate
from ..data.tables import table_writer
from ..evaluation.backtest import backtest
from ..prediction.forecast import ForecastSettings, forecast_city
from .evidence import of_backtest, of_forecast
from .page import page

EXAMPLE_PEOPLE = 8
EXAMPLE_CITY = "B"
FORECAST_FILE = "forecast.csv"


@dataclass(frozen=True)
class Limits:
    """What a session may ask for."""

    megabytes: int = 20
    people: int = 200
    days: int = 15


class App:
    """What the page does, without its looks.

    Args:
        model: folder or Hub id; None: the weights that come with the package.
        limits: of a session.
    """

    def __init__(self, model: str | None = None, limits: Limits | None = None):
        self.model, self.limits = model, limits or Limits()
        self.folder = Path(tempfile.mkdtemp(prefix="stmoe-app-"))

    def session(self, name: str | None) -> Path:
        """The folder of a session."""
        folder = self.folder / f"session-{name or 'none'}"
        folder.mkdir(exist_ok=True)
        return folder

    def end(self, name: str | None) -> None:
        """Remove everything of a session."""
        shutil.rmtree(self.session(name), ignore_errors=True)

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def take(self, uploaded: str, session: str | None) -> Path:
        """Move an uploaded file into the session's folder; refuse one that is too large.

        Raises:
            DataError: it is larger than the limit.
        """
        path, folder = Path(uploaded), self.session(session)
        size = path.stat().st_size / 1e6
        kept = folder / path.name
        for old in folder.iterdir():
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        shutil.move(path, kept)
        if path.parent.parent == self.folder:  # gradio gives each upload a folder
            path.parent.rmdir()
        if size > self.limits.megabytes:
            kept.unlink()
            raise DataError(
                f"{path.name} has {size:.0f} MB; this page takes {self.limits.megabytes} MB. On your own machine"
                " `stmoe forecast` takes files of any size"
            )
        return kept

    def example(self, session: str | None) -> Path:
        """A file of generated people."""
        path = self.session(session) / "generated_people.csv"
        table = pd.concat([pd.DataFrame(part) for part in generate(EXAMPLE_CITY, EXAMPLE_PEOPLE)])
        table.to_csv(path, index=False)
        return path

    @contextlib.contextmanager
    def open(self, path: Path, timezone: str) -> Iterator[City]:
        """The city of a file; what is wrong is said without the folders of this machine.

        Raises:
            DataError: with line and remedy; or more people than the limit.
        """
        source: dict[str, Any] = {"cache_dir": path.parent / "cache"}
        if holds_points(path):
            source = {"timezone": timezone.strip() or "UTC", "times_in": timezone.strip() or "UTC"}
        try:
            with open_source(path, **source) as city:
                if len(city) > self.limits.people:
                    raise DataError(
                        f"{path.name} has {len(city):,} people; this page takes {self.limits.people}. On your own"
                        " machine `stmoe forecast` takes any number"
                    )
                yield city
        except (ValueError, OSError) as error:
            raise DataError(str(error).replace(f"{path.parent}{os.sep}", "")) from None

    def forecast(self, city: City, days: int, cells: int, path: Path) -> tuple[str, Path]:
        """The report of a forecast, as HTML, and the file of its table, as `stmoe forecast` writes it."""
        output = path.parent / FORECAST_FILE
        tables = []
        with table_writer(output) as write:
            for table in forecast_city(city, ForecastSettings(days, top_k=cells), model=self.model):
                write(table)
                tables.append(table)
        title = f"{path.name}: the next {days} days"
        return page(of_forecast(city, pd.concat(tables, ignore_index=True), title)), output

    def backtest(self, city: City, days: int, path: Path) -> str:
        """The report of a backtest, as HTML."""
        return page(of_backtest(city, backtest(city, days, model=self.model), f"{path.name}: the last {days} days"))


def summary(city: City, name: str) -> str:
    """What was understood of a file, for a person."""
    grid, calendar = city.grid, city.calendar
    first, last = int(city.first_days.min()), int(city.last_days.max())
    days = f"days {first} to {last}"
    if city.place is not None and not city.place.aligned:
        clock = city.place.clock(np.array([first, last]), np.array([0, 0]), calendar)
        days = f"{clock[0].date()} to {clock[1].date()}, clock of {city.place.timezone}"
    lines = [
        f"**{name} is understood.**",
        f"- {len(city):,} people, {city.num_records:,} records"
        + (f", of which {city.num_masked:,} ask for their cell" if city.num_masked else ""),
        f"- {days}",
        f"- slots of {24 * 60 / calendar.num_slots:g} minutes, {grid.width} x {grid.height} cells of"
        f" {grid.cell_km:g} km",
    ]
    fewest = int((city.lengths - city.masked_counts).min())
    lines.append(f"- between {fewest:,} and {int(city.lengths.max()):,} records a person")
    return "\n".join(lines)


def frame(text: str) -> str:
    """A report within the page."""
    return (
        f'<iframe title="report" srcdoc="{html.escape(text)}" style="width:100%;height:85vh;border:0"'
        ' sandbox="allow-scripts"></iframe>'
    )
