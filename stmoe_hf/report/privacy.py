"""Counts in which nobody can be found: what fewer than K people make up is left out, and so is what would tell it.

The guarantee of `publishable`, for the one file that is published:

1. Every number in it is made up by at least K people, each of whom counts for at most 1 in it.
2. Whoever knows how many people a margin has in truth (all people of an hour; all who leave an area, or arrive in
   one) and subtracts what is published of it gets 0 or at least K people. Where leaving out the small numbers would
   leave a rest of fewer, the smallest of the others are left out too, if need be all.
3. Totals are sums of what is published, and how much was left out is not said.

What it does not cover: two files of the same people at two divisions (cells and squares) or with two K, which can be
subtracted from each other. Publish one. People are counted before an expansion factor is applied.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

ROUNDING = 1e-9


def publishable(
    parts: pd.DataFrame, keys: list[str], margins: list[list[str]], hidden: np.ndarray, min_people: int
) -> pd.DataFrame:
    """Which numbers may be published.

    Args:
        parts: what each person adds to each number: column uid, the columns `keys`, weight. A number is a combination
            of keys and the sum of its weights.
        keys: that tell the numbers apart.
        margins: lists of keys; the totals that others may know are those of all parts alike in these keys.
        hidden: [rows] parts that are never published (people elsewhere, people who stay) but belong to the totals.
        min_people: K; with 1 or less everything is published.

    Returns:
        keys, value (the sum), people (the same with nobody counting for more than 1), of the numbers that may be
        published, in the order of the keys.
    """
    person = parts.groupby(["uid", *keys], as_index=False, sort=False).agg(weight=("weight", "sum"))
    number, table = _numbered(person, keys)
    table["value"] = np.bincount(number, person["weight"], len(table))
    table["people"] = np.bincount(number, person["weight"].clip(upper=1), len(table))
    never = np.zeros(len(table), bool)
    never[_lookup(parts.loc[hidden, keys], table, keys)] = True
    kept = ~never & (table["value"].to_numpy() > ROUNDING)
    if min_people > 1:
        kept &= table["people"].to_numpy() >= min_people - ROUNDING
        _leave_out_what_tells(person, number, table, kept, margins, min_people)
    return table[kept].sort_values(keys, ignore_index=True)


def _leave_out_what_tells(
    person: pd.DataFrame,
    number: np.ndarray,
    table: pd.DataFrame,
    kept: np.ndarray,
    margins: list[list[str]],
    min_people: int,
) -> None:
    """Leave out (in `kept`) the smallest numbers of every margin whose rest is of fewer people, until none is."""
    people = table["people"].to_numpy()
    groups = [_numbered(table, margin)[0] for margin in margins]
    uid = person["uid"].factorize()[0]
    changed = True
    while changed:
        changed = False
        for group in groups:
            rest = _rest(uid, person["weight"].to_numpy(), group[number], ~kept[number])
            unsafe = (rest > ROUNDING) & (rest < min_people - ROUNDING)
            candidates = np.flatnonzero(kept & unsafe[group])
            if len(candidates):
                order = candidates[np.lexsort((people[candidates], group[candidates]))]
                first = np.append(True, np.diff(group[order]) != 0)
                kept[order[first]] = False
                changed = True


def _rest(uid: np.ndarray, weight: np.ndarray, group: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """[groups] people in what is left out of each group; nobody counts for more than 1."""
    pairs = pd.DataFrame({"uid": uid[hidden], "group": group[hidden], "weight": weight[hidden]})
    each = pairs.groupby(["uid", "group"], sort=False)["weight"].sum().clip(upper=1)
    return np.bincount(each.index.get_level_values("group"), each, int(group.max()) + 1 if len(group) else 0)


def _numbered(table: pd.DataFrame, keys: list[str]) -> tuple[np.ndarray, pd.DataFrame]:
    """The number [rows] of each combination of keys, and the table of the combinations."""
    grouped = table.groupby(keys, sort=False)
    return grouped.ngroup().to_numpy(), table[keys].drop_duplicates().reset_index(drop=True)


def _lookup(rows: pd.DataFrame, table: pd.DataFrame, keys: list[str]) -> np.ndarray:
    """The row of the table of each of these combinations."""
    numbered = table[keys].assign(row=np.arange(len(table)))
    return rows.drop_duplicates().merge(numbered, on=keys)["row"].to_numpy()
