"""Arrow in, Arrow out: `forecast_batches(batches, days=7)` for anything that hands on record batches.

One row a person goes in (`rows` tells its columns), rows of forecasts come out, in the order of the people. What is
said of a person depends on the person and the network alone, to the last bit on one kind of machine: each person is
asked by themselves and with one thread, whoever shares the batch. The weights are loaded once a process.

    table.to_batches() -> forecast_batches -> Table.from_batches
    Ray Data:   data.map_batches(...)          Spark:   frame.mapInArrow(...)          (docs/scale.md)
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from ..data.city import City
from ..data.city_counts import CityCounts, counts_for, told_of
from ..data.editions import EDITIONS
from ..data.errors import DataError
from ..data.geography import Place
from ..data.windows import PredictionWindows, WindowShape
from ..model.processing_stmoe_bert import MobilityProcessor
from ..model.spacetime import Calendar, Grid
from ..prediction.forecast import (
    Forecaster,
    ForecastSettings,
    ask,
    extended,
    first_days,
    load_forecaster,
)
from ..prediction.forecast_table import to_table
from ..prediction.load import find_model, load_config, load_model, load_saved
from ..prediction.predict import PredictionSettings, predict_windows
from .rows import RECORD_LISTS, Quarantine, Stream, city_of_rows

if TYPE_CHECKING:
    from typing_extensions import Self  # of typing from Python 3.11 on

logger = logging.getLogger(__name__)
PEOPLE_A_BATCH = 64  # whose answers stand in memory together
NOT_OF_THE_WEIGHTS = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")  # keys of a configuration


@dataclass(frozen=True)
class Job:
    """What is done with each person; it can be pickled and sent to a worker, and called there.

    Attributes:
        grid, calendar: what the records are in; those of HuMob 2024 if nothing is said, as of the commands.
        place: where the grid lies, if that is known.
        with_user: whether the rows have a column `user`.
    """

    grid: Grid = field(default_factory=Grid)
    calendar: Calendar = EDITIONS["humob2024"].calendar
    place: Place | None = None
    with_user: bool = False

    kind: ClassVar[str] = ""
    lists: ClassVar[tuple[str, ...]] = RECORD_LISTS

    def __post_init__(self) -> None:
        if self.place is not None and self.place.aligned:
            raise DataError("people with calendars of their own cannot be done in shards: give them one calendar")

    def settings(self) -> dict[str, Any]:
        """All that the answers depend on beside the person, for people to read and to compare."""
        return {"kind": self.kind, **asdict(self)}

    def pinned(self) -> Self:
        """The job, bound to what it would take from the disk."""
        return self

    def schema(self) -> pa.Schema:
        """Of the answers."""
        raise NotImplementedError

    def answers(self, batch: pa.RecordBatch, stream: Stream) -> Iterator[pa.RecordBatch]:
        """The answers for a few people."""
        raise NotImplementedError

    def __call__(
        self, batches: Iterable[pa.RecordBatch], quarantine: Quarantine | None = None
    ) -> Iterator[pa.RecordBatch]:
        """The answers for the people of record batches, some people at a time.

        Args:
            batches: one row a person.
            quarantine: called with each row that cannot be read; None: the first one raises DataError.
        """
        stream = Stream(quarantine)
        for batch in batches:
            for first in range(0, batch.num_rows, PEOPLE_A_BATCH):
                yield from self.answers(batch.slice(first, PEOPLE_A_BATCH), stream)


@dataclass(frozen=True)
class NetworkJob(Job):
    """A job of a network; a record outside of grid and calendar is refused.

    Attributes:
        model: folder or Hub id, the same on all machines; None: the weights of the package.
        device: cpu, cuda, ...; None: a GPU if there is one.
        weights: what `fingerprint` says of the weights; None: any. A worker that finds others refuses.
        field: file or URL of the city's counts (`stmoe field`), the same on all machines; None: a network with a city
            field is told of nobody, since a batch is no city and who shares it has no say in an answer.
        counts: a hash of that file; None: any.
    """

    model: str | None = None
    device: str | None = None
    weights: str | None = None
    field: str | None = None
    counts: str | None = None

    def settings(self) -> dict[str, Any]:
        kept = super().settings()
        # Where it lies and what computes it; `weights` and `counts` tell what it is.
        del kept["model"], kept["device"], kept["field"]
        if self.counts is None:
            del kept["counts"]  # as it was before there were any: such a folder is not done again
        return kept

    def pinned(self) -> Self:
        if self.weights is not None:  # it is bound
            return self
        config = load_config(find_model(self.model))
        if self.field is None:
            if getattr(config, "city_field", False):
                logger.warning("the network is told of no other people: give the city's counts (--field, stmoe field)")
            return replace(self, weights=fingerprint(self.model))
        counts_for(self.field, self.grid, config, self.first_day, told_of(self.calendar, self.place))
        return replace(self, weights=fingerprint(self.model), counts=hash_of(self.field))

    @property
    def first_day(self) -> int | None:
        """The first day that is predicted of everybody; None if each person has their own."""
        return None

    def told(self) -> CityCounts | None:
        """The counts that the network is told of, which must be of days before what is predicted."""
        if self.field is None:
            return None
        return _counts(self)

    def load(self) -> Any:
        """The network; called once a process."""
        raise NotImplementedError

    def table(self, network: Any, city: City) -> pd.DataFrame:
        """The answers for some people."""
        raise NotImplementedError

    def answers(self, batch: pa.RecordBatch, stream: Stream) -> Iterator[pa.RecordBatch]:
        city = city_of_rows(batch, stream, self.grid, self.calendar, self.place)
        if city is None:
            return
        with one_thread():
            table = self.table(_loaded(self), city)
        if self.with_user and "user" not in table.columns:
            assert city.users is not None
            table["user"] = table["uid"].map(city.users.set_index("uid")["user"])
        yield pa.RecordBatch.from_pandas(table, schema=self.schema(), preserve_index=False)

    def _key_fields(self) -> list[tuple[str, pa.DataType]]:
        user = [("user", pa.string())] if self.with_user else []
        return [("uid", pa.int64()), *user, ("d", pa.int32()), ("t", pa.int32())]


@dataclass(frozen=True)
class ForecastJob(NetworkJob):
    """Forecasts of the days after each person's last: the table of `stmoe_hf.forecast`."""

    forecast: ForecastSettings = field(default_factory=ForecastSettings)
    kind = "forecast"

    def settings(self) -> dict[str, Any]:
        kept = super().settings()
        del kept["forecast"]["batch_size"]  # says nothing of the answers
        return kept

    def schema(self) -> pa.Schema:
        number = "sample" if self.forecast.samples else "rank"
        told = [] if self.forecast.samples else [("probability", pa.float32())]
        fields = [*self._key_fields(), (number, pa.int32()), ("x", pa.int32()), ("y", pa.int32()), *told]
        if self.place is not None:
            time = pa.timestamp("us", self.place.timezone)
            fields += [("latitude", pa.float64()), ("longitude", pa.float64()), ("time", time)]
        return pa.schema(fields)

    @property
    def first_day(self) -> int | None:
        return self.forecast.from_day

    def _long_calendar(self) -> Calendar:
        """Reaches to the last day that anybody can be asked for, so that nothing depends on who is there."""
        first = self.calendar.last_day + 1 if self.forecast.from_day is None else self.forecast.from_day
        return extended(self.calendar, first + self.forecast.days - 1)

    def load(self) -> Any:
        return load_forecaster(self.model, self.grid, self._long_calendar(), self.forecast, self.device)

    def table(self, network: Any, city: City) -> pd.DataFrame:
        settings = replace(self.forecast, batch_size=1)
        first = first_days(city, settings)
        how: dict[str, Any] = {"until": first, "told_of_others": False, "counts": self.told()}
        forecaster = Forecaster(network, city, self._long_calendar(), settings, **how)
        return to_table(list(forecaster.answers(ask(city, settings, first))), city, forecaster.calendar)


