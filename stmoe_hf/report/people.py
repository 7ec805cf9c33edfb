"""What people are called where they are shown: by uid, by the names of their data, or by numbers drawn anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

USERS = "users.csv"
# What an anonymous table says: any other column of a file could name somebody.
TOLD = {"uid", "d", "t", "x", "y", "rank", "sample", "probability", "latitude", "longitude", "time"}
TOLD |= {"kind", "true_x", "true_y", "error_km"}


def with_names(table: pd.DataFrame, data: str | Path) -> pd.DataFrame:
    """The table with what the data's users.csv knows beside it, where there is one: names, first dates."""
    folder = Path(data) if Path(data).is_dir() else Path(data).parent
    if not (folder / USERS).is_file():
        return table
    users = pd.read_csv(folder / USERS, dtype={"user": str})
    return table.merge(users[["uid", *users.columns.difference(table.columns, sort=False)]], how="left", on="uid")


def new_numbers(uids: np.ndarray) -> dict[int, int]:
    """uid -> 1, 2, ... in an order that is drawn, is the same for nobody twice, and is kept nowhere."""
    order = np.random.default_rng().permutation(np.unique(uids))
    return {int(uid): number for number, uid in enumerate(order.tolist(), 1)}


def anonymous(table: pd.DataFrame) -> pd.DataFrame:
    """The table with new numbers in place of uids, in their order, and of the other columns only those of `TOLD`."""
    numbers = new_numbers(table["uid"].to_numpy())
    kept = table[[name for name in table.columns if name in TOLD]]
    return kept.assign(uid=kept["uid"].map(numbers)).sort_values("uid", kind="stable", ignore_index=True)
