"""How near forecast crowds or flows come to the true ones, and to "as last week".

- common part of commuters: 2 sum min(a, b) / (sum a + sum b), 1 where both are alike, 0 where nothing is common
  (Lenormand et al., "A universal model of commuting networks", PLoS ONE 2012);
- Jensen-Shannon divergence of the two densities of an hour, base 2, 0 to 1, mean over the hours;
- error of the totals: the mean over the hours of how far the sums are apart, by the mean of the true sums.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from .places import KEYS, Places

DAYS_A_WEEK = 7


def common_part(a: np.ndarray, b: np.ndarray) -> float:
    """The common part of commuters of two lists of counts; nan where both are empty."""
    total = a.sum() + b.sum()
    return float(2 * np.minimum(a, b).sum() / total) if total > 0 else float("nan")


def jensen_shannon(a: np.ndarray, b: np.ndarray) -> float:
    """The Jensen-Shannon divergence, base 2, of two lists of counts; nan where one of them is empty."""
    if a.sum() <= 0 or b.sum() <= 0:
        return float("nan")
    p, q = a / a.sum(), b / b.sum()
    middle = (p + q) / 2

    def divergence(one: np.ndarray) -> float:
        positive = one > 0
        return float((one[positive] * np.log2(one[positive] / middle[positive])).sum())

    return max(0.0, (divergence(p) + divergence(q)) / 2)  # rounding may leave a hair below 0


def compare(forecast: pd.DataFrame, truth: pd.DataFrame, keys: list[str], value: str) -> dict[str, float]:
    """Scores of a table of crowds or flows against the true one.

    Args:
        forecast, truth: columns `keys` and `value`, with nothing left out; what is missing is 0.
        keys: d, hour (or only d) and the areas.
        value: people or moves.

    Returns:
        common_part, jensen_shannon, total_error (see above).
    """
    time = [key for key in keys if key in ("d", "hour")]
    both = truth[[*keys, value]].merge(forecast[[*keys, value]], how="outer", on=keys, suffixes=("_true", ""))
    both = both.fillna({value: 0.0, f"{value}_true": 0.0})
    divergences, differences, totals = [], [], []
    for _, part in both.groupby(time):
        ours, theirs = part[value].to_numpy(), part[f"{value}_true"].to_numpy()
        divergences.append(jensen_shannon(ours, theirs))
        differences.append(abs(ours.sum() - theirs.sum()))
        totals.append(theirs.sum())
    known = np.array(divergences)[~np.isnan(divergences)]
    return {
        "common_part": common_part(both[value].to_numpy(), both[f"{value}_true"].to_numpy()),
        "jensen_shannon": float(known.mean()) if len(known) else float("nan"),
        "total_error": float(np.mean(differences) / np.mean(totals)) if sum(totals) > 0 else float("nan"),
    }


def as_last_week(records: pd.DataFrame, days: np.ndarray) -> pd.DataFrame:
    """The records of the same people on the same weekday of the last whole week before the first of these days.

    Args:
        records: columns uid, d, t, x, y, of any days.
        days: that are forecast; each gets the day 7, 14, ... days before it that is the last one before all of them.

    Returns:
        Records with the days that they stand for; those of days that the table lacks are missing.
    """
    first = int(np.min(days))
    weeks = (np.asarray(days) - first) // DAYS_A_WEEK + 1
    parts = [
        records[records["d"] == day - DAYS_A_WEEK * week].assign(d=day)
        for day, week in zip(np.asarray(days).tolist(), weeks.tolist(), strict=True)
    ]
    return pd.concat(parts, ignore_index=True)


def where_truth_is_known(forecast: Places, truth: pd.DataFrame) -> Places:
    """The forecast of the slots in which people were seen: of others the truth is not known."""
    return forecast.only(truth[KEYS])
