"""Whose days a model was trained on, as `run.json` keeps it, and a warning where these are predicted.

    "trained_on": [{"city": "humob2024-B", "people": 3735928559, "until": {"60": "3,17-19", "75": "0-2,4-16"}}]

People are told by their uids, and cities by their key or by who is in them (a checksum), since one file may have
several names.
"""

from __future__ import annotations

import json
import logging
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ..data.city import City
from ..data.windows import PredictionWindows

logger = logging.getLogger(__name__)
RECORD = "run.json"


def describe_trained_on(city: City, until: np.ndarray) -> dict[str, Any]:
    """For `run.json`: of a city, each user is trained on before the day `until` [users]."""
    ends = {str(int(end)): _ranges(np.sort(city.uids[until == end])) for end in np.unique(until)}
    return {"city": city.key, "people": _people(city), "until": ends}


def record_of_model(model: str | Path) -> dict[str, Any]:
    """What `run.json` beside a saved model says; empty where there is none."""
    try:
        record = json.loads((Path(model) / RECORD).read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def trained_until(record: dict[str, Any], city: City) -> np.ndarray:
    """The day [users] before which a model was trained on each user of a city; the first day where it was not.

    Args:
        record: `run.json` of the model.
        city: of the users.
    """
    until = np.full(len(city), city.calendar.first_day)
    for part in record.get("trained_on", []):
        if part["city"] == city.key or part["people"] == _people(city):
            for end, ranges in part["until"].items():
                for first, last in _bounds(ranges):
                    some = (city.uids >= first) & (city.uids <= last)
                    until[some] = np.maximum(until[some], int(end))
    return until


def warn_of_days_trained_on(record: dict[str, Any], windows: PredictionWindows) -> int:
    """Say of how many people days are predicted that the model was trained on; returns how many."""
    rows = windows.rows
    seen = trained_until(record, windows.city)[rows] > windows.cut_days[rows]
    if seen.any():
        first = rows[seen][windows.city.uids[rows[seen]].argmin()]
        logger.warning(
            "%d of the %d people to predict, first uid %d from day %d on, were trained on in these days: their scores"
            " say nothing about days to come",
            seen.sum(),
            len(seen),
            windows.city.uids[first],
            windows.cut_days[first],
        )
    return int(seen.sum())


def _people(city: City) -> int:
    return zlib.crc32(city.lengths.tobytes(), zlib.crc32(city.uids.tobytes()))


def _ranges(uids: np.ndarray) -> str:
    """Sorted uids as "3,17-19"."""
    parts = np.split(uids, np.flatnonzero(np.diff(uids) != 1) + 1)
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts if len(part))


def _bounds(ranges: str) -> list[tuple[int, int]]:
    pairs = [part.partition("-") for part in ranges.split(",") if part]
    return [(int(first), int(last or first)) for first, _, last in pairs]
