"""What a city asks for, predicted by a saved model: `stmoe_hf.predict("runs/cityB", city="B", data_dir=DIR)`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from ..data.city import City, city_id, open_city
from ..data.errors import DataError
from ..data.poi import refuse_unused_poi
from ..data.splits import refuse_cut_day
from ..data.windows import PredictionWindows, WindowShape
from ..model.decoding import BALANCED_DISTANCE_WEIGHT
from ..model.processing_stmoe_bert import MobilityProcessor
from ..model.records import KEY_COLUMNS
from ..model.spacetime import Calendar, Grid
from .load import find_model, load_config, load_model
from .predict import PredictionSettings, predict_windows
from .trained_on import record_of_model, warn_of_days_trained_on


@dataclass(frozen=True)
class CityPrediction:
    """A model and the windows of a city that it is to predict.

    Attributes:
        model, processor, settings: with which the cells are found.
        parts: windows of masked users, and of users whose truth is known.
        batch_size: users at a time.
    """

    model: torch.nn.Module
    processor: MobilityProcessor
    settings: PredictionSettings
    parts: tuple[PredictionWindows, ...]
    batch_size: int

    @property
    def num_users(self) -> int:
        return sum(map(len, self.parts))

    @property
    def num_left_out(self) -> int:
        """Users of whom nothing is asked."""
        return sum(len(windows.without_horizon) for windows in self.parts)

    def batches(self, progress: bool = True) -> Iterator[pd.DataFrame]:
        """The predicted records uid, d, t, x, y of one batch of users after another."""
        with tqdm(total=self.num_users, desc="predicting", unit="users", disable=not progress) as bar:
            for windows in self.parts:
                for records in predict_windows(self.model, windows, self.processor, self.settings, self.batch_size):
                    yield records
                    bar.update(records["uid"].nunique())


def predict(model: str | Path | None = None, *, progress: bool = False, **options: Any) -> pd.DataFrame:
    """The records that a city asks for.

    Args:
        model: folder of a run, or a name of the Hub; by default the weights that come with the package.
        progress: show bars.
        options: `city`, `data_dir`, `data_path`, `edition`, `cache_dir`, `poi`, `plain`, `cut_day`, `horizon_days`,
            `decoder`, `distance_weight`, `input_seq_length`, `predict_seq_length`, `batch_size`, `device`: as of
            `prepare_prediction`.

    Returns:
        Columns uid, d, t, x, y, in the order of uid, d and t.

    Raises:
        ValueError, OSError: with what is wrong, where, and what to do.
    """
    prediction = prepare_prediction(model, progress=progress, **options)
    return pd.concat(prediction.batches(progress)).sort_values(list(KEY_COLUMNS), ignore_index=True)


def prepare_prediction(
    model: str | Path | None = None,
    *,
    city: str | None = None,
    data_dir: str | Path | None = None,
    data_path: str | Path | None = None,
    edition: str | None = None,
    cache_dir: str | Path | None = None,
    poi: str | Path | None = None,
    plain: bool = False,
    cut_day: int | None = None,
    horizon_days: int = 15,
    decoder: str | None = None,
    distance_weight: float | None = None,
    input_seq_length: int | None = None,
    predict_seq_length: int | None = None,
    batch_size: int = 8,
    device: str | None = None,
    progress: bool = False,
) -> CityPrediction:
    """Open a city and load the model that is to predict it; what cannot work is refused before records are read.

    Args:
        model: folder of a run, or a name of the Hub; by default the weights that come with the package.
        city, data_dir, data_path, edition, cache_dir: which city, as of `open_city` (`data_path` is its `path`).
        poi: file of the city's points of interest, for a network that has a part for them.
        plain: predict the unmasked users too, from the cut day on; if nobody is masked they are predicted anyway.
        cut_day, horizon_days: first day and number of days to predict of unmasked users; by default the edition's cut.
        decoder, distance_weight, input_seq_length, predict_seq_length: as in the run, if not said.
        batch_size: users at a time.
        device: cpu, cuda, ...; by default a GPU if there is one.
        progress: show a bar while a city is prepared.
    """
    model = find_model(model)
    settings = prediction_settings(
        model,
        decoder=decoder,
        distance_weight=distance_weight,
        input_seq_length=input_seq_length,
        predict_seq_length=predict_seq_length,
    )
    config: Any = load_config(model)
    refuse_unused_poi(poi, config)

    def check(grid: Grid, calendar: Calendar) -> None:
        config.for_data(grid, calendar)
        if cut_day is not None:
            refuse_cut_day(cut_day, calendar)

    opened = open_city(
        city, data_dir, path=data_path, edition=edition, cache_dir=cache_dir, progress=progress, check=check
    )
    if poi is not None:
        opened = opened.with_poi(poi)
    # Of the city, not of the model: the days of an edition are not those of another.
    processor = MobilityProcessor.for_data(opened.grid, opened.calendar)
    network = load_model(model, opened.grid, opened.calendar, device)
    shape = WindowShape(horizon_days, settings.input_seq_length, settings.predict_seq_length)
    first_day = opened.edition.cut_day if cut_day is None else cut_day
    parts = _windows(opened, network.config, processor, shape, first_day, plain)
    for windows in parts:
        warn_of_days_trained_on(record_of_model(model), windows)
    return CityPrediction(network, processor, settings, parts, batch_size)


def _windows(
    city: City, config: Any, processor: MobilityProcessor, shape: WindowShape, cut_day: int, plain: bool
) -> tuple[PredictionWindows, ...]:
    """Windows of the masked users, and of the plain ones where they are wanted or nobody is masked."""
    masked = np.flatnonzero(city.masked_counts)
    others = np.flatnonzero(city.masked_counts == 0) if plain or not len(masked) else masked[:0]
    of_model: dict[str, Any] = {
        "city_id": city_id(getattr(config, "cities", None), city),
        "city_field": getattr(config, "city_field", False),
    }
    parts = (
        PredictionWindows(city, masked, cut_day, shape, processor, masked=True, **of_model),
        PredictionWindows(city, others, cut_day, shape, processor, **of_model),
    )
    if not any(len(windows) for windows in parts):
        raise DataError(f"city {city.name} asks for nothing: no masked record, and no record from day {cut_day} on")
    for windows in parts:
        windows.warn_of_the_unknown()
    return parts


def prediction_settings(model: str, **given: Any) -> PredictionSettings:
    """As said, else as in the run that trained the model, else one shot with the usual decoder."""
    run: dict[str, Any] = {"decoder": "balanced", "distance_weight": BALANCED_DISTANCE_WEIGHT, "num_candidates": 32}
    record = record_of_model(model)
    run |= record.get("data", {}) | record.get("training", {})
    chosen: dict[str, Any] = {name: run.get(name) if value is None else value for name, value in given.items()}
    return PredictionSettings(num_candidates=run["num_candidates"], **chosen)
