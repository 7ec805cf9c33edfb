"""Generated cities: made-up people with the rhythm and the statistics of real ones, for the demo and for scale.

A person has a home and, mostly, a work place, drawn from the city's centres; works on working days; and goes out.
Where to is exploration and preferential return: with probability rho S^-gamma a new place (S: places known so far),
at a distance with a heavy tail, else a known place in proportion to the visits paid to it (Song, Koren, Wang and
Barabasi, "Modelling the scaling properties of human mobility", Nature Physics 6, 2010). Only some slots are
observed, and what is observed jitters around the place.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import numpy as np
import pyarrow as pa
import pyarrow.csv
from tqdm.auto import tqdm

from ..model.records import MASKED
from ..model.spacetime import Grid
from .editions import Edition, get_edition
from .errors import DataError
from .files import open_aside

# City -> centres, and their spread over the grid (standard deviation in cells); C is the compact one.
LAYOUTS = {"A": (7, 26.0), "B": (5, 22.0), "C": (3, 11.0), "D": (6, 24.0), "task1": (7, 26.0), "task2": (7, 26.0)}
RHO, GAMMA = 0.6, 0.21  # of exploration; values of the paper
MEAN_RECORDS = {"humob2023": 1115, "humob2024": 1115, "humob2025": 600}
FEWEST_RECORDS, MOST_RECORDS = 0.5, 3.1  # of a user, in shares of the mean
SPREAD_OF_RECORDS = 0.38  # standard deviation of the logarithm of a user's records
USERS_A_CHUNK = 500
JITTER = 3.0  # how many cells around a place a person is seen in, about
MAX_PLACES = 400

# Share of the slots that is observed, by half-hour: a tenth at night, four tenths in the day.
OBSERVED_SHARE = np.interp(np.arange(48), [0, 4, 9, 13, 15, 36, 41, 47], [0.16, 0.1, 0.1, 0.26, 0.4, 0.42, 0.34, 0.19])


def synthesize(
    city: str,
    users: int,
    *,
    seed: int = 42,
    output_dir: str | Path,
    edition: str = "humob2024",
    masked: int = 0,
    progress: bool = False,
) -> Path:
    """Write a generated city in the format and under the file name of an edition.

    A person depends on the city's name, the seed and the uid alone: the same call with `masked=0` into another folder
    gives the truth of the masked users, and a city of more users begins with the same people.

    Args:
        city: A, B, C or D (task1 or task2 in humob2023); its centres differ from those of the others.
        users: how many people.
        seed: of the city and of its people.
        output_dir: folder of the file; made if it is missing.
        edition: humob2023, humob2024 or humob2025.
        masked: so many of the last users have x = y = 999 from the edition's cut day on.
        progress: show a progress bar.

    Returns:
        The file that was written.

    Raises:
        DataError: an unknown city or edition, no user, or more masked users than users.
    """
    rules = get_edition(edition)
    if city not in rules.files:
        raise DataError(f"edition {edition} has no city {city!r}; its cities are {', '.join(rules.files)}")
    if users < 1 or not 0 <= masked <= users:
        raise DataError(f"{users} users of whom {masked} masked cannot be generated: ask for 0 <= masked <= users")
    path = Path(output_dir) / f"{_file_name(rules, city, masked)}.csv.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    options = pa.csv.WriteOptions(include_header=False)
    with (
        open_aside(path, "wb", compresslevel=1) as file,
        tqdm(total=users, unit="users", disable=not progress) as bar,
    ):
        file.write(b"uid,d,t,x,y\n")
        for columns in generate(city, users, seed=seed, edition=edition, masked=masked):
            text = pa.BufferOutputStream()
            pa.csv.write_csv(pa.table(columns), text, options)
            file.write(text.getvalue())
            bar.update(len(np.unique(columns["uid"])))
    return path


def generate(
    city: str, users: int, *, seed: int = 42, edition: str = "humob2024", masked: int = 0
) -> Iterator[dict[str, np.ndarray]]:
    """The records of a generated city, some hundred users at a time: columns uid, d, t, x, y, all int32."""
    rules = get_edition(edition)
    calendar, grid = rules.calendar, Grid()
    days = np.arange(calendar.first_day, calendar.first_day + calendar.num_days)
    offs = np.array([calendar.is_day_off(int(day)) for day in days])
    centres = _centres(city, seed, grid)
    first_uid = 1 if calendar.first_day else 0
    city_seed = zlib.crc32(f"{city}/{seed}".encode())
    share = OBSERVED_SHARE * (MEAN_RECORDS[edition] / (OBSERVED_SHARE.sum() * len(days)))

    def chunk(first: int) -> dict[str, np.ndarray]:
        last = min(first + USERS_A_CHUNK, users)
        uid, day, slot, x, y = _people(first, last, city_seed, offs, centres, share, grid.width, grid.height)
        hidden = (uid >= users - masked) & (days[day] >= rules.cut_day)
        x[hidden] = y[hidden] = MASKED
        return {"uid": uid + first_uid, "d": days[day].astype(np.int32), "t": slot, "x": x, "y": y}

    starts = list(range(0, users, USERS_A_CHUNK))
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(chunk, first) for first in starts[:3]]
        for index in range(len(starts)):
            if index + 3 < len(starts):
                waiting.append(pool.submit(chunk, starts[index + 3]))
            yield waiting.pop(0).result()


def _file_name(edition: Edition, city: str, masked: int) -> str:
    """The name for a city with its truth, or for one that asks for records."""
    names = edition.files[city]
    asking = [name for name in names if "challenge" in name or "kotae" in name]
    return asking[0] if masked and asking else names[0]


def _centres(city: str, seed: int, grid: Grid) -> np.ndarray:
    """[centres, 4] column, row, spread of homes in cells and share of the people."""
    count, spread = LAYOUTS[city]
    random = np.random.default_rng([zlib.crc32(city.encode()), seed])
    middle = np.array([grid.width, grid.height]) / 2 + random.normal(0, 8, 2)
    place = middle + random.normal(0, spread, (count, 2))
    share = 1 / np.arange(1, count + 1)
    return np.column_stack([place, random.uniform(4, 12, count), share / share.sum()])


@numba.njit(nogil=True, cache=True)
def _people(first, last, city_seed, offs, centres, share, width, height):
    """Records of the users first .. last - 1 in (uid, day, slot) order: five arrays [records] int32."""
    size = (last - first) * len(offs) * 48
    uid, day, slot = np.empty(size, np.int32), np.empty(size, np.int32), np.empty(size, np.int32)
    x, y = np.empty(size, np.int32), np.empty(size, np.int32)
    count = 0
    places = np.empty((MAX_PLACES, 2))
    visits = np.empty(MAX_PLACES)
    plan = np.empty((48, 2))
    stay = np.empty(48, np.int64)
    for user in range(first, last):
        np.random.seed((city_seed + 7919 * user) % 2**32)
        start = count
        factor = np.exp(np.random.normal(-(SPREAD_OF_RECORDS**2) / 2, SPREAD_OF_RECORDS))
        factor = min(max(factor, FEWEST_RECORDS), MOST_RECORDS)
        places[0] = _place_of_a_centre(centres, 1.0)
        places[1] = _work_place(centres, places[0])
        visits[0], visits[1] = 2.0, 2.0
        known = 2
        works = np.random.random() < 0.85
        leaves = np.random.normal(17, 2)
        returns = leaves + np.random.normal(19, 2)
        goes_out = np.random.uniform(0.3, 1.0)
        wide = np.random.uniform(0.5, 1.0)  # how much this person's records jitter
        for index in range(len(offs)):
            # The day: where the person stays in each slot. A slot between two stays lies on the way.
            for t in range(48):
                stay[t] = 0
            if works and not offs[index] and np.random.random() < 0.93:
                begin = _slot(leaves + np.random.normal(0, 1))
                end = _slot(returns + np.random.normal(0, 2))
                for t in range(begin, end):
                    stay[t] = 1
                if np.random.random() < goes_out:
                    known, there = _outing(places, visits, known, places[1])
                    lunch = np.random.randint(23, 27)
                    for t in range(lunch, min(lunch + np.random.randint(1, 4), 48)):
                        stay[t] = there
                if np.random.random() < goes_out:
                    known, there = _outing(places, visits, known, places[1])
                    for t in range(end, min(end + np.random.randint(1, 7), 48)):
                        stay[t] = there
            else:
                for _ in range(np.random.poisson(1.5 + 3 * goes_out)):
                    known, there = _outing(places, visits, known, places[0])
                    begin = np.random.randint(17, 40)
                    for t in range(begin, min(begin + np.random.randint(2, 9), 48)):
                        stay[t] = there
            for t in range(48):
                plan[t] = places[stay[t]]
            for t in range(1, 48):
                if stay[t] != stay[t - 1]:
                    part = np.random.random()
                    plan[t] = part * places[stay[t]] + (1 - part) * places[stay[t - 1]]
            for t in range(48):
                if np.random.random() >= share[t] * factor:
                    continue
                # A place has its own few cells around it, the further the rarer.
                rank = int(np.random.exponential(JITTER * wide))
                turn = (user * 31 + stay[t] * 17 + rank * 101) * 0.6180339887 % 1 * 2 * np.pi
                reach = 0.65 * rank if rank < 3 else 1.1 * rank - 1.5
                uid[count], day[count], slot[count] = user, index, t
                x[count] = min(max(int(np.round(plan[t, 0] + reach * np.cos(turn))), 1), width)
                y[count] = min(max(int(np.round(plan[t, 1] + reach * np.sin(turn))), 1), height)
                count += 1
        if count == start:  # a person without a record would be no row of the file
            uid[count], day[count], slot[count] = user, 0, 24
            x[count] = min(max(int(np.round(places[0, 0])), 1), width)
            y[count] = min(max(int(np.round(places[0, 1])), 1), height)
            count += 1
    return uid[:count].copy(), day[:count].copy(), slot[:count].copy(), x[:count].copy(), y[:count].copy()


@numba.njit(nogil=True, cache=True)
def _slot(time):
    return min(max(int(np.round(time)), 0), 47)


@numba.njit(nogil=True, cache=True)
def _place_of_a_centre(centres, tightness):
    """A point (column, row) near one of the centres, drawn by their shares."""
    left = np.random.random()
    chosen = 0
    while left > centres[chosen, 3] and chosen < len(centres) - 1:
        left -= centres[chosen, 3]
        chosen += 1
    spread = centres[chosen, 2] * tightness
    return np.array([np.random.normal(centres[chosen, 0], spread), np.random.normal(centres[chosen, 1], spread)])


@numba.njit(nogil=True, cache=True)
def _work_place(centres, home):
    """The best of a few places near a centre: close to home, but not always."""
    best, nearest = home, np.inf
    for _ in range(3):
        place = _place_of_a_centre(centres, 0.5)
        far = np.sqrt(((place - home) ** 2).sum()) * np.random.random()
        if far < nearest:
            best, nearest = place, far
    return best


@numba.njit(nogil=True, cache=True)
def _outing(places, visits, known, origin):
    """Exploration or preferential return: the places known, and the index of the one that is visited."""
    if known < MAX_PLACES and np.random.random() < RHO * known**-GAMMA:
        jump = min(1.2 * np.random.random() ** (-1 / 0.55), 80.0)
        turn = 2 * np.pi * np.random.random()
        places[known, 0] = np.round(origin[0] + jump * np.cos(turn))
        places[known, 1] = np.round(origin[1] + jump * np.sin(turn))
        visits[known] = 1.0
        return known + 1, known
    left = np.random.random() * visits[:known].sum()
    chosen = 0
    while left > visits[chosen] and chosen < known - 1:
        left -= visits[chosen]
        chosen += 1
    visits[chosen] += 1
    return known, chosen
