"""How far to trust a forecast: the last days of people's past are cut off, forecast and scored beside counting.

`backtest(city, days=7)` says of the same people, days and slots what the network and each baseline get right.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from ..data.city import City
from ..data.windows import PredictionWindows, WindowShape
from ..metrics import EDITIONS, score
from ..model.processing_stmoe_bert import MobilityProcessor
from ..model.records import KEY_COLUMNS
from ..prediction.forecast import Asked, Forecaster, ForecastSettings
from ..prediction.load import load_model
from .baselines import BASELINES, predict_person

FORECASTS = {"forecast": "day", "forecast_most_probable": "mode"}  # rows of the table -> decoder


@dataclass(frozen=True)
class Backtest:
    """What a backtest found.

    Attributes:
        table: a row for each system: people, records, GEO-BLEU and DTW (km) of both editions, accuracy, and of the
            distances between predicted and true cell the mean and median in km.
        records: uid, d, t, x, y (true), and for each system x_NAME, y_NAME.
        days: that were cut off.
        left_out: people who have no record before or in the last days.
    """

    table: pd.DataFrame
    records: pd.DataFrame
    days: int
    left_out: int


def backtest(
    city: City,
    days: int = 7,
    *,
    model: str | Path | None = None,
    device: str | None = None,
    batch_size: int = 16,
    progress: bool = False,
) -> Backtest:
    """Forecast each person's last days from the days before, with a network and by counting.

    The network is asked as `stmoe_hf.forecast` asks it: when the person was observed in these days is not told.

    Args:
        city: with the truth; masked records are neither history nor scored.
        days: of each person's past, the last so many.
        model, device, batch_size: as of `stmoe_hf.forecast`.
        progress: show a bar.

    Raises:
        ValueError: nobody has records before and in these days.
    """
    cut = city.last_days - days + 1
    processor = MobilityProcessor.for_data(city.grid, city.calendar)
    rows = np.flatnonzero((city.first_days < cut) & (city.masked_counts == 0))
    windows = PredictionWindows(city, rows, cut, WindowShape(days), processor)
    if not len(windows):
        raise ValueError(f"nobody has records both before and in their last {days} days: choose fewer days")
    asked = [windows.asked_for(window) for window in range(len(windows))]
    truth = pd.concat([pd.DataFrame(one) for one in asked], ignore_index=True)
    truth["x"], truth["y"] = city.grid.xy(truth.pop("cell"))
    cells = _forecasts(city, windows, asked, cut, model, device, batch_size, progress)
    for name, parts in _baselines(windows, progress).items():
        cells[name] = parts
    systems = {name: np.concatenate(parts) for name, parts in cells.items()}
    table = pd.DataFrame([{"system": name} | _scores(truth, part, city) for name, part in systems.items()])
    records = truth.copy()
    for name, part in systems.items():
        records[f"x_{name}"], records[f"y_{name}"] = city.grid.xy(part)
    return Backtest(table, records, days, len(city) - len(windows))


def _forecasts(
    city: City, windows: PredictionWindows, asked: list[dict], cut: np.ndarray, model, device, batch_size, progress
) -> dict[str, list[np.ndarray]]:
    """Cells [Q] of every window by each decoder of `FORECASTS`."""
    network = load_model(model, city.grid, city.calendar, device)
    questions = [Asked(int(row), one["d"], one["t"]) for row, one in zip(windows.rows, asked, strict=True)]
    cells = {}
    for name, decoder in FORECASTS.items():
        forecaster = Forecaster(
            network, city, city.calendar, ForecastSettings(decoder=decoder, batch_size=batch_size), until=cut
        )
        answers = tqdm(
            forecaster.answers(questions), name, len(questions), unit="people", leave=False, disable=not progress
        )
        cells[name] = [answer.cells[:, 0] for answer in answers]
    return cells


def _baselines(windows: PredictionWindows, progress: bool) -> dict[str, list[np.ndarray]]:
    """Cells [Q] of every window by each baseline."""
    cells: dict[str, list[np.ndarray]] = {name: [] for name in BASELINES}
    for window in tqdm(range(len(windows)), "counting", unit="people", leave=False, disable=not progress):
        for name, chosen in predict_person(windows, window).items():
            cells[name].append(chosen)
    return cells


def _scores(truth: pd.DataFrame, cells: np.ndarray, city: City) -> dict[str, Any]:
    """A row of the table, without its name."""
    predicted = truth[list(KEY_COLUMNS)].copy()
    predicted["x"], predicted["y"] = city.grid.xy(cells)
    row: dict[str, Any] = {}
    for edition in EDITIONS:
        scores = score(predicted, truth, edition, grid=city.grid)
        row |= {f"{edition}_geobleu": scores.geobleu, f"{edition}_dtw": scores.dtw}
    apart = pd.Series(np.hypot(predicted["x"] - truth["x"], predicted["y"] - truth["y"])) * city.grid.cell_km
    of_people = apart.groupby(truth["uid"].to_numpy())
    return (
        {"people": scores.users, "records": scores.records}
        | row
        | {
            "accuracy": scores.accuracy,
            "mean_km": float(of_people.mean().mean()),
            "median_km": float(of_people.median().mean()),
        }
    )
