"""A handful of made-up people with routines, written as a city's file: the data of the tests."""

from pathlib import Path

import numpy as np
import pandas as pd


def people(users: int = 12, seed: int = 0, masked: int = 0, days: int = 75) -> pd.DataFrame:
    """Records of people who sleep at home and work elsewhere on working days, with some noise.

    The last `masked` of them have x = y = 999 from day 60 on.
    """
    random = np.random.default_rng(seed)
    parts = []
    for uid in range(users):
        home, work = random.integers(60, 140, (2, 2))
        time = np.sort(random.choice(days * 48, random.integers(150, 300), replace=False))
        day, slot = time // 48, time % 48
        at_work = (day % 7 < 6) & (day % 7 > 0) & (slot >= 18) & (slot < 36)
        place = np.where(at_work[:, None], work, home) + random.integers(-1, 2, (len(time), 2))
        if uid >= users - masked:
            place[day >= 60] = 999
        parts.append(pd.DataFrame({"uid": uid, "d": day, "t": slot, "x": place[:, 0], "y": place[:, 1]}))
    return pd.concat(parts, ignore_index=True)


def write_city(folder: Path, city: str = "B", **options) -> Path:
    """A file of a city of 2024; returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    people(**options).to_csv(folder / f"city{city}_challengedata.csv.gz", index=False)
    return folder
