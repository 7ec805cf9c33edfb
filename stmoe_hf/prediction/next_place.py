"""The place that a person goes to next: ranked places with probabilities, from the order of their visits.

A place is a number: a cell, or an id without geometry. Candidates are the places of the person's own past, and of
other people the most visited ones and those that followed the person's last place. What is counted of each (how often
and when it was visited, how often it followed this place, at this hour, lately) goes through a small network that is
the same for every place, so nothing in its weights belongs to a place or a person.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.city import City

MINUTES_A_DAY = 1440
LONGEST_HISTORY = 1500  # visits that are looked at, the last ones
MOST_OF_OTHERS = 30  # places of other people that are candidates, and as many that followed the last place
HOURS = (25.0, 60.0, 180.0)  # minutes over which two times of a day are alike
FEATURES = (
    *("visits", "visits_lately", "visits_in_months", "visits_just_now", "visits_since", "followed", "followed_two"),
    *("at_this_hour", "at_this_hour_and_kind_of_day", "about_this_hour_and_kind_of_day", "followed_at_this_hour"),
    *("is_last", "is_the_one_before", "people", "visits_of_others", "followed_of_others", "is_known"),
    *("followed_lately", "at_this_hour_and_weekday", "followed_at_this_hour_lately", "at_this_hour_lately"),
)
HIDDEN = 32
LEAST_PAST = 8  # visits before a question of training
MOST_QUESTIONS = 6000  # that a network is trained on
MINUTES_AFTER = 30  # the last visit, for which the next place is told
VISIT_COLUMNS = ("uid", "time", "place")
WEIGHTS = Path(__file__).with_name("next_place.safetensors")


@dataclass(frozen=True)
class Visits:
    """A person's visits in time order: place, minute of the day and weekday (Monday 0) of each, [n] integers."""

    place: np.ndarray
    minute: np.ndarray
    weekday: np.ndarray

    def __len__(self) -> int:
        return len(self.place)

    def before(self, visit: int) -> Visits:
        """The visits before one of them."""
        return Visits(self.place[:visit], self.minute[:visit], self.weekday[:visit])


@dataclass(frozen=True)
class Question:
    """Where does a person with this past go at a minute of the day and weekday? `person` as in `Crowd`, or None."""

    past: Visits
    minute: int
    weekday: int
    person: int | None = None
    truth: int | None = None


class Crowd:
    """Who visited which place and what followed it, over all people; a person's own part is left out of their field.

    Args:
        people: the visits that are counted. A question's `person` is a number in this list.
    """

    def __init__(self, people: Sequence[Visits]):
        self.own = [(Counter(one.place.tolist()), _followers(one.place)) for one in people]
        self.people: Counter = Counter()
        self.visits: Counter = Counter()
        self.followers: dict[int, Counter] = defaultdict(Counter)
        for visits, followers in self.own:
            self.people.update(visits.keys())
            self.visits.update(visits)
            for place, following in followers.items():
                self.followers[place].update(following)
        self.most = [place for place, _ in self.people.most_common(MOST_OF_OTHERS)]

    def without(self, person: int | None, last: int) -> tuple[dict[int, int], dict[int, int], dict[int, int]]:
        """People of the most visited places, visits of all, and followers of `last`, without a person's own part."""
        followers = self.followers.get(last, Counter())
        if person is None:
            return {place: self.people[place] for place in self.most}, self.visits, followers
        own_visits, own_followers = self.own[person]
        people = {place: self.people[place] - (place in own_visits) for place in self.most}
        followers = followers - own_followers.get(last, Counter())
        return people, self.visits, followers

    def of_place(self, place: int, person: int | None) -> tuple[int, int]:
        """People and visits of a place, without a person's own."""
        if person is None:
            return self.people[place], self.visits[place]
        own = self.own[person][0].get(place, 0)
        return self.people[place] - (own > 0), self.visits[place] - own


def _followers(place: np.ndarray) -> dict[int, Counter]:
    found: dict[int, Counter] = defaultdict(Counter)
    for before, after in zip(place[:-1].tolist(), place[1:].tolist(), strict=True):
        found[before][after] += 1
    return found


