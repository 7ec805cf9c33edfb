"""Statistics of a city's records, and what is known of the real cities: by them generated cities are judged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

CUT_DAY, SLOTS = 60, 48  # of the real cities of 2024


@dataclass(frozen=True)
class Target:
    """A statistic: what it is, its figure in the real cities of 2024, and the range in which a test wants it."""

    text: str
    real: str
    low: float
    high: float


TARGETS = {
    "records_a_user": Target("records a user, mean", "1,115", 1050, 1200),
    "fewest_records": Target("records of the user with the fewest", "584", 300, 700),
    "most_records": Target("records of the user with the most", "3,497", 2000, 3600),
    "missing": Target("share of slots without a record", "0.69", 0.65, 0.73),
    "share_night": Target("share of slots with a record at night (t 4-9)", "about 0.11", 0.08, 0.14),
    "share_day": Target("share of slots with a record by day (t 15-36)", "0.40-0.43", 0.37, 0.46),
    "same_cell": Target("of two consecutive slots with records: same cell", "0.18-0.24", 0.18, 0.24),
    "within_one_cell": Target("the same: within one cell of each other", "0.44-0.51", 0.44, 0.51),
    "distinct_cells": Target("distinct cells a user, median", "144", 125, 165),
    "revisits": Target("records of days 60-74 in a cell of the user's first 60 days", "about 0.85", 0.82, 0.92),
}


def statistics(records: pd.DataFrame) -> dict[str, float]:
    """The statistics of `TARGETS`.

    Args:
        records: columns uid, d, t, x, y in the order of uid, d and t, without masked cells; of the days of 2024.
    """
    users = records.groupby("uid")
    counts = users.size()
    days = records["d"].nunique()
    share = records.groupby("t").size() / (len(counts) * days)
    time = records["d"] * SLOTS + records["t"]
    consecutive = (np.diff(records["uid"]) == 0) & (np.diff(time) == 1)
    dx, dy = np.abs(np.diff(records["x"])), np.abs(np.diff(records["y"]))
    cells = records.assign(cell=records["x"] * 10_000 + records["y"])
    seen = cells.loc[cells["d"] < CUT_DAY, ["uid", "cell"]].drop_duplicates().assign(seen=1)
    late = cells[cells["d"] >= CUT_DAY].merge(seen, how="left", on=["uid", "cell"])
    return {
        "records_a_user": float(counts.mean()),
        "fewest_records": float(counts.min()),
        "most_records": float(counts.max()),
        "missing": float(1 - len(records) / (len(counts) * days * SLOTS)),
        "share_night": float(share[4:10].mean()),
        "share_day": float(share[15:37].mean()),
        "same_cell": float(((dx + dy) == 0)[consecutive].mean()),
        "within_one_cell": float((np.maximum(dx, dy) <= 1)[consecutive].mean()),
        "distinct_cells": float(cells.groupby("uid")["cell"].nunique().median()),
        "revisits": float(late["seen"].notna().mean()),
    }
