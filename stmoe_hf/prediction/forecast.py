"""Forecasts of days that no file has: `forecast(records_or_points, days=7)`.

What is said of a slot depends on the person's own history and on nothing else: not on which other slots are asked for,
on how many, or on who shares the batch. So the day decoder always plans whole days, of which the asked-for slots are
then told.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..data.city import City
from ..data.field import CityField
from ..data.geography import Place
from ..data.poi import refuse_unused_poi
from ..data.sources import open_source
from ..model.decoders import DECODERS
from ..model.decoding import expected_values, temper
from ..model.processing_stmoe_bert import MobilityProcessor
from ..model.spacetime import Calendar, Grid
from .day_decoding import decode_days, draw_days
from .load import load_model

logger = logging.getLogger(__name__)
FEW_DAYS = 7  # of history, below which a forecast is little more than a guess
PEOPLE_A_CHUNK = 256  # sorted by length together, so that batches hold little padding
NUMBERS_A_BATCH = 6_000_000  # of pairs (asked-for record, record of the history)
NUM_CANDIDATES = 32
SAMPLED_CANDIDATES = 512  # of drawn days, which go to new cells as often as the candidates allow


@dataclass(frozen=True)
class ForecastSettings:
    """What a forecast is to say.

    Attributes:
        days: how many, from each person's day after their last, or from `from_day` on.
        from_day: the first day for everybody, by its number in the data; None: each person's own.
        slots: of a day that are told; None: all.
        top_k: how many cells for each slot, the most probable first.
        decoder: `day` plans the day of the highest expected score, one cell a slot; the others choose slot by slot
            (`mode`: the most probable). None: `day` for one cell, `mode` for several.
        samples: in place of cells and probabilities, this many drawn days of each person and day.
        batch_size: most people at a time.
    """

    days: int = 7
    from_day: int | None = None
    slots: Sequence[int] | None = None
    top_k: int = 1
    decoder: str | None = None
    samples: int = 0
    batch_size: int = 16

    def __post_init__(self) -> None:
        for name, least in (("days", 1), ("top_k", 1), ("samples", 0), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if self.decoder not in (None, *DECODERS):
            raise ValueError(f"decoder is {self.decoder!r}; it can be {', '.join(DECODERS)}")
        if self.decoder == "day" and self.top_k > 1:
            raise ValueError("the day decoder plans one day, a cell a slot: for several cells a slot leave it out")
        if self.samples and (self.top_k > 1 or self.decoder is not None):
            raise ValueError("samples are whole drawn days: leave top_k and decoder out")

    @property
    def chosen_by(self) -> str:
        return self.decoder or ("day" if self.top_k == 1 else "mode")


@dataclass(frozen=True)
class Asked:
    """What is asked of one person: `day` and `slot` [Q], in time order, of which nothing is known."""

    row: int
    day: np.ndarray
    slot: np.ndarray


@dataclass(frozen=True)
class Answer:
    """The answer for one person.

    Attributes:
        uid, day, slot: [Q] what was asked.
        cells: [Q, R] the chosen cells, the best first; -1 where there are fewer.
        probabilities: [Q, R] of these cells.
        samples: [S, Q] cells of drawn days, or None.
        log_probability: [Q] of the true cells, if they were given.
    """

    uid: int
    day: np.ndarray
    slot: np.ndarray
    cells: np.ndarray
    probabilities: np.ndarray
    samples: np.ndarray | None = None


class Forecaster:
    """A network and what it forecasts for the people of a city.

    Args:
        model: a portable network, loaded for the city's grid and `calendar`.
        city: with the histories.
        calendar: of the city, long enough for all days that are asked for.
        settings: what is to be said.
        until: [people] the first day that is no history any more; by default all records are history.
        told_of_others: whether a network with a city field is told of the city's other people and points of interest.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        city: City,
        calendar: Calendar,
        settings: ForecastSettings,
        until: np.ndarray | None = None,
        told_of_others: bool = True,
    ):
        refuse_unused_poi(city.poi, model.config)
        self.model, self.city, self.settings, self.until = model.eval(), city, settings, until
        self.processor = MobilityProcessor.for_data(city.grid, calendar)
        self.calendar = calendar
        self.temperature = float(getattr(model.config, "temperature", 1.0))  # type: ignore[arg-type]
        self.field = None
        if told_of_others and getattr(model.config, "city_field", False):
            self.field = CityField(city, city.calendar.last_day + 1 if until is None else until)

    def answers(self, questions: Sequence[Asked]) -> Iterator[Answer]:
        """The answers, in the order of the questions; memory does not grow with their number."""
        for first in range(0, len(questions), PEOPLE_A_CHUNK):
            chunk = questions[first : first + PEOPLE_A_CHUNK]
            answers: dict[int, Answer] = {}
            for batch in self._batches(chunk):
                answers |= zip(batch, self._answer([chunk[place] for place in batch]), strict=True)
            yield from (answers[place] for place in range(len(chunk)))

    def _batches(self, questions: Sequence[Asked]) -> Iterator[list[int]]:
        """Which of the questions are answered together: of similar lengths, and as many as memory allows."""
        asked = np.array([len(self._all_asked(question)[0]) for question in questions])
        length = self.city.lengths[[question.row for question in questions]] + asked
        batch: list[int] = []
        for place in np.argsort(length, kind="stable"):
            size = (len(batch) + 1) * int(length[place]) * int(max(asked[place], *asked[batch], 1))
            if batch and (len(batch) >= self.settings.batch_size or size > NUMBERS_A_BATCH):
                yield batch
                batch = []
            batch.append(int(place))
        if batch:
            yield batch

    def _all_asked(self, question: Asked) -> tuple[np.ndarray, np.ndarray]:
        """Day and slot of what the network is asked: whole days where days are planned or drawn."""
        if self.settings.chosen_by != "day" and not self.settings.samples:
            return question.day, question.slot
        days = np.unique(question.day)
        slots = np.arange(self.calendar.num_slots)
        return np.repeat(days, len(slots)), np.tile(slots, len(days))

    def _history(self, question: Asked) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        person = self.city.trajectory(question.row)
        known = person.cell != self.city.grid.mask_id
        if self.until is not None:
            known &= person.day < self.until[question.row]
        return person.day[known], person.slot[known], person.cell[known]

    @torch.no_grad()
    def _answer(self, questions: Sequence[Asked]) -> list[Answer]:
        windows = []
        for question in questions:
            day, slot, cell = self._history(question)
            asked_day, asked_slot = self._all_asked(question)
            masked = np.full(len(asked_day), self.city.grid.mask_id)
            columns = [np.concatenate(parts) for parts in ((day, asked_day), (slot, asked_slot), (cell, masked))]
            order = np.lexsort((columns[1], columns[0]))
            windows.append({"inputs": self.processor.features(*(column[order] for column in columns))})
            if self.field is not None:
                windows[-1] |= self.field.of_person(question.row, cell).as_inputs()
        device = next(self.model.parameters()).device
        batch = {name: tensor.to(device) for name, tensor in self.processor.pad(windows).items()}
        # No weight depends on the length, and batches are cut to what memory holds: a long history is no mistake.
        config: Any = self.model.config
        config.max_seq_length = max(config.max_seq_length, batch["inputs"].shape[1])
        candidates = SAMPLED_CANDIDATES if self.settings.samples else max(NUM_CANDIDATES, self.settings.top_k)
        output = self.model(**batch, asked_alone=True, num_candidates=min(candidates, self.city.grid.num_cells))
        refuse_broken(output.logits, [int(self.city.uids[question.row]) for question in questions])
        counts = torch.tensor([len(self._all_asked(question)[0]) for question in questions])
        exists = torch.arange(output.logits.shape[1]) < counts[:, None]
        choose = self._sample if self.settings.samples else self._choose
        return choose(questions, output, batch["inputs"], exists.to(batch["inputs"].device))

    def _choose(self, questions: Sequence[Asked], output: Any, inputs: Tensor, exists: Tensor) -> list[Answer]:
        """The chosen cells and their probabilities."""
        grid, settings = self.city.grid, self.settings
        told = temper(output.logits, output.candidates, grid.num_cells, self.temperature)
        nothing_known = torch.isneginf(output.history).all(-1)  # [B, Q]
        if settings.chosen_by == "day":
            chosen = decode_days(*self._of_days(output, inputs, exists), whole_days=True)[..., None]
        else:
            values = expected_values(output.logits.exp(), output.candidates, grid, settings.chosen_by)
            best = values.topk(min(settings.top_k, values.shape[-1]), dim=-1)
            chosen = output.candidates[:, None, :].expand_as(values).gather(-1, best.indices)
            chosen = chosen.masked_fill(torch.isneginf(best.values), -1)
        chosen = torch.where(nothing_known[..., None] & (chosen >= 0), grid.centre, chosen)
        hit = output.candidates[:, None, None, :] == chosen[..., None]  # [B, Q, R, K]
        told = torch.where(hit, told[:, :, None, :], 0.0).sum(-1)
        told = torch.where(nothing_known[..., None], 1 / grid.num_cells, told)
        answers = []
        for row, question in enumerate(questions):
            wanted = self._wanted(question)
            cells, probability = (part[row, : len(wanted)].cpu().numpy()[wanted] for part in (chosen, told))
            uid = int(self.city.uids[question.row])
            answers.append(Answer(uid, question.day, question.slot, cells, probability))
        return answers

    def _of_days(self, output: Any, inputs: Tensor, exists: Tensor) -> tuple[Any, Any, Any, Tensor, Tensor, Grid]:
        """What `decode_days` and `draw_days` take of a batch."""
        return output.logits.exp(), output.candidates, output.history, inputs, exists, self.city.grid

    def _sample(self, questions: Sequence[Asked], output: Any, inputs: Tensor, exists: Tensor) -> list[Answer]:
        """Drawn days in place of chosen cells."""
        count = self.settings.samples
        drawn = draw_days(*self._of_days(output, inputs, exists), samples=count).cpu().numpy()  # [B, S, Q]
        answers = []
        for row, question in enumerate(questions):
            wanted = self._wanted(question)
            samples = drawn[row][:, : len(wanted)][:, wanted]
            nothing = np.empty((len(question.day), 0))
            uid = int(self.city.uids[question.row])
            answers.append(Answer(uid, question.day, question.slot, nothing.astype(np.int64), nothing, samples))
        return answers

    def _wanted(self, question: Asked) -> np.ndarray:
        """Which of the records that the network was asked are told."""
        day, slot = self._all_asked(question)
        key = day * self.calendar.num_slots + slot
        return np.isin(key, question.day * self.calendar.num_slots + question.slot)