def candidates(question: Question, crowd: Crowd) -> tuple[np.ndarray, np.ndarray]:
    """Places [K] that may be next, ascending, and [K, FEATURES] what is counted of each.

    Raises:
        ValueError: the question has no past.
    """
    past = question.past
    if not len(past):
        raise ValueError("nothing is known of this person: the next place is told from at least one visit")
    place, minute, weekday = (values[-LONGEST_HISTORY:] for values in (past.place, past.minute, past.weekday))
    age = np.arange(len(place), 0, -1)  # visits ago
    last, one_before = int(place[-1]), int(place[-2]) if len(place) > 1 else -1
    people, _, followers = crowd.without(question.person, last)
    following = sorted(followers, key=lambda one: (-followers[one], one))[:MOST_OF_OTHERS]
    others = [one for one, count in people.items() if count > 0] + following
    cells, index = np.unique(np.concatenate([place, np.array(others, np.int64)]), return_inverse=True)
    index = index[: len(place)]

    def count(weight: np.ndarray, least: float = 0.1) -> np.ndarray:
        return np.log(np.bincount(index, weight, minlength=len(cells)) + least)

    apart = np.abs(minute - question.minute)
    apart = np.minimum(apart, MINUTES_A_DAY - apart)
    at_once, near, about = (np.exp(-apart / width) for width in HOURS)
    same_kind = (weekday >= 5) == (question.weekday >= 5)
    followed = np.zeros(len(place))
    followed[1:] = place[:-1] == last
    followed_two = followed.copy()
    followed_two[:2] = 0
    followed_two[2:] *= place[:-2] == one_before
    since = np.full(len(cells), len(place) + 1.0)
    since[index] = age  # of several visits the last one stays
    of_others = [crowd.of_place(one, question.person) for one in cells.tolist()]
    lately = {visits: np.exp(-age / visits) for visits in (5, 20, 60, 100)}
    features = [
        count(np.ones(len(place))),
        count(lately[20]),
        count(lately[100]),
        count(lately[5]),
        np.log(since),
        count(followed),
        count(followed_two),
        count(near),
        count(near * same_kind),
        count(about * same_kind),
        count(followed * near, 0.03),
        cells == last,
        cells == one_before,
        np.log1p([people for people, _ in of_others]),
        np.log1p([visits for _, visits in of_others]),
        np.log1p([followers.get(one, 0) for one in cells.tolist()]),
        since <= len(place),
        count(followed * lately[60]),
        count(at_once * (weekday == question.weekday), 0.03),
        count(followed * near * same_kind * lately[100], 0.03),
        count(near * same_kind * lately[60], 0.03),
    ]
    return cells, np.stack(features, axis=1).astype(np.float32)


