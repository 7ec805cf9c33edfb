"""What a report is made from: a run's folder, or a file of predictions with or without the truth."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..data.city import City, CitySource, find_city, open_city
from ..data.errors import DataError
from ..data.geography import Place
from ..data.windows import PredictionWindows, WindowShape
from ..evaluation.backtest import Backtest
from ..evaluation.baselines import BASELINES, predict_person
from ..model.processing_stmoe_bert import MobilityProcessor
from ..model.spacetime import Calendar, Grid
from ..prediction.predict import window_records
from .network import look_inside
from .people import new_numbers
from .places import KEYS, Places, as_places, read_file, read_places

logger = logging.getLogger(__name__)
RUN, RESULTS, PREDICTIONS, STATE = "run.json", "all_results.json", "predictions.csv.gz", "trainer_state.json"
RECORDS = ["uid", "d", "t", "x", "y"]
TITLE = "Where people were, and where they were forecast to be"
# Lines of `about` with names of files or of cities, which are called as their file: it may be a person's name.
OF_FILES = ("forecast", "truth", "files", "city", "trained on")


@dataclass(frozen=True)
class Evidence:
    """Everything that a report shows.

    Attributes:
        title: of the page.
        grid, calendar, place: of the city.
        predicted: the cell forecast for each slot, columns uid, d, t, x, y, probability (nan where it is not known).
        places: the forecast with the probabilities of the cells named, where there are any.
        truth: columns uid, d, t, x, y of the slots of the forecast whose truth is known; None if it is not.
        history: the same columns, of the same people, before the first forecast day; None if it is not known.
        baselines: name -> the records that it predicts for the slots of `truth`.
        about: what the page belongs to, a line each.
        results: of the run, as in all_results.json.
        log: of the training, as in trainer_state.json.
        experts: columns layer, kind, expert, share: which records go to which expert.
        masked_people: people whose truth nobody here knows.
        names: uid -> what a person is called.
    """

    title: str
    grid: Grid
    calendar: Calendar
    place: Place | None
    predicted: pd.DataFrame
    places: Places
    truth: pd.DataFrame | None = None
    history: pd.DataFrame | None = None
    baselines: dict[str, pd.DataFrame] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    log: list[dict[str, Any]] = field(default_factory=list)
    experts: pd.DataFrame | None = None
    masked_people: int = 0
    names: dict[int, str] = field(default_factory=dict)

    def name(self, uid: int) -> str:
        return self.names.get(uid, f"uid {uid}")

    def anonymous(self) -> Evidence:
        """The same with numbers, drawn anew, in place of uids and names, and without the names of files."""
        numbers = new_numbers(self.places.chances["uid"].to_numpy())

        def renamed(table: pd.DataFrame | None) -> pd.DataFrame | None:
            return None if table is None else table.assign(uid=table["uid"].map(numbers))

        chances, predicted = renamed(self.places.chances), renamed(self.predicted)
        assert chances is not None and predicted is not None
        return replace(
            self,
            title=TITLE,
            about={name: text for name, text in self.about.items() if name not in OF_FILES},
            predicted=predicted,
            places=Places(chances),
            truth=renamed(self.truth),
            history=renamed(self.history),
            baselines={name: table.assign(uid=table["uid"].map(numbers)) for name, table in self.baselines.items()},
            names={number: f"person {number}" for number in numbers.values()},
        )


def of_run(folder: str | Path, most_people: int | None = None) -> Evidence:
    """What a run's folder tells.

    Args:
        folder: of a finished run.
        most_people: of more held-out people (or masked ones, where nobody is held out) so many are taken, evenly over
            the uids, for what is to cost little; unset: all.

    Raises:
        DataError: it is none of a finished run that predicted somebody, or its city cannot be found any more.
    """
    folder = Path(folder)
    missing = [name for name in (RUN, RESULTS, PREDICTIONS) if not (folder / name).is_file()]
    if missing:
        raise DataError(f"the folder {folder} is of no finished run with predictions: it has no {', '.join(missing)}")
    run, results = (json.loads((folder / name).read_text()) for name in (RUN, RESULTS))
    data = run["data"]
    place = {name: data.get(name) for name in ("data_dir", "edition", "cache_dir")}
    try:
        city = open_city(data.get("city"), path=data.get("data_path"), **place)
    except FileNotFoundError as error:
        raise DataError(f"the city of the run in {folder} is not where it was: {error}") from None
    places = read_places(folder / PREDICTIONS, city.grid, city.calendar)
    places, left_out = _fewer(places, run["held_out_uids"], most_people)
    held_out = np.flatnonzero(np.isin(city.uids, list({*run["held_out_uids"]} - left_out)))
    shape = WindowShape(data.get("horizon_days") or 15)
    evidence = _with_city(f"City {city.name}: {TITLE[0].lower()}{TITLE[1:]}", city, places, held_out, shape)
    probable, experts = look_inside(folder, city, held_out, results["cut_day"], shape, data)
    state = folder / STATE
    if probable is not None:
        with_chance = evidence.predicted.drop(columns="probability").merge(probable, how="left", on=RECORDS)
        evidence = replace(evidence, predicted=with_chance, places=_of_probable(probable, evidence.predicted))
    return replace(
        evidence,
        experts=experts,
        about=_about_run(run, results, city, len(left_out)),
        results=results,
        log=json.loads(state.read_text())["log_history"] if state.is_file() else [],
        masked_people=int((city.masked_counts > 0).sum()),
    )


def of_files(
    forecast: str | Path,
    truth: str | Path | None = None,
    data: str | Path | None = None,
    edition: str | None = None,
) -> Evidence:
    """What a file of predictions, or a forecast, tells.

    Args:
        forecast: records, predictions or a forecast.
        truth: file of the true records; its earlier days are the history.
        data: folder or file of the city, if it is not told by a city.json beside the truth or the forecast.
        edition: whose days these are, where no city.json says so.
    """
    source: CitySource = find_city(path=data or truth or forecast, edition=edition)
    grid, calendar = source.grid, source.edition.calendar
    places = read_places(forecast, grid, calendar)
    name = Path(forecast).name
    about = {"forecast": name, "city": f"{source.name}, days of edition {source.edition.name}"}
    title = f"{name}: where people are forecast to be"
    file = truth or data
    if file is None:
        named = read_file(forecast)
        names = dict(zip(named["uid"], named["user"], strict=True)) if "user" in named else {}
        return Evidence(title, grid, calendar, source.place, places.best(), places, about=about, names=names)
    city = open_city(path=file, edition=edition)
    if (city.grid, city.calendar) != (grid, calendar):
        raise DataError(f"{file} has another grid or calendar than {data}")
    people = np.flatnonzero(np.isin(city.uids, places.chances["uid"].unique()))
    if not len(people):
        raise DataError(f"{file} has none of the people of {forecast}")
    evidence = _with_city(title, city, places, people, None)
    return replace(evidence, about=about | {"truth": Path(file).name}, masked_people=0)


def of_backtest(city: City, found: Backtest, title: str | None = None) -> Evidence:
    """What a backtest tells: the last days of people's past, forecast and true, and what counting says of them."""
    records = found.records
    systems = [str(name).removeprefix("x_") for name in records.columns if str(name).startswith("x_")]

    def of_system(name: str) -> pd.DataFrame:
        return records[KEYS].assign(x=records[f"x_{name}"], y=records[f"y_{name}"])

    predicted = of_system("forecast")
    first = records.groupby("uid")["d"].min()
    people = np.flatnonzero(np.isin(city.uids, first.index))
    past = _all_records(city, people)
    return Evidence(
        title or f"City {city.name}: the last {found.days} days, forecast from the days before",
        city.grid,
        city.calendar,
        city.place,
        predicted.assign(probability=np.nan),
        Places(predicted.assign(weight=1.0)),
        records[RECORDS],
        past[past["d"] < past["uid"].map(first)],
        {name: of_system(name) for name in systems if name != "forecast"},
        {"backtest": f"the last {found.days} days of each person's past, when they were seen not being told"},
        names=_names(city),
    )