def refuse_broken(logits: Tensor, uids: Sequence[int]) -> None:
    """Raise ValueError, naming the person, if a network gave something that is no probability."""
    wrong = torch.isnan(logits) | torch.isposinf(logits)
    if bool(wrong.any()):
        row = int(wrong.flatten(1).any(1).nonzero()[0, 0])
        raise ValueError(
            f"the network gave no numbers for uid {uids[row]}: its weights are broken; train again, or take others"
        )


def forecast(
    data: Any = None,
    *,
    days: int = 7,
    from_date: str | None = None,
    slots: Sequence[int] | None = None,
    top_k: int = 1,
    decoder: str | None = None,
    samples: int = 0,
    model: str | Path | None = None,
    device: str | None = None,
    batch_size: int = 16,
    next: bool = False,
    **source: Any,
) -> pd.DataFrame:
    """Where people will be: a forecast from their records or GPS points, without training.

    Args:
        data: a table of records (uid, d, t, x, y) or of GPS points (user, latitude, longitude, time), a `City`, or the
            path of a file or folder of either.
        days: how many, from the day after each person's last.
        from_date: the first day for everybody instead: an ISO date where the place is known, else a day's number.
        slots: of a day to tell; by default all.
        top_k: cells for each slot, the most probable first.
        decoder: `day` plans the day of the highest expected score (the default for one cell a slot); `mode` tells the
            most probable cell (the default for several); `geobleu`, `dtw`, `balanced`.
        samples: draw this many whole days of each person and day in place of cells with probabilities.
        model: folder or Hub id; by default the weights that come with the package.
        device: cpu, cuda, ...; by default a GPU if there is one.
        batch_size: most people at a time.
        next: tell where each person is in the slot after their last record, by what followed it before: `top_k`
            ranked places, of those that the person or others were seen in.
        source: how to read the data, as of `stmoe_hf.data.sources.open_source` (timezone, edition, grid, poi, ...).

    Returns:
        Columns uid (and `user`, where people have names), d, t, rank (from 1), x, y, probability, and where the place
        is known latitude, longitude, time. With samples: uid, d, t, sample (from 0), x, y and the same.

    Raises:
        ValueError, OSError: with what is wrong, where, and what to do.
    """
    settings = ForecastSettings(days, None, slots, top_k, decoder, samples, batch_size)
    if next:
        if samples or decoder or slots is not None or from_date is not None or model is not None or "poi" in source:
            raise ValueError("next=True ranks places of one slot by weights of its own: say top_k and the data alone")
        from .forecast_next import next_of_city  # which gives the tables of this module

        with open_source(data, **source) as city:
            return next_of_city(city, top_k)
    with open_source(data, **source) as city:
        tables = list(forecast_city(city, settings, from_date=from_date, model=model, device=device))
    return pd.concat(tables, ignore_index=True)


