"""From windows and cells to records and their scores, of a model and of the baselines."""

from __future__ import annotations

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from ..data.windows import PredictionWindows
from ..metrics import EDITIONS, score
from ..metrics.score import Scores
from ..model.records import NO_LABEL, RECORD_COLUMNS
from ..prediction.predict import window_records
from .baselines import BASELINES, predict_person

_NOTHING = pd.DataFrame({name: np.empty(0, np.int64) for name in RECORD_COLUMNS})


def predicted_records(windows: PredictionWindows, cells: np.ndarray) -> pd.DataFrame:
    """The predicted records of all windows, columns uid, d, t, x, y, by uid; cells [windows, Q]."""
    parts = [window_records(windows, window, cells[window]) for window in range(len(windows))] or [_NOTHING]
    return pd.concat(parts, ignore_index=True).sort_values(["uid", "d", "t"], ignore_index=True)


def true_records(windows: PredictionWindows) -> pd.DataFrame:
    """The true records of all windows, in the order of `predicted_records`; only where all are known."""
    parts = [window_records(windows, window, windows.asked_for(window)["cell"]) for window in range(len(windows))]
    return pd.concat(parts, ignore_index=True).sort_values(["uid", "d", "t"], ignore_index=True)


def scores_of(predicted: pd.DataFrame, true: pd.DataFrame, windows: PredictionWindows) -> dict[str, Scores]:
    """The scores of each edition."""
    return {edition: score(predicted, true, edition=edition, grid=windows.city.grid) for edition in EDITIONS}


def means(scores: dict[str, Scores]) -> dict[str, float]:
    """GEO-BLEU and DTW of each edition, accuracy and the number of users."""
    results: dict[str, float] = {}
    for edition, of_edition in scores.items():
        results |= {f"{edition}_geobleu": of_edition.geobleu, f"{edition}_dtw": of_edition.dtw}
    return results | {"accuracy": of_edition.accuracy, "users": of_edition.users}


def window_metrics(windows: PredictionWindows, cells: np.ndarray, log_probability: np.ndarray) -> dict[str, float]:
    """Scores and negative log-likelihood of predicted windows; nothing where the truth is not known.

    Args:
        windows: that were predicted.
        cells: [windows, Q], -100 where a window asks for fewer.
        log_probability: [windows, Q] of the true cells.
    """
    if windows.masked or not len(windows):
        return {}
    nll = -float(log_probability[cells != NO_LABEL].mean())
    return means(scores_of(predicted_records(windows, cells), true_records(windows), windows)) | {"nll": nll}


def baseline_scores(windows: PredictionWindows, progress: bool) -> dict[str, dict[str, Scores]]:
    """Of every frequency baseline the scores of each edition, on the same users and records."""
    width = max(len(windows.asked_for(window)["uid"]) for window in range(len(windows)))
    cells = {name: np.full((len(windows), width), NO_LABEL) for name in BASELINES}
    for window in tqdm(range(len(windows)), desc="baselines", unit="users", leave=False, disable=not progress):
        for name, chosen in predict_person(windows, window).items():
            cells[name][window, : len(chosen)] = chosen
    true = true_records(windows)
    return {name: scores_of(predicted_records(windows, chosen), true, windows) for name, chosen in cells.items()}


def baseline_means(scores: dict[str, dict[str, Scores]]) -> dict[str, float]:
    """The means of `baseline_scores`, under the name of each baseline."""
    return {
        f"{name}_{key}": value for name, own in scores.items() for key, value in means(own).items() if key != "users"
    }