def of_forecast(city: City, table: pd.DataFrame, title: str) -> Evidence:
    """What a forecast of days that no file has tells, beside the history of the people.

    Args:
        city: with the history.
        table: of `stmoe_hf.prediction.forecast.forecast`.
    """
    places = as_places(table, city.grid, city.calendar)
    people = np.flatnonzero(np.isin(city.uids, table["uid"].unique()))
    past = _all_records(city, people)
    evidence = Evidence(title, city.grid, city.calendar, city.place, places.best(), places, names=_names(city))
    return replace(evidence, history=past if len(past) else None)


def _with_city(title: str, city: City, places: Places, rows: np.ndarray, shape: WindowShape | None) -> Evidence:
    """With the truth of the forecast's slots, the history, the baselines and the names of people of the city."""
    first = int(places.chances["d"].min())
    records = _all_records(city, rows) if len(rows) else None
    truth = history = None
    baselines: dict[str, pd.DataFrame] = {}
    if records is not None:
        truth = records.merge(places.chances[KEYS].drop_duplicates(), on=KEYS)
        earlier = records[records["d"] < first]
        history = earlier if len(earlier) else None
        if not len(truth):
            truth = None
    if truth is not None and history is not None:
        days = int(places.chances["d"].max()) - first + 1
        baselines = _baselines(city, rows, first, shape or WindowShape(days), truth)
    return Evidence(
        title,
        city.grid,
        city.calendar,
        city.place,
        places.best(),
        places,
        truth,
        history,
        baselines,
        names=_names(city),
    )


