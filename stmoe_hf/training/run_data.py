"""The data of a run: cities opened, users split, windows of training, validation and prediction."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..data.city import City, city_id, open_city
from ..data.poi import refuse_unused_poi
from ..data.splits import Split, draw, refuse_cut_day, split_users
from ..data.windows import JointWindows, PredictionWindows, TrainingWindows, WindowShape
from ..model.processing_stmoe_bert import MobilityProcessor
from ..model.spacetime import Calendar, Grid
from .arguments import DataArguments, ModelArguments, RunArguments

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunData:
    """What a run trains on, is evaluated on and predicts.

    Attributes:
        city, others: the city that is predicted, and those that are trained on beside it.
        processor: of the city's grid and calendar.
        split: who is trained on until when, who is held out, who is masked.
        train: training windows of all cities.
        validation: some users' last days before the cut, to choose a checkpoint by; None: the last is kept.
        test: held-out users, whose truth is known.
        masked: users with masked records.
        known_cities: the cities that get or have a vector of their own in the model, in the order of their ids.
    """

    city: City
    others: list[City]
    processor: MobilityProcessor
    split: Split
    train: TrainingWindows | JointWindows
    validation: PredictionWindows | None
    test: PredictionWindows
    masked: PredictionWindows
    known_cities: list[str]


def open_run_data(model_args: ModelArguments, data_args: DataArguments, args: RunArguments, config: Any) -> RunData:
    """Open, check, split and cut the cities of a run.

    Args:
        model_args, data_args, args: of the run.
        config: of the model, saved or new; what does not fit it is refused before a record is read.

    Raises:
        ValueError, OSError: with what is wrong, where, and what to do.
    """
    city, others = _open_cities(model_args, data_args, args, config)
    processor = MobilityProcessor.for_data(city.grid, city.calendar)
    shape = data_args.window_shape()
    _refuse_long_trajectories([city, *others], shape, config.max_seq_length)
    known_cities = _known_cities(model_args, config, [city, *others] if args.trains else [])
    own_id = city_id(known_cities, city)
    cut_day = city.edition.cut_day if data_args.cut_day is None else data_args.cut_day
    split = split_users(city, cut_day, data_args.test_fraction, args.seed)
    of_model: dict[str, Any] = {"city_id": own_id, "city_field": getattr(config, "city_field", False)}
    test = PredictionWindows(city, split.held_out, cut_day, shape, processor, **of_model)
    masked = PredictionWindows(city, split.masked, cut_day, shape, processor, masked=True, **of_model)
    validation, split = _validation(city, split, args, shape, processor, of_model)
    per_user = data_args.windows_per_user
    shares = data_args.alone_share, data_args.varied_share, of_model["city_field"]
    parts = [TrainingWindows(city, split, shape, processor, args.seed, per_user, own_id, *shares)]
    for other in others:
        whole = split_users(other, other.edition.cut_day, 0.0, args.seed)
        parts.append(
            TrainingWindows(other, whole, shape, processor, args.seed, per_user, city_id(known_cities, other), *shares)
        )
    train = JointWindows(parts, data_args.city_temperature) if others else parts[0]
    data = RunData(city, others, processor, split, train, validation, test, masked, known_cities)
    _say(data)
    return data


def _open_cities(
    model_args: ModelArguments, data_args: DataArguments, args: RunArguments, config: Any
) -> tuple[City, list[City]]:
    """The city that is predicted and those beside it, cut to `max_users` of each."""

    def check(grid: Grid, calendar: Calendar) -> None:
        if model_args.model_path is not None:
            config.for_data(grid, calendar)
        if data_args.cut_day is not None:
            refuse_cut_day(data_args.cut_day, calendar)

    refuse_unused_poi(data_args.poi, config)
    if data_args.poi is None and args.trains and getattr(config, "city_field_poi", False):
        logger.warning("the network has a part for points of interest, which learns nothing here: no --poi is given")
    with args.main_process_first(desc="preparing the city"):
        city = open_city(
            data_args.city,
            data_args.data_dir,
            path=data_args.data_path,
            edition=data_args.edition,
            cache_dir=data_args.cache_dir,
            progress=not args.disable_tqdm,
            check=check,
        )
        if data_args.poi is not None:
            city = city.with_poi(data_args.poi)
        others = _other_cities(city, data_args)
    if data_args.max_users is not None:
        city, *others = [part.select(np.arange(min(data_args.max_users, len(part)))) for part in (city, *others)]
    return city, others


def _other_cities(city: City, data_args: DataArguments) -> list[City]:
    """The cities to train on beside the one that is predicted; they must have its grid and calendar."""
    others = []
    for name in data_args.pretrain_cities or []:
        if name == data_args.city:
            continue
        other = open_city(name, data_args.data_dir, edition=data_args.edition, cache_dir=data_args.cache_dir)
        if {Path(file).resolve() for file in other.source} & {Path(file).resolve() for file in city.source}:
            raise ValueError(
                f"city {name} of --pretrain_cities is the city that is predicted: its held-out days would be trained"
                " on. Leave it out"
            )
        if (other.grid, other.calendar) != (city.grid, city.calendar):
            raise ValueError(f"city {name} has another grid or calendar than city {city.name}: train on one edition")
        others.append(other)
    return others


def _refuse_long_trajectories(cities: list[City], shape: WindowShape, most: int) -> None:
    """Raise ValueError if somebody has more records than the network takes, where windows are as long as people."""
    if shape.input_seq_length:
        return
    for city in cities:
        row = int(city.lengths.argmax())
        if city.lengths[row] > most:
            raise ValueError(
                f"uid {city.uids[row]} of city {city.name} has {city.lengths[row]} records; the network takes {most}."
                " Raise --max_seq_length, or shorten the history with --input_seq_length"
            )


def _known_cities(model_args: ModelArguments, config: Any, trained_on: list[City]) -> list[str]:
    """The cities of the model's city embedding: those it knows already, then those that it is trained on now."""
    known = list(getattr(config, "cities", None) or [])
    if not known and not model_args.city_embedding:
        return []
    return list(dict.fromkeys([*known, *(city.key for city in trained_on)]))


