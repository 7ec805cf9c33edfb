"""Windows: an index of what is trained on and what is predicted, never copies of records."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from ..model.processing_stmoe_bert import MobilityProcessor
from ..model.records import NO_LABEL
from .city import City, Trajectory
from .city_counts import CityCounts
from .errors import DataError
from .field import CityField, TrainingFields
from .splits import Split, draw

logger = logging.getLogger(__name__)
ALONE, VARIED = 2, 3  # tell these draws from others of the same epoch and window
MOST_DROPPED = 0.8  # of a history that is thinned


@dataclass(frozen=True)
class WindowShape:
    """How windows are cut from a trajectory.

    With all lengths None a window is the whole history and the whole horizon, in one shot. `input_seq_length`,
    `predict_seq_length` and `look_back_len` (records) give the published regime: so many records in, so many out, a
    window every so many records.
    """

    horizon_days: int = 15
    input_seq_length: int | None = None
    predict_seq_length: int | None = None
    look_back_len: int | None = None
    min_history_days: int = 14
    min_horizon_days: int = 5

    def __post_init__(self) -> None:
        if self.look_back_len is not None and not (self.input_seq_length and self.predict_seq_length):
            raise ValueError("look_back_len cuts windows of records: it needs input_seq_length and predict_seq_length")
        for name, value in vars(self).items():
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")

    @property
    def in_blocks(self) -> bool:
        """Whether windows are cut by records (the published regime) and not by days."""
        return self.look_back_len is not None

    @property
    def block(self) -> tuple[int, int]:
        """Records in and out of a window of the published regime."""
        return self.input_seq_length or 0, self.predict_seq_length or 0


class TrainingWindows(Dataset):
    """Windows for training: item `epoch * len(self) + i` is window i of that epoch; -1 - item is it without labels.

    One shot: a window of each user in each epoch, cut at a day drawn from (seed, epoch, uid). Published regime: every
    window of every user, the same in each epoch. Either way a window is a function of its number alone, so workers,
    processes and resumed runs see the same ones.
    """

    def __init__(
        self,
        city: City,
        split: Split,
        shape: WindowShape,
        processor: MobilityProcessor,
        seed: int,
        per_user: int = 1,
        city_id: int | None = None,
        alone_share: float = 0.0,
        varied_share: float = 0.0,
        city_field: bool = False,
    ):
        self.fields = TrainingFields(city, split.train_until) if city_field else None
        self.city, self.split, self.shape, self.processor, self.seed = city, split, shape, processor, seed
        self.city_id, self.alone_share, self.varied_share = city_id, alone_share, varied_share
        self.mask_id = city.grid.mask_id
        if not shape.in_blocks:
            rows, self._first_cut, self._last_cut = self._cut_ranges()
            self.rows = np.repeat(rows, per_user)
            self._first_cut, self._last_cut = (np.repeat(v, per_user) for v in (self._first_cut, self._last_cut))
            self._number = np.tile(np.arange(per_user), len(rows))
        else:
            self.rows, self._start = self._blocks()
        if not len(self.rows):
            raise DataError(
                f"city {city.name} has no user to train on: training needs users with records on two days before the"
                " days that are held out or masked"
            )

    def __len__(self) -> int:
        return len(self.rows)

    def _cut_ranges(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows of trainable users and their first and last cut day, both of which leave a history and a horizon."""
        city, until = self.city, self.split.train_until
        low, high = city.first_days + 1, city.last_days.copy()
        cut = np.flatnonzero(city.last_days >= until)  # of these the last day that training sees must be looked up
        seen = city.records_before(cut, until[cut])
        high[cut] = np.where(seen > 0, city.day_of(cut, np.maximum(seen - 1, 0)), -1)
        rows = np.flatnonzero(low <= high)
        low, high, until = low[rows], high[rows], until[rows]
        last = np.maximum(low, np.minimum(high, until - self.shape.min_horizon_days))
        first = np.minimum(last, np.maximum(low, city.calendar.first_day + self.shape.min_history_days))
        return rows, first, last

    def _blocks(self) -> tuple[np.ndarray, np.ndarray]:
        """(row, first record) of every window of the published regime; a shorter trajectory gives one window."""
        length, predicted = sum(self.shape.block), self.shape.block[1]
        records = self.city.records_before(np.arange(len(self.city)), self.split.train_until)
        step = self.shape.look_back_len or 1
        counts = np.where(records > predicted, np.maximum(records - length, 0) // step + 1, 0)
        rows = np.repeat(np.arange(len(counts)), counts)
        number = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        return rows, number * step

    def cut_days(self, epoch: int, windows: Any = slice(None)) -> np.ndarray:
        """The cut day of windows of an epoch (one shot)."""
        uid = self.city.uids[self.rows[windows]]
        first, last = self._first_cut[windows], self._last_cut[windows]
        share = draw(self.seed, epoch, uid, self._number[windows])
        return first + (share * (last - first + 1)).astype(np.int64)

    def sizes(self, epoch: int) -> np.ndarray:
        """About how many records each window of an epoch has; for batches of similar lengths."""
        if self.shape.in_blocks:
            return np.minimum(self.city.lengths[self.rows], sum(self.shape.block))
        share = (
            self.cut_days(epoch) + self.shape.horizon_days - self.city.calendar.first_day
        ) / self.city.calendar.num_days
        return self.city.lengths[self.rows] * np.minimum(share, 1.0)

    def __getitem__(self, item: int) -> dict[str, np.ndarray]:
        if item < 0:
            return _without_labels(self[-1 - item])
        epoch, window = divmod(int(item), len(self))
        row = int(self.rows[window])
        person = self.city.trajectory(row)
        until = int(self.split.train_until[row])
        if not self.shape.in_blocks:
            cut = int(self.cut_days(epoch, window))
            end_day = min(cut + self.shape.horizon_days, until)
            asked, end = (int(v) for v in np.searchsorted(person.day, [cut, end_day]))
            start = 0
            if asked == end:  # nobody was seen in the horizon: ask for the next day that has a record
                end = int(np.searchsorted(person.day, person.day[asked], side="right"))
        else:
            start = int(self._start[window])
            end = min(start + sum(self.shape.block), int(np.searchsorted(person.day, until)))
            asked = end - self.shape.block[1]
        if self.shape.input_seq_length is not None:
            start = max(start, asked - self.shape.input_seq_length)
        if self.shape.predict_seq_length is not None:
            end = min(end, asked + self.shape.predict_seq_length)
        history = np.arange(start, asked)
        if self.varied_share:
            history = self._varied(person.day, history, epoch, window)
        made = _window(self.processor, person, history, np.arange(asked, end), self.city_id)
        if self.alone_share:
            made["asked_alone"] = draw(self.seed, epoch, window, ALONE) < self.alone_share
        if self.fields is not None:
            cells, keys = person.cell[history], (self.seed, epoch, window)
            cells = cells[cells != self.mask_id]
            made |= self.fields.of_window(row, cells, int(person.day[asked]), *keys).as_inputs()
        return made

    def _varied(self, day: np.ndarray, history: np.ndarray, epoch: int, window: int) -> np.ndarray:
        """The records of a history, or in a share of the windows only some: a random part, or those of the last days.

        So a network learns people who are seldom seen, or only for a few days.
        """
        chance = float(draw(self.seed, epoch, window, VARIED))
        if chance >= self.varied_share or not len(history):
            return history
        amount = float(draw(self.seed, epoch, window, VARIED, 1))
        if chance < self.varied_share / 2:
            kept = history[draw(self.seed, epoch, window, VARIED, 2 + history) >= MOST_DROPPED * amount]
        else:
            last = day[history[-1]]
            kept = history[day[history] > last - 1 - amount * (last - day[history[0]])]
        return kept if len(kept) else history[-1:]


class JointWindows(Dataset):
    """Training windows of several cities as one: an epoch has as many windows as all of them together.

    Args:
        cities: the windows of each city.
        temperature: a city's share of an epoch goes with its number of windows to the power of 1 / temperature: at 1
            every window is drawn equally often, and the higher the temperature, the more equal are the cities.
    """

    def __init__(self, cities: Sequence[TrainingWindows], temperature: float = 1.0):
        if temperature < 1:
            raise ValueError(f"the temperature of joint training is {temperature}; it must be at least 1")
        self.cities = cities
        size = np.array([len(windows) for windows in cities], float)
        share = size ** (1 / temperature)
        self._counts = np.maximum(1, np.round(size.sum() * share / share.sum())).astype(np.int64)
        self._first = np.cumsum(self._counts) - self._counts

    def __len__(self) -> int:
        return int(self._counts.sum())

    def _items(self, epoch: int) -> list[np.ndarray]:
        """Of each city, its own items of an epoch: it goes round its windows, from where the last epoch ended."""
        return [epoch * count + np.arange(count) for count in self._counts]

    def sizes(self, epoch: int) -> np.ndarray:
        """About how many records each window of an epoch has."""
        sizes = []
        for windows, items in zip(self.cities, self._items(epoch), strict=True):
            rounds, window = np.divmod(items, len(windows))
            sizes.append(np.concatenate([windows.sizes(int(n))[window[rounds == n]] for n in np.unique(rounds)]))
        return np.concatenate(sizes)

    def __getitem__(self, item: int) -> dict[str, np.ndarray]:
        if item < 0:
            return _without_labels(self[-1 - item])
        epoch, window = divmod(int(item), len(self))
        city = int(np.searchsorted(self._first, window, side="right")) - 1
        return self.cities[city][epoch * int(self._counts[city]) + window - int(self._first[city])]


class PredictionWindows(Dataset):
    """One window a user to be predicted: the history before the cut, and every asked-for record, shortest first.

    Asked for are the records of the horizon, whose cells are known and hidden, or (`masked`) the masked records. With
    `city_field` each is told what the others were seen to do before the cut, or in their place `counts` of the city.
    """

    def __init__(
        self,
        city: City,
        rows: np.ndarray,
        cut_day: int | np.ndarray,
        shape: WindowShape,
        processor: MobilityProcessor,
        masked: bool = False,
        city_id: int | None = None,
        city_field: bool = False,
        counts: CityCounts | None = None,
    ):
        self.city, self.shape, self.processor, self.masked = city, shape, processor, masked
        self.city_id = city_id
        self.cut_days = np.broadcast_to(cut_day, len(city))
        """[people of the city] the first day that is predicted."""
        rows = np.asarray(rows, np.int64)
        rows = rows[np.argsort(city.lengths[rows], kind="stable")]  # neighbours share a batch: less padding
        if masked:
            asked = city.masked_counts[rows]
        else:
            cut = self.cut_days[rows]
            asked = city.records_before(rows, cut + shape.horizon_days) - city.records_before(rows, cut)
        self.rows = rows[asked > 0]
        self.field: CityField | CityCounts | None = counts and counts.with_poi(city.poi)
        if counts is None and city_field and len(self.rows):
            self.field = CityField(city, self.cut_days)  # counts the whole city
        self.without_horizon = rows[asked == 0]
        """Rows of users that have no record to be asked for."""
        nothing_known = city.masked_counts == city.lengths if masked else city.first_days >= self.cut_days
        self.without_history = self.rows[nothing_known[self.rows]]
        """Rows of users who are to be predicted and of whom no earlier record is known."""

    def __len__(self) -> int:
        return len(self.rows)

    def warn_of_the_unknown(self) -> None:
        """Say how many of the users have no history to be predicted from."""
        if len(self.without_history):
            logger.warning(
                "%d of the users to predict, first uid %d, have no earlier record; their cells are guesses",
                len(self.without_history),
                self.city.uids[self.without_history[0]],
            )

    def _asked(self, row: int) -> np.ndarray:
        person = self.city.trajectory(row)
        if self.masked:
            return np.flatnonzero(person.cell == self.city.grid.mask_id)
        cut = int(self.cut_days[row])
        first, end = np.searchsorted(person.day, [cut, cut + self.shape.horizon_days])
        return np.arange(first, end)

    def asked_for(self, window: int) -> dict[str, np.ndarray]:
        """uid, d, t and cell (`mask_id` where unknown) of a window's asked-for records."""
        row = int(self.rows[window])
        person, asked = self.city.trajectory(row), self._asked(row)
        return {
            "uid": np.full(len(asked), person.uid),
            "d": person.day[asked],
            "t": person.slot[asked],
            "cell": person.cell[asked],
        }

    def __getitem__(self, window: int) -> dict[str, np.ndarray]:
        row = int(self.rows[window])
        person, asked = self.city.trajectory(row), self._asked(row)
        start, end = 0, int(asked[-1]) + 1
        if self.shape.input_seq_length is not None:
            start = max(0, int(asked[0]) - self.shape.input_seq_length)
        history = np.setdiff1d(np.arange(start, end), asked, assume_unique=True)
        made = _window(self.processor, person, history, asked, self.city_id)
        if self.field is not None:
            cells = person.cell[history]
            made |= self.field.of_person(row, cells[cells != self.city.grid.mask_id]).as_inputs()
        return made


def _window(
    processor: MobilityProcessor, person: Trajectory, history: np.ndarray, asked: np.ndarray, city_id: int | None
) -> dict:
    """Inputs and labels of the records `history` and `asked`, in time order; an unknown cell has no label.

    With `city_id`, the number of the city in the model's `config.cities`, -1 if it has none, it stands in `city`.
    """
    mask_id = processor.grid.mask_id
    records = np.sort(np.concatenate([history, asked]))
    is_asked = np.isin(records, asked, assume_unique=True)
    cell = person.cell[records]
    labels = np.where(is_asked & (cell != mask_id), cell, NO_LABEL)
    cell[is_asked] = mask_id
    window = {"inputs": processor.features(person.day[records], person.slot[records], cell), "labels": labels}
    return window if city_id is None else window | {"city": np.int64(city_id)}


def _without_labels(window: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return window | {"labels": np.full_like(window["labels"], NO_LABEL)}