def forecast_city(
    city: City,
    settings: ForecastSettings,
    *,
    from_date: str | None = None,
    model: str | Path | None = None,
    device: str | None = None,
    progress: Callable[[int], Any] | None = None,
) -> Iterator[pd.DataFrame]:
    """The table of `forecast`, some people at a time, in the order of their uids; memory does not grow with the city.

    Args:
        city: any.
        settings: what is to be said.
        from_date, model, device: as of `forecast`.
        progress: called with the number of people that were done.
    """
    if from_date is not None:
        settings = replace(settings, from_day=day_of(from_date, city.place, city.calendar))
    first = first_days(city, settings)
    calendar = extended(city.calendar, int(first.max()) + settings.days - 1)
    questions = ask(city, settings, first)
    network = load_forecaster(model, city.grid, calendar, settings, device)
    _warn_of_the_little_known(city, first)
    forecaster = Forecaster(network, city, calendar, settings, until=first)
    for first_of_chunk in range(0, len(questions), PEOPLE_A_CHUNK):
        answers = list(forecaster.answers(questions[first_of_chunk : first_of_chunk + PEOPLE_A_CHUNK]))
        yield to_table(answers, city, calendar)
        if progress is not None:
            progress(len(answers))


def first_days(city: City, settings: ForecastSettings) -> np.ndarray:
    """The first day [people] that is forecast of each person."""
    return city.last_days + 1 if settings.from_day is None else np.full(len(city), settings.from_day)


