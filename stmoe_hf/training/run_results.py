"""The results of a run: what every figure belongs to, the baselines beside it, and the text that a person reads."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ..evaluation.evaluate import baseline_means, baseline_scores, scores_of, true_records
from ..evaluation.verdict import ahead_of_counting, key, results_table, verdict
from .arguments import RunArguments
from .run_data import RunData
from .run_folder import PREDICTIONS, RESULTS, RunFolder

# Of the steps since the resume alone, so that they would be other results than those of an unbroken run.
OF_ONE_SESSION = ("train_runtime", "train_samples_per_second", "train_steps_per_second")


def about(data: RunData, args: RunArguments) -> dict[str, Any]:
    """What every figure of the results belongs to."""
    city = data.city
    return {
        "city": city.name,
        "edition": city.edition.name,
        "cut_day": data.split.cut_day,
        "seed": args.seed,
        "decoder": args.decoder,
    }


def resumed_results(trained: dict[str, Any]) -> dict[str, Any]:
    """The results of a training that was broken off: those of an unbroken one, less the times of its last part."""
    return {name: value for name, value in trained.items() if name not in OF_ONE_SESSION}


def score_beside_counting(data: RunData, predicted: list[pd.DataFrame], results: dict[str, Any]) -> str:
    """The scores of all baselines, and how far the model is ahead of the best, go into `results`.

    Args:
        data: of the run.
        predicted: records, of the held-out users first.
        results: with the model's own scores, if anybody was held out.

    Returns:
        Table and verdict for a person; nothing if nobody was held out.
    """
    if not len(data.test):
        return ""
    counted = baseline_scores(data.test, progress=False)
    results |= baseline_means(counted)
    ours = scores_of(predicted[0], true_records(data.test), data.test)
    found = ahead_of_counting(ours, counted, results)
    for (edition, measure), (name, interval) in found.items():
        of = key("ahead", edition, measure)
        results |= {of: interval.mean, f"{of}_low": interval.low, f"{of}_high": interval.high, f"{of}_baseline": name}
    return f"{results_table(results)}\n\n{verdict(found)}\n"


def say_what_is_there(folder: RunFolder, data: RunData) -> str:
    """Where the model is, and what else there is."""
    if not len(data.test) + len(data.masked):
        return f"\nThe model is in {folder.path}; nothing was predicted, since nobody is held out or masked"
    if not len(data.test):
        return f"\nThe model and its predictions ({PREDICTIONS}) are in {folder.path}; nobody is held out to be scored"
    return f"\nThe model, its predictions ({PREDICTIONS}) and all results ({RESULTS}) are in {folder.path}"
