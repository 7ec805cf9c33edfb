"""The processor that is saved beside a model: from records to the model's inputs, and from cells back to x and y."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, ProcessorMixin

from .configuration_stmoe_bert import STMoEBertConfig
from .records import INPUT_COLUMNS, NO_LABEL, RECORD_COLUMNS, find_masked
from .spacetime import Calendar, Grid


class MobilityProcessor(ProcessorMixin):
    """Turns trajectories into the `inputs` of a model: grid, calendar, feature columns and padding.

    Args:
        grid_width, grid_height, cell_km: the grid; x runs 1..width, y 1..height.
        first_day, num_days, num_slots: the days of the data and the slots of a day.
        first_weekday: weekday of the first day, Monday 0 .. Sunday 6.
        holidays: days that have the rhythm of a Sunday.
    """

    model_input_names = ("inputs", "attention_mask")  # type: ignore[assignment]

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
            windows: each with `inputs` [T, 6], `labels` [T] or none, and `city`, the number of its city, or none.

        Returns:
            `inputs` [B, T, 6], `attention_mask` [B, T], and `labels` [B, T] and `city` [B] if the windows have them.
        """
        rows, width = len(windows), max(len(window["inputs"]) for window in windows)
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
        if "labels" in windows[0]:
            batch["labels"] = torch.from_numpy(labels)
        if "city" in windows[0]:
            batch["city"] = torch.tensor([int(window["city"]) for window in windows])
        if "asked_alone" in windows[0]:
            batch["asked_alone"] = torch.tensor([bool(window["asked_alone"]) for window in windows])
        return batch

    def __call__(self, trajectories: Any, return_tensors: str | None = "pt") -> BatchFeature:
        """Trajectories of one or many people -> a batch of inputs.

        Args:
            trajectories: a DataFrame with columns uid, d, t, x, y (a row of the batch for each uid, in the order of
                appearance); or rows of an Arrow dataset, mappings with `day`, `slot` and `cell`; or plain lists of
                (d, t, x, y), one list a person. x and y are 999 or missing where the cell is asked for.
            return_tensors: "pt" or "np".

        Returns:
            `inputs` [B, T, 6] and `attention_mask` [B, T]. Records are put in time order.

        Raises:
            ValueError: a day, slot or cell out of range, or two records of a person in one slot.
        """
        people = self._trajectories(trajectories)
        if not people:
            raise ValueError("there is no trajectory to process")
        batch = self.pad([{"inputs": self._checked(name, *columns)} for name, *columns in people])
        if return_tensors == "np":
            return BatchFeature({name: tensor.numpy() for name, tensor in batch.items()})
        return BatchFeature(batch)

    def cells_to_xy(self, cells: Any) -> tuple[Any, Any]:
        """x and y (1-based) of cell ids."""
        return self.grid.xy(cells)

    def _trajectories(self, trajectories: Any) -> list[tuple]:
        """(name, day, slot, cell) of each person, in any of the accepted forms."""
        if hasattr(trajectories, "groupby"):
            missing = [name for name in RECORD_COLUMNS if name not in trajectories.columns]
            if missing:
                raise ValueError(f"the table lacks the columns {missing}; it needs uid, d, t, x, y")
            return [
                (f"uid {uid}", *self._from_xy(person[["d", "t", "x", "y"]].to_numpy(float, na_value=np.nan), uid))
                for uid, person in trajectories.groupby("uid", sort=False)
            ]
        if isinstance(trajectories, Mapping):
            trajectories = [trajectories]
        people: list[tuple] = []
        for number, person in enumerate(trajectories):
            if isinstance(person, Mapping):
                name = f"uid {person['uid']}" if "uid" in person else f"trajectory {number}"
                people.append((name, *(np.asarray(person[key], np.int64) for key in ("day", "slot", "cell"))))
            else:
                rows = np.array([[np.nan if v is None else v for v in record] for record in person], float)
                people.append((f"trajectory {number}", *self._from_xy(rows.reshape(-1, 4), number)))
        return people

    def _from_xy(self, rows: np.ndarray, name: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Columns d, t, x, y [T, 4], nan or 999 where asked for -> day, slot, cell [T]."""
        day, slot, x, y = rows.T
        if np.isnan(day).any() or np.isnan(slot).any():
            raise ValueError(f"uid {name}: a record has no day or no slot")
        masked, half = find_masked(x, y, self.grid)
        if half.any():
            first = int(np.argmax(half))
            raise ValueError(f"uid {name}, day {day[first]:g}, slot {slot[first]:g}: only one of x and y is masked")
        outside = ~masked & ~((x >= 1) & (x <= self.grid_width) & (y >= 1) & (y <= self.grid_height))
        if outside.any():
            first = int(np.argmax(outside))
            raise ValueError(
                f"uid {name}, day {day[first]:g}, slot {slot[first]:g}: cell ({x[first]:g}, {y[first]:g}) lies outside"
                f" the grid of {self.grid_width} x {self.grid_height}"
            )
        cell = np.where(masked, self.grid.mask_id, self.grid.cell(np.nan_to_num(x), np.nan_to_num(y)))
        for values, what in ((day, "day"), (slot, "slot"), (cell, "cell")):
            if (values % 1).any():
                raise ValueError(f"uid {name}: {what} {values[np.argmax(values % 1 != 0)]:g} is no whole number")
        return day.astype(np.int64), slot.astype(np.int64), cell.astype(np.int64)

    def _checked(self, name: str, day: np.ndarray, slot: np.ndarray, cell: np.ndarray) -> np.ndarray:
        """`features` of one person in time order, after a check of the ranges."""
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
        return self.features(day, slot, cell)


__all__ = ["MobilityProcessor"]
