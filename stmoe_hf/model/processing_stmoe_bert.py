"""The processor that is saved beside a model: from records to the model's inputs, and from cells back to x and y."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import BatchFeature, ProcessorMixin

from .configuration_stmoe_bert import STMoEBertConfig
from .records import FIELD_COUNTS, INPUT_COLUMNS, NO_LABEL, POI_COUNTS, find_masked
from .spacetime import Calendar, Grid
from .tables import record_columns, shown, to_table, whole

CELL_ROW = ("day", "slot", "cell")  # of a person's row in a prepared city
XY_ROW = ("d", "t", "x", "y")  # of a person's row of records, and of plain lists


class NoTokens:
    """What transformers' Trainer looks for in every processor: the special tokens of a text. There are none."""

    eos_token_id = bos_token_id = pad_token_id = None

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """There is nothing to save; a pipeline asks for it."""


class MobilityProcessor(ProcessorMixin):
    """Turns trajectories into the `inputs` of a model: grid, calendar, feature columns and padding.

    Args:
        grid_width, grid_height, cell_km: the grid; x runs 1..width, y 1..height.
        first_day, num_days, num_slots: the days of the data and the slots of a day.
        first_weekday: weekday of the first day, Monday 0 .. Sunday 6.
        holidays: days that have the rhythm of a Sunday.
    """

    model_input_names = ("inputs", "attention_mask")  # type: ignore[assignment]
    tokenizer = NoTokens()

    def __init__(
        self,
        grid_width: int = 200,
        grid_height: int = 200,
        cell_km: float = 0.5,
        first_day: int = 0,
        num_days: int = 75,
        num_slots: int = 48,
        first_weekday: int = 6,
        holidays: Sequence[int] = (1, 8, 29, 37, 50),
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.grid_width, self.grid_height, self.cell_km = grid_width, grid_height, cell_km
        self.first_day, self.num_days, self.num_slots = first_day, num_days, num_slots
        self.first_weekday, self.holidays = first_weekday, [int(day) for day in holidays]

    @classmethod
    def get_processor_dict(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> tuple[dict, dict]:
        """What was saved; refused where nothing was, since another grid or calendar would pass unseen."""
        values, kwargs = super().get_processor_dict(pretrained_model_name_or_path, **kwargs)
        if "grid_width" not in values:
            raise ValueError(
                f"{pretrained_model_name_or_path} has no processor_config.json that says which grid and calendar its"
                " model was made for; save one with MobilityProcessor.for_data(grid, calendar).save_pretrained, or"
                " give processor="
            )
        return values, kwargs

    @classmethod
    def for_data(cls, grid: Grid, calendar: Calendar) -> "MobilityProcessor":
        """The processor of a grid and a calendar."""
        return cls(
            grid.width,
            grid.height,
            grid.cell_km,
            calendar.first_day,
            calendar.num_days,
            calendar.num_slots,
            calendar.first_weekday,
            calendar.holidays,
        )

    @property
    def grid(self) -> Grid:
        return Grid(self.grid_width, self.grid_height, self.cell_km)

    @property
    def calendar(self) -> Calendar:
        return Calendar(self.first_day, self.num_days, self.num_slots, self.first_weekday, tuple(self.holidays))

    def refuse_other_model(self, config: STMoEBertConfig) -> None:
        """Raise ValueError, naming what differs, if a model has another grid or calendar than this processor."""
        pairs = [
            (name, getattr(self, name), getattr(config, name))
            for name in ("grid_width", "grid_height", "cell_km", "num_days", "num_slots")
        ]
        differ = [
            f"{name} is {ours} in the data and {theirs} in the model" for name, ours, theirs in pairs if ours != theirs
        ]
        if differ:
            raise ValueError("the model was made for another grid or calendar: " + "; ".join(differ))

    def features(self, day: np.ndarray, slot: np.ndarray, cell: np.ndarray) -> np.ndarray:
        """The feature columns of one trajectory.

        Args:
            day, slot, cell: [T] integers in time order; days as in the data, the cell `grid.mask_id` where asked for.

        Returns:
            [T, 6] int64, columns as in `INPUT_COLUMNS`.
        """
        columns = np.empty((len(day), len(INPUT_COLUMNS)), np.int64)
        calendar = self.calendar
        days = calendar.first_day + np.arange(calendar.num_days)
        index = np.asarray(day, np.int64) - self.first_day
        columns[:, 0] = index
        columns[:, 1] = slot
        columns[:, 2] = calendar.weekday(days)[index]
        columns[:, 3] = calendar.is_day_off(days)[index]
        time = index * self.num_slots + columns[:, 1]
        columns[:, 4] = np.diff(time, prepend=time[:1])
        columns[:, 5] = cell
        return columns

    def pad(self, windows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, torch.Tensor]:
        """Windows of different lengths -> one batch.

        Args:
            windows: each with `inputs` [T, 6], `labels` [T] or none, `city`, the number of its city, or none, and
                `field_cells` [N] and `field_counts` [N, F], what other people are counted in, or none;
                with them `field_poi` [N, P], what points of interest are there, or none.

        Returns:
            `inputs` [B, T, 6], `attention_mask` [B, T], and `labels` [B, T], `city` [B], `field_cells` [B, N] and
            `field_counts` [B, N, F] if the windows have them, `field_poi` [B, N, P] if one has it. No windows give an
            empty batch, which the network takes.
        """
        rows, width = len(windows), max((len(window["inputs"]) for window in windows), default=0)
        inputs = np.zeros((rows, width, len(INPUT_COLUMNS)), np.int64)
        inputs[:, :, -1] = self.grid.pad_id
        attention_mask = np.zeros((rows, width), np.int64)
        labels = np.full((rows, width), NO_LABEL, np.int64)
        for row, window in enumerate(windows):
            length = len(window["inputs"])
            inputs[row, :length] = window["inputs"]
            attention_mask[row, :length] = 1
            if "labels" in window:
                labels[row, :length] = window["labels"]
        batch = {"inputs": torch.from_numpy(inputs), "attention_mask": torch.from_numpy(attention_mask)}
        first = windows[0] if rows else {}
        if "labels" in first:
            batch["labels"] = torch.from_numpy(labels)
        if "city" in first:
            batch["city"] = torch.tensor([int(window["city"]) for window in windows])
        if "asked_alone" in first:
            batch["asked_alone"] = torch.tensor([bool(window["asked_alone"]) for window in windows])
        if "field_cells" in first:
            batch |= _pad_field(windows)
        return batch

    def __call__(
        self,
        trajectories: Any,
        return_tensors: str | None = "pt",
        *,
        cut_day: int | None = None,
        labels: Any = None,
    ) -> BatchFeature:
        """Trajectories of one or many people -> a batch of inputs.

        Args:
            trajectories: any table of records uid, d, t, x, y that `tables.to_table` takes, such as a DataFrame, a
                `datasets.Dataset`, its rows or a dict of columns (a row of the batch for each uid, in the order of
                appearance); or rows of people, mappings with lists `day`, `slot`, `cell`, as in a prepared city, or
                `d`, `t`, `x`, `y`; or plain lists of (d, t, x, y), one list a person. x and y are 999 or missing where
                the cell is asked for.
            return_tensors: "pt" or "np".
            cut_day: the cells from this day on are hidden and become the labels, as in training; or
            labels: a table of the true cells, uid, d, t, x, y, of the records that are asked for.

        Returns:
            `inputs` [B, T, 6] and `attention_mask` [B, T], and `labels` [B, T] if they were asked for, -100 where
            there is none. Records are put in time order.

        Raises:
            ValueError: a value that is no whole number, by column, row and value; a day, slot or cell out of range;
                two records of a person in one slot; labels of which none belongs to a record that is asked for.
        """
        if cut_day is not None and labels is not None:
            raise ValueError("give cut_day or labels, not both: each says which cells are the labels")
        people = [(uid, *self._checked(name, *columns)) for name, uid, *columns in self._people(trajectories)]
        if not people:
            raise ValueError("there is no trajectory to process")
        windows = []
        truth = None if labels is None else self._true_cells(labels)
        for uid, day, slot, cell in people:
            window = {}
            if cut_day is not None:
                hidden = (day >= cut_day) & (cell != self.grid.mask_id)
                window["labels"] = np.where(hidden, cell, NO_LABEL)
                cell = np.where(hidden, self.grid.mask_id, cell)
            elif truth is not None:
                asked = cell == self.grid.mask_id
                keys = zip(day.tolist(), slot.tolist(), asked.tolist(), strict=True)
                window["labels"] = np.array([truth.get((uid, d, t), NO_LABEL) if a else NO_LABEL for d, t, a in keys])
            window["inputs"] = self.features(day, slot, cell)
            windows.append(window)
        if "labels" in windows[0] and not any((window["labels"] != NO_LABEL).any() for window in windows):
            what = f"a known cell from day {cut_day} on" if truth is None else "an asked-for record with a label"
            raise ValueError(f"there are no labels: no person has {what}")
        batch = self.pad(windows)
        if return_tensors == "np":
            return BatchFeature({name: tensor.numpy() for name, tensor in batch.items()})
        return BatchFeature(batch)

    def cells_to_xy(self, cells: Any) -> tuple[Any, Any]:
        """x and y (1-based) of cell ids."""
        return self.grid.xy(cells)

    def _people(self, trajectories: Any) -> list[tuple]:
        """(name, uid, day, slot, cell) of each person, in any of the accepted forms; uid is None if there is none."""
        columns = set(getattr(trajectories, "column_names", ()))
        if isinstance(trajectories, Mapping) and _is_person(trajectories):
            trajectories = [trajectories]
        elif set(CELL_ROW) <= columns or (isinstance(trajectories, Sequence) and not len(trajectories)):
            trajectories = list(trajectories)
        if isinstance(trajectories, list | tuple) and all(_is_person(person) for person in trajectories):
            return [self._from_row(number, person) for number, person in enumerate(trajectories)]
        if isinstance(trajectories, list | tuple) and all(_is_list_of_records(person) for person in trajectories):
            return self._from_lists(trajectories)
        return [(f"uid {uid}", uid, *columns) for uid, *columns in self._by_uid(trajectories, "table")]

    def _by_uid(self, table: Any, what: str) -> list[tuple]:
        """(uid, day, slot, cell) of each person of a table, in the order of appearance."""
        records = record_columns(to_table(table), what, missing_cells=True)
        day, slot, cell = self._from_xy(records, "uid " + records["uid"].astype(str))
        code, uids = pd.factorize(records["uid"])
        order = np.argsort(code, kind="stable")
        bounds = np.searchsorted(code[order], np.arange(len(uids) + 1))
        parts = [order[bounds[i] : bounds[i + 1]] for i in range(len(uids))]
        return [(int(uid), day[part], slot[part], cell[part]) for uid, part in zip(uids.tolist(), parts, strict=True)]

    def _from_lists(self, people: Sequence) -> list[tuple]:
        """Of plain lists of (d, t, x, y), of which some may be empty."""
        numbers = np.repeat(np.arange(len(people)), [len(person) for person in people])
        rows = [record for person in people for record in person]
        wrong = next((row for row, record in enumerate(rows) if len(record) != len(XY_ROW)), None)
        if wrong is not None:
            raise ValueError(f"trajectory {numbers[wrong]}: a record is (d, t, x, y), not {shown(rows[wrong])}")
        if not rows:
            empty = np.zeros(0, np.int64)
            return [(f"trajectory {number}", None, empty, empty, empty) for number in range(len(people))]
        table = to_table(rows, XY_ROW)
        found = {uid: columns for uid, *columns in self._by_uid(table.assign(uid=numbers), "list of trajectories")}
        empty = np.zeros(0, np.int64)
        return [
            (f"trajectory {number}", None, *found.get(number, (empty, empty, empty))) for number in range(len(people))
        ]

    def _from_row(self, number: int, person: Mapping) -> tuple:
        """Of a row of a person, a mapping with lists."""
        name = f"uid {person['uid']}" if "uid" in person else f"trajectory {number}"
        uid = person.get("uid")
        keys = CELL_ROW if set(CELL_ROW) <= set(person) else XY_ROW
        lengths = {len(person[key]) for key in keys}
        if len(lengths) > 1:
            raise ValueError(f"{name}: the lists {', '.join(keys)} have different lengths: {sorted(lengths)}")
        if keys == XY_ROW:
            table = pd.DataFrame({key: list(person[key]) for key in keys}, dtype=object).assign(uid=0)
            found = self._by_uid(table, name)
            return (name, uid, *(found[0][1:] if found else [np.zeros(0, np.int64)] * 3))
        columns = []
        for key in keys:
            values, missing, wrong = whole(person[key])
            if (missing | wrong).any():
                row = int(np.argmax(missing | wrong))
                raise ValueError(f"{name}, record {row}: {key} {shown(person[key][row])} is no whole number")
            columns.append(values)
        return (name, uid, *columns)

    def _true_cells(self, labels: Any) -> dict[tuple[int, int, int], int]:
        """(uid, d, t) -> the true cell, of a table of them."""
        found = {}
        for uid, day, slot, cell in self._by_uid(labels, "table of labels"):
            for d, t, c in zip(day.tolist(), slot.tolist(), cell.tolist(), strict=True):
                if c != self.grid.mask_id:
                    found[uid, d, t] = c
        return found

    def _from_xy(self, records: pd.DataFrame, names: pd.Series) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Columns d, t, x, y [n], x and y nan or 999 where asked for -> day, slot, cell [n]."""
        day, slot, x, y = (records[name].to_numpy() for name in XY_ROW)
        masked, half = find_masked(x, y, self.grid)
        outside = ~masked & ~((x >= 1) & (x <= self.grid_width) & (y >= 1) & (y <= self.grid_height))
        for wrong, text in ((half, "only one of x and y is masked: {}, {}"), (outside, "cell ({}, {}) lies outside")):
            if wrong.any():
                row = int(np.argmax(wrong))
                text = text.format(shown(x[row]), shown(y[row]))
                text += f" the grid of {self.grid_width} x {self.grid_height}" if wrong is outside else ""
                raise ValueError(f"{names.iloc[row]}, day {day[row]}, slot {slot[row]}: {text}")
        cell = np.where(masked, self.grid.mask_id, self.grid.cell(np.nan_to_num(x), np.nan_to_num(y)))
        return day, slot, cell.astype(np.int64)

    def _checked(self, name: str, day: np.ndarray, slot: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, ...]:
        """Day, slot and cell [T] of one person in time order, after a check of the ranges."""
        calendar = self.calendar
        for values, what, low, high in (
            (day, "day", calendar.first_day, calendar.last_day),
            (slot, "slot", 0, self.num_slots - 1),
            (cell, "cell", 0, self.grid.mask_id),
        ):
            wrong = (values < low) | (values > high)
            if wrong.any():
                raise ValueError(f"{name}: {what} {values[np.argmax(wrong)]} lies outside {low}..{high}")
        order = np.lexsort((slot, day))
        day, slot, cell = day[order], slot[order], cell[order]
        twice = (np.diff(day) == 0) & (np.diff(slot) == 0)
        if twice.any():
            first = int(np.argmax(twice))
            raise ValueError(f"{name} has two records on day {day[first]}, slot {slot[first]}")
        return day, slot, cell


def _is_person(row: Any) -> bool:
    """Whether this is a mapping with lists of a person's records."""
    if not isinstance(row, Mapping):
        return False
    keys = next((keys for keys in (CELL_ROW, XY_ROW) if set(keys) <= set(row)), None)
    single = "uid" not in row or np.ndim(row["uid"]) == 0
    return keys is not None and single and all(np.ndim(row[key]) == 1 for key in keys)


def _is_list_of_records(person: Any) -> bool:
    if isinstance(person, np.ndarray):
        return person.ndim == 2
    return isinstance(person, list | tuple) and all(isinstance(r, list | tuple | np.ndarray) for r in person)


def _pad_field(windows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, torch.Tensor]:
    """`field_cells` [B, N], -1 behind the last of a window, `field_counts` [B, N, F], `field_poi` if one has it."""
    width = max(len(window["field_cells"]) for window in windows)
    cells = np.full((len(windows), width), -1, np.int64)
    counts = np.zeros((len(windows), width, len(FIELD_COUNTS)), np.float32)
    poi = np.zeros((len(windows), width, len(POI_COUNTS)), np.float32)
    for row, window in enumerate(windows):
        number = len(window["field_cells"])
        cells[row, :number], counts[row, :number] = window["field_cells"], window["field_counts"]
        poi[row, :number] = window.get("field_poi", 0.0)
    told = {"field_cells": torch.from_numpy(cells), "field_counts": torch.from_numpy(counts)}
    return told | {"field_poi": torch.from_numpy(poi)} if any("field_poi" in window for window in windows) else told


# A saved folder carries this code, so that it also loads, with trust_remote_code, where this package is not installed.
MobilityProcessor.register_for_auto_class()

__all__ = ["MobilityProcessor"]