def _validation(
    city: City,
    split: Split,
    args: RunArguments,
    shape: WindowShape,
    processor: MobilityProcessor,
    of_model: dict[str, Any],
) -> tuple[PredictionWindows | None, Split]:
    """Some users' last days before the cut, kept from training, to choose a checkpoint without the held-out days."""
    if args.eval_strategy == "no":
        return None, split
    count = min(args.validation_users, len(city) // 5)
    cut = split.cut_day - shape.horizon_days
    order = np.argsort(draw(args.seed, 1, city.uids), kind="stable")
    if split.cut_day > city.edition.cut_day:  # masked records, which have no truth, would be among those evaluated
        order = order[city.masked_counts[order] == 0]
    rows = np.sort(order[:count])
    if cut > city.calendar.first_day:
        windows = PredictionWindows(city, rows, cut, shape, processor, **of_model)
        if len(windows):
            train_until = split.train_until.copy()
            train_until[rows] = cut
            return windows, replace(split, train_until=train_until)
    logger.warning(
        "the city is too small to evaluate during training (a fifth of its users, on the days %d..%d); the last"
        " checkpoint is kept",
        cut,
        split.cut_day - 1,
    )
    return None, split


def _say(data: RunData) -> None:
    logger.info(
        "city %s (%s): %d users, %d records; %d training windows an epoch; %d users evaluated during training;"
        " %d users held out from day %d on; %d users with masked records to predict",
        data.city.name,
        data.city.edition.name,
        len(data.city),
        data.city.num_records,
        len(data.train),
        0 if data.validation is None else len(data.validation),
        len(data.test),
        data.split.cut_day,
        len(data.masked),
    )
    skipped = len(data.test.without_horizon) + len(data.masked.without_horizon)
    if skipped:
        logger.warning("%d of the users to predict have no record in the horizon and are left out", skipped)
    if not len(data.test) + len(data.masked):
        logger.warning("nobody is held out or masked: the model is trained and saved, and nothing is predicted")
    for windows in (data.test, data.masked):
        windows.warn_of_the_unknown()