def ask(city: City, settings: ForecastSettings, first: np.ndarray) -> list[Asked]:
    """What the settings ask of each person, whose forecast begins on `first` [people]."""
    slots = _slots(settings, city.calendar)
    day = np.repeat(np.arange(settings.days), len(slots))
    return [Asked(row, first[row] + day, np.tile(slots, settings.days)) for row in range(len(city))]


def load_forecaster(
    model: str | Path | None, grid: Grid, calendar: Calendar, settings: ForecastSettings, device: str | None = None
) -> PreTrainedModel:
    """A network that can forecast, for the grid and calendar of data; ValueError if it cannot."""
    network = load_model(model, grid, calendar, device)
    config: Any = network.config
    if not getattr(config, "history_head", False):
        raise ValueError(f"a {type(network).__name__} without a history head makes no forecasts; take another model")
    if not config.trained_alone:
        logger.warning("this network was not trained to be asked alone (--alone_share): expect less of its forecasts")
    if settings.top_k > grid.num_cells:
        raise ValueError(f"top_k is {settings.top_k}; the grid has {grid.num_cells} cells")
    return network


def to_table(answers: Sequence[Answer], city: City, calendar: Calendar) -> pd.DataFrame:
    """The table of `forecast` of some answers."""
    parts = []
    for answer in answers:
        if answer.samples is not None:
            count = len(answer.samples)
            cells, name, number = answer.samples.ravel(), "sample", np.repeat(np.arange(count), len(answer.day))
            day, slot = np.tile(answer.day, count), np.tile(answer.slot, count)
            more = {}
        else:
            ranks = answer.cells.shape[1]
            cells, name, number = answer.cells.ravel(), "rank", np.tile(np.arange(1, ranks + 1), len(answer.day))
            day, slot = np.repeat(answer.day, ranks), np.repeat(answer.slot, ranks)
            more = {"probability": answer.probabilities.ravel()}
        x, y = city.grid.xy(cells)
        part = pd.DataFrame({"uid": answer.uid, "d": day, "t": slot, name: number, "x": x, "y": y} | more)
        parts.append(part[cells >= 0])
    table = pd.concat(parts, ignore_index=True)
    if city.place is not None:
        table = _located(table, city, city.place, calendar)
    return table