@dataclass(frozen=True)
class PredictJob(NetworkJob):
    """The cells of masked records, or with `cut_day` of everybody's records from that day on: uid, d, t, x, y."""

    prediction: PredictionSettings = field(default_factory=PredictionSettings)
    cut_day: int | None = None
    horizon_days: int = 15
    kind = "predict"

    @property
    def first_day(self) -> int | None:
        return self.cut_day

    def schema(self) -> pa.Schema:
        return pa.schema([*self._key_fields(), ("x", pa.int32()), ("y", pa.int32())])

    def load(self) -> Any:
        return load_model(self.model, self.grid, self.calendar, self.device)

    def table(self, network: Any, city: City) -> pd.DataFrame:
        processor = MobilityProcessor.for_data(self.grid, self.calendar)
        settings, tables = self.prediction, list[pd.DataFrame]()
        shape = WindowShape(self.horizon_days, settings.input_seq_length, settings.predict_seq_length)
        for row in range(len(city)):
            masked = bool(city.masked_counts[row])
            if masked or self.cut_day is not None:
                cut = self.calendar.last_day if self.cut_day is None else self.cut_day
                counts = self.told()
                windows = PredictionWindows(city, np.array([row]), cut, shape, processor, masked=masked, counts=counts)
                tables += predict_windows(network, windows, processor, settings, 1) if len(windows) else []
        columns = ["uid", "d", "t", "x", "y"]
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns, dtype=np.int64)