def _all_records(city: City, rows: np.ndarray) -> pd.DataFrame:
    """The records of some people whose cells are known."""
    return pd.concat([_records(city, row) for row in rows.tolist()], ignore_index=True)


def _records(city: City, row: int) -> pd.DataFrame:
    """The records of one person whose cells are known."""
    person = city.trajectory(row)
    known = person.cell != city.grid.mask_id
    x, y = city.grid.xy(person.cell[known])
    return pd.DataFrame({"uid": person.uid, "d": person.day[known], "t": person.slot[known], "x": x, "y": y})


def _baselines(
    city: City, rows: np.ndarray, cut_day: int, shape: WindowShape, truth: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    """What the frequency baselines say of the slots of the truth."""
    processor = MobilityProcessor.for_data(city.grid, city.calendar)
    windows = PredictionWindows(city, rows, cut_day, shape, processor)
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in BASELINES}
    for window in range(len(windows)):
        for name, cells in predict_person(windows, window).items():
            parts[name].append(window_records(windows, window, cells))
    asked = truth[KEYS]
    return {name: pd.concat(tables).merge(asked, on=KEYS) for name, tables in parts.items() if tables}


def _of_probable(probable: pd.DataFrame, predicted: pd.DataFrame) -> Places:
    """The named cells of the slots that were predicted; columns uid, d, t, x, y, probability."""
    return Places(probable.merge(predicted[KEYS], on=KEYS).rename(columns={"probability": "weight"}))


def _fewer(places: Places, held_out: list[int], most: int | None) -> tuple[Places, set[int]]:
    """The places of at most so many of the people that were held out (of all, if nobody was), and who is left out."""
    there = np.unique(places.chances["uid"])
    of_them = there[np.isin(there, held_out)]
    people = of_them if len(of_them) else there
    if most is None or len(people) <= most:
        return places, set()
    kept = people[np.linspace(0, len(people) - 1, most).astype(int)]
    return Places(places.chances[places.chances["uid"].isin(kept)].reset_index(drop=True)), {*people} - {*kept}


def _names(city: City) -> dict[int, str]:
    users = city.users
    return {} if users is None else dict(zip(users["uid"].tolist(), users["user"].tolist(), strict=True))


def _about_run(run: dict[str, Any], results: dict[str, Any], city: City, left_out: int) -> dict[str, str]:
    """A line each; file names without folders, which say more than a reader needs."""
    model, versions = run["model"], run["versions"]
    trained = [city.name, *(run["data"].get("pretrain_cities") or [])]
    return {
        "model": f"{model.get('model_name')}, {results.get('parameters', 0):,} parameters"
        f"; decoder {results['decoder']}",
        "city": city.name,
        "data": f"{len(city):,} people, {city.num_records:,} records",
        "files": ", ".join(path.name for path in city.source[:3]),
        "edition": f"{city.edition.name}: days {city.calendar.first_day}-{city.calendar.last_day}, slots of"
        f" {24 * 60 / city.calendar.num_slots:g} minutes, cells of {city.grid.cell_km:g} km",
        "trained on": f"city {', '.join(trained)}"
        + (f", from {Path(m).name}" if (m := model.get("model_path")) else ""),
        "split": f"{len(run['held_out_uids'])} people held out from day {results['cut_day']} on; their earlier days"
        " were trained on"
        + (f"; {left_out:,} of them are left out of this page: `stmoe report` has all" if left_out else ""),
        "seed": str(results["seed"]),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