def _located(table: pd.DataFrame, city: City, place: Place, calendar: Calendar) -> pd.DataFrame:
    latitude, longitude = place.to_latlon(table["x"], table["y"], city.grid)
    first = None
    if place.aligned and city.users is not None:
        first = table["uid"].map(city.users.set_index("uid")["first_date"]).to_numpy(object)
    time = place.clock(table["d"], table["t"], calendar, first)
    table = table.assign(latitude=latitude, longitude=longitude, time=time)
    if city.users is not None:
        table.insert(1, "user", table["uid"].map(city.users.set_index("uid")["user"]))
    return table


def extended(calendar: Calendar, last_day: int) -> Calendar:
    """A calendar that reaches at least to a day; weekdays go on, holidays beyond the data are not known."""
    return replace(calendar, num_days=max(calendar.num_days, last_day - calendar.first_day + 1))


def day_of(date: str, place: Place | None, calendar: Calendar) -> int:
    """The number of a day that is given by its date, or by its number where dates are not known."""
    if place is not None:
        day = place.day_of(date, calendar)
    elif date.lstrip("-").isdecimal():
        day = int(date)
    else:
        raise ValueError(f"from {date!r}: these records have no dates; give the number of a day")
    if day <= calendar.first_day:
        raise ValueError(f"from {date}: nothing is known before it, the records begin on day {calendar.first_day}")
    return day


def _slots(settings: ForecastSettings, calendar: Calendar) -> np.ndarray:
    if settings.slots is None:
        return np.arange(calendar.num_slots)
    slots = np.unique(np.asarray(settings.slots, np.int64))
    if not len(slots) or slots[0] < 0 or slots[-1] >= calendar.num_slots:
        raise ValueError(f"slots must be some of 0..{calendar.num_slots - 1}; these are {list(settings.slots)[:5]}")
    return slots


def _warn_of_the_little_known(city: City, first: np.ndarray) -> None:
    """Say of how many people so little is known that their forecast is wide."""
    known = city.lengths - city.masked_counts
    nothing = known == 0
    little = ~nothing & (np.minimum(city.last_days, first - 1) - city.first_days + 1 < FEW_DAYS)
    if nothing.any():
        uid = city.uids[np.argmax(nothing)]
        logger.warning("%d people, first uid %d, have no known record: their forecast is a guess", nothing.sum(), uid)
    if little.any():
        logger.warning(
            "%d people, first uid %d, were seen for less than %d days: their forecast is wide",
            little.sum(),
            city.uids[np.argmax(little)],
            FEW_DAYS,
        )
