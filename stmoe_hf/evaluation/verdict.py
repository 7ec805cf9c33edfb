"""What a run has shown: its model beside the frequency baselines, as a table and in a sentence with its interval."""

from __future__ import annotations

from typing import Any

from ..metrics.score import Scores
from .baselines import BASELINES
from .intervals import FEW, Interval, bootstrap

# (edition, measure): its title, decimals, and whether higher is better.
COLUMNS = {
    ("humob2024", "geobleu"): ("GEO-BLEU", 4, True),
    ("humob2024", "dtw"): ("DTW km", 2, False),
    ("humob2025", "geobleu"): ("GEO-BLEU", 4, True),
    ("humob2025", "dtw"): ("DTW km", 2, False),
    ("", "accuracy"): ("accuracy", 3, True),
}


def key(name: str, edition: str, measure: str) -> str:
    """As in the results of a run: `test_humob2024_geobleu`, `test_accuracy`."""
    return "_".join(part for part in (name, edition, measure) if part)


def best_baseline(results: dict[str, Any], edition: str, measure: str) -> str:
    """The baseline that is best in a measure, on the people of these results."""
    sign = 1 if COLUMNS[edition, measure][2] else -1
    return max(BASELINES, key=lambda name: sign * results[key(name, edition, measure)])


def results_table(results: dict[str, Any]) -> str:
    """The scores of a run and of the baselines, for a person; `*` stands at the best of each column."""
    lines = [
        f"City {results['city']}, {results['edition']}, days from {results['cut_day']} on, {results['test_users']}"
        f" held-out users, seed {results['seed']}; * is the best of its column",
        f"{'':26}{'edition humob2024':>22}{'edition humob2025':>23}",
        f"{'':26}" + "".join(f"{title:>{10 if digits == 4 else 12}}" for title, digits, _ in COLUMNS.values()),
    ]
    names = ("test", *BASELINES)
    best = {
        column: (max if higher else min)(results[key(name, *column)] for name in names)
        for column, (_, _, higher) in COLUMNS.items()
    }
    for name in names:
        title = f"this model, {results['decoder']}" if name == "test" else name
        cells = []
        for column, (_, digits, _) in COLUMNS.items():
            value = results[key(name, *column)]
            mark = "*" if value == best[column] else " "
            cells.append(f"{value:{9 if digits == 4 else 11}.{digits}f}{mark}")
        lines.append(f"{title:26}{''.join(cells)}".rstrip())
    return "\n".join(lines)


def ahead_of_counting(
    ours: dict[str, Scores], counted: dict[str, dict[str, Scores]], results: dict[str, Any]
) -> dict[tuple[str, str], tuple[str, Interval]]:
    """Of GEO-BLEU and DTW of humob2024: the best baseline, and by how much the model is ahead of it (above 0: better).

    Args:
        ours: of each edition the model's scores; counted: of each baseline likewise, of the same people.
        results: the means of all of them, as in `all_results.json`.
    """
    found = {}
    for column in (("humob2024", "geobleu"), ("humob2024", "dtw")):
        edition, measure = column
        name = best_baseline(results, *column)
        sign = 1 if COLUMNS[column][2] else -1
        of_people = [scores[edition].per_user.set_index("uid")[measure] for scores in (ours, counted[name])]
        found[column] = (name, bootstrap(sign * (of_people[0] - of_people[1]).to_numpy()))
    return found


def verdict(found: dict[tuple[str, str], tuple[str, Interval]]) -> str:
    """Lines such as "GEO-BLEU: ahead of counting by .0080 ± .0100 on 2 people: proves nothing"."""
    lines = []
    for column, (name, interval) in found.items():
        title, digits, _ = COLUMNS[column]
        title, unit = title.split()[0], " km" if "km" in title else ""
        side = "ahead of" if interval.mean >= 0 else "behind"
        by, half = (f"{value:.{digits}f}".removeprefix("0") for value in (abs(interval.mean), interval.half))
        if interval.differs_from_zero:
            means = "better than counting" if interval.mean > 0 else "worse than counting"
        else:
            means = "proves nothing" + (f", fewer than {FEW} people" if interval.people < FEW else "")
        people = "1 person" if interval.people == 1 else f"{interval.people} people"
        lines.append(f"{title}: {side} counting ({name}) by {by} ± {half}{unit} on {people}: {means}")
    return "\n".join(lines)