def forecast_batches(
    batches: Iterable[pa.RecordBatch], quarantine: Quarantine | None = None, **settings: Any
) -> Iterator[pa.RecordBatch]:
    """Forecasts for the people of Arrow record batches.

    Args:
        batches: one row a person: `uid`, and lists of `day`, `slot`, `x`, `y`.
        quarantine: called with a `BadPerson` for each row that cannot be read; None: the first one raises DataError.
        settings: as of `forecast_job`.

    Yields:
        uid, d, t, rank (or sample), x, y, probability; where the place is known latitude, longitude, time. All the
        rows of a person follow each other.
    """
    return forecast_job(**settings)(batches, quarantine)


def forecast_job(**settings: Any) -> ForecastJob:
    """A job from the fields of `NetworkJob` and of `ForecastSettings`: `forecast_job(days=3, grid=..., model=...)`."""
    ours = {name: settings.pop(name) for name in list(settings) if name in NetworkJob.__dataclass_fields__}
    if settings.get("slots") is not None:
        settings["slots"] = tuple(settings["slots"])  # can be hashed
    return ForecastJob(**ours, forecast=ForecastSettings(**settings))


@functools.lru_cache(maxsize=1)
def _loaded(job: NetworkJob) -> Any:
    """The network of a job, loaded once a process."""
    if job.weights is not None and (found := fingerprint(job.model)) != job.weights:
        raise DataError(f"the weights of {find_model(job.model)} are {found[:12]} here and {job.weights[:12]} there")
    return job.load()


@functools.lru_cache(maxsize=1)
def _counts(job: NetworkJob) -> CityCounts | None:
    """The counts of a job, read once a process: anew for a job whose file has another content."""
    assert job.field is not None
    if job.counts is not None and (found := hash_of(job.field)) != job.counts:
        raise DataError(f"the counts of {job.field} are {found[:12]} here and {job.counts[:12]} there")
    told = told_of(job.calendar, job.place)
    return counts_for(job.field, job.grid, load_config(find_model(job.model)), job.first_day, told)


def hash_of(url: str) -> str:
    """The SHA-256 of a file or of what a URL gives."""
    with fsspec.open(url, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


@functools.lru_cache(maxsize=4)
def fingerprint(model: str | None) -> str:
    """A hash of a saved network, of its weights and its configuration, wherever it lies."""
    name = find_model(model)
    config = load_config(name)
    kept = {key: value for key, value in config.to_dict().items() if key not in NOT_OF_THE_WEIGHTS}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode())
    network, _ = load_saved(name, config=config)
    for key, tensor in sorted(network.state_dict().items()):
        digest.update(key.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Within, torch uses one thread: a process uses one core, and sums are taken in one order on all machines."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
