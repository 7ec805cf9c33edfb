"""Scores of ranked next places (Acc@1, @5, @10, MRR), and of counting: frequency, Markov, and a mixture of both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from ..prediction.next_place import FEATURES, Crowd, Question, candidates

TOP = (1, 5, 10)
LATELY = 0.1  # weight of all visits in the mixture, against those that followed, of this hour, and just now


def counting_baselines() -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Scores [K] of candidates by their features [K, FEATURES], of each baseline; untuned."""

    def of(features: np.ndarray, name: str) -> np.ndarray:
        return np.exp(features[:, FEATURES.index(name)])

    return {
        "frequency": lambda f: of(f, "visits"),
        "Markov, then frequency": lambda f: of(f, "followed") + 1e-3 * of(f, "visits"),
        "frequency + Markov + hour + recent": lambda f: (
            of(f, "followed") + 0.5 * of(f, "at_this_hour") + of(f, "visits_just_now") + LATELY * of(f, "visits")
        ),
    }


def rank_of_truth(places: np.ndarray, scores: np.ndarray, truth: int | None) -> float:
    """The rank from 1 of the true place; ties go to the lower number; infinite if it is no candidate."""
    at = np.flatnonzero(places == truth)
    if not len(at):
        return float("inf")
    tied = (scores == scores[at[0]]) & (places < places[at[0]])
    return 1.0 + float((scores > scores[at[0]]).sum() + tied.sum())


def ranks(
    questions: Iterable[Question], crowd: Crowd, systems: dict[str, Callable[[np.ndarray], np.ndarray]]
) -> dict[str, np.ndarray]:
    """The rank of the truth of every question, by each system that scores [K, FEATURES] -> [K]."""
    found: dict[str, list[float]] = {name: [] for name in systems}
    for question in questions:
        places, features = candidates(question, crowd)
        for name, score in systems.items():
            found[name].append(rank_of_truth(places, score(features), question.truth))
    return {name: np.array(values) for name, values in found.items()}


def scores(of_ranks: Sequence[float] | np.ndarray) -> dict[str, float]:
    """`acc@1`, `acc@5`, `acc@10` and `mrr` of ranks."""
    values = np.asarray(of_ranks, float)
    return {f"acc@{top}": float((values <= top).mean()) for top in TOP} | {"mrr": float((1 / values).mean())}