class NextPlace(nn.Module):
    """Scores of candidates [K, FEATURES] -> [K]; their softmax are the probabilities."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(len(FEATURES)))
        self.register_buffer("deviation", torch.ones(len(FEATURES)))
        self.layers = nn.Sequential(nn.Linear(len(FEATURES), HIDDEN), nn.GELU(), nn.Linear(HIDDEN, 1))

    def forward(self, features: Tensor) -> Tensor:
        return self.layers((features - self.mean) / self.deviation)[:, 0]

    @torch.no_grad()
    def ranked(self, question: Question, crowd: Crowd) -> tuple[np.ndarray, np.ndarray]:
        """Candidates [K], the most probable first, and the probability of each."""
        places, features = candidates(question, crowd)
        probability = F.softmax(self(torch.from_numpy(features)), dim=0).numpy()
        order = np.argsort(-probability, kind="stable")
        return places[order], probability[order]

    def save(self, file: Path) -> None:
        save_file(self.state_dict(), file)

    @classmethod
    def load(cls, file: Path = WEIGHTS) -> NextPlace:
        """A saved one; by default the weights that come with the package."""
        model = cls()
        model.load_state_dict(load_file(file))
        return model.eval()


def fit(
    questions: Sequence[Question],
    crowd: Crowd,
    seed: int,
    epochs: int = 6,
    batch: int = 32,
    learning_rate: float = 5e-3,
    weight_decay: float = 1e-2,
) -> NextPlace:
    """A network trained on questions whose `truth` is known; those whose truth is no candidate teach nothing.

    Raises:
        ValueError: of no question the truth is a candidate.
    """
    known = []
    for question in questions:
        places, features = candidates(question, crowd)
        if (places == question.truth).any():
            known.append((torch.from_numpy(features), int(np.argmax(places == question.truth))))
    if not known:
        raise ValueError("there is nothing to learn: of no visit the place was known before")
    torch.manual_seed(seed)
    random, model = np.random.default_rng(seed), NextPlace()
    everything = torch.cat([features for features, _ in known])
    model.mean.copy_(everything.mean(0))
    model.deviation.copy_(everything.std(0) + 0.05)
    steps = epochs * -(-len(known) // batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps + 1)
    for _ in range(epochs):
        order = random.permutation(len(known))
        for first in range(0, len(order), batch):
            some = [known[number] for number in order[first : first + batch]]
            scores = model(torch.cat([features for features, _ in some]))
            parts = scores.split([len(features) for features, _ in some])
            chosen = [F.log_softmax(part, 0)[true] for part, (_, true) in zip(parts, some, strict=True)]
            loss = -torch.stack(chosen).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def asked(person: int, visits: Visits, number: int) -> Question:
    """One visit of a person as a question about what was before it, with its truth."""
    when = int(visits.minute[number]), int(visits.weekday[number])
    return Question(visits.before(number), *when, person, int(visits.place[number]))


def training_questions(people: Sequence[Visits], until: Sequence[int]) -> list[Question]:
    """Every visit of each person up to a number of theirs, after at least LEAST_PAST others."""
    return [
        asked(person, visits, number)
        for person, visits in enumerate(people)
        for number in range(LEAST_PAST, until[person])
    ]


def some(questions: Sequence[Question], most: int, seed: int) -> list[Question]:
    """At most so many of them, drawn."""
    drawn = np.random.default_rng(seed).permutation(len(questions))[:most]
    return [questions[number] for number in np.sort(drawn)]


def network_for(people: Sequence[Visits], crowd: Crowd, fitted: bool) -> NextPlace:
    """The weights that come with the package, or others that are trained on the visits of these people."""
    if not fitted:
        return NextPlace.load()
    return fit(some(training_questions(people, [len(one) for one in people]), MOST_QUESTIONS, 0), crowd, 0)


def next_of_visits(visits: pd.DataFrame, top_k: int = 10, fitted: bool = False) -> pd.DataFrame:
    """Ranked next places of people whose places are ids without geometry.

    Args:
        visits: columns uid, time and place; time as pandas reads it, uid and place anything.
        top_k: how many places of each person.
        fitted: train on these visits first; by default the weights that come with the package.

    Returns:
        Columns uid, rank (from 1), place, probability, for the place half an hour after each person's last visit.

    Raises:
        ValueError: a column is missing, a value is, or a time cannot be read.
    """
    if missing := [name for name in VISIT_COLUMNS if name not in visits.columns]:
        raise ValueError(f"visits need the columns {', '.join(VISIT_COLUMNS)}; {missing[0]} is not among them")
    empty = visits[list(VISIT_COLUMNS)].isna().any(axis=1).to_numpy()
    if empty.any():
        raise ValueError(f"row {int(empty.argmax())} of the visits lacks a uid, a time or a place")
    time = pd.to_datetime(visits["time"], errors="coerce")
    if time.isna().any():
        row = int(time.isna().to_numpy().argmax())
        raise ValueError(f"row {row} of the visits: {visits['time'].iloc[row]!r} is no time")
    place, names = pd.factorize(visits["place"], sort=True)
    table = pd.DataFrame({"uid": visits["uid"], "time": time, "place": place})
    table = table.sort_values("time", kind="stable")
    uids, people, ends = [], [], []
    for uid, own in table.groupby("uid", sort=True):
        when = own["time"].dt
        minute = (when.hour * 60 + when.minute).to_numpy(np.int64)
        people.append(Visits(own["place"].to_numpy(np.int64), minute, when.day_of_week.to_numpy(np.int64)))
        uids.append(uid)
        ends.append(own["time"].iloc[-1] + pd.Timedelta(minutes=MINUTES_AFTER))
    crowd = Crowd(people)
    network = network_for(people, crowd, fitted)
    parts = []
    for person, (uid, past, end) in enumerate(zip(uids, people, ends, strict=True)):
        question = Question(past, end.hour * 60 + end.minute, end.weekday(), person)
        places, probability = (values[:top_k] for values in network.ranked(question, crowd))
        rank = np.arange(1, len(places) + 1)
        parts.append(pd.DataFrame({"uid": uid, "rank": rank, "place": names[places], "probability": probability}))
    return pd.concat(parts, ignore_index=True)


def visits_of_city(city: City, until: int | np.ndarray) -> list[Visits]:
    """The known records of each person before a day, one for all or one each, as visits to cells."""
    until, minutes = np.broadcast_to(until, len(city)), MINUTES_A_DAY // city.calendar.num_slots
    people = []
    for row, last in enumerate(until):
        one = city.trajectory(row)
        known = (one.cell != city.grid.mask_id) & (one.day < last)
        weekday = city.calendar.weekday(one.day[known])
        people.append(Visits(one.cell[known], one.slot[known] * minutes, weekday))
    return people
