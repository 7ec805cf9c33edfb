"""From windows and cells to records, scores and the table that a person reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from ..data.windows import PredictionWindows
from ..metrics import EDITIONS, score
from ..model.records import NO_LABEL
from ..prediction.predict import window_records
from .baselines import BASELINES, predict_person


def predicted_records(windows: PredictionWindows, cells: np.ndarray) -> pd.DataFrame:
    """The predicted records of all windows, columns uid, d, t, x, y, by uid; cells [windows, Q]."""
    parts = [window_records(windows, window, cells[window]) for window in range(len(windows))]
    return pd.concat(parts, ignore_index=True).sort_values(["uid", "d", "t"], ignore_index=True)


def true_records(windows: PredictionWindows) -> pd.DataFrame:
    """The true records of all windows, in the order of `predicted_records`; only where all are known."""
    parts = [window_records(windows, window, windows.asked_for(window)["cell"]) for window in range(len(windows))]
    return pd.concat(parts, ignore_index=True).sort_values(["uid", "d", "t"], ignore_index=True)


def scores_of(predicted: pd.DataFrame, true: pd.DataFrame, windows: PredictionWindows) -> dict[str, float]:
    """GEO-BLEU and DTW of both editions, accuracy and the number of users."""
    results: dict[str, float] = {}
    for edition in EDITIONS:
        scores = score(predicted, true, edition=edition, grid=windows.city.grid)
        results |= {f"{edition}_geobleu": scores.geobleu, f"{edition}_dtw": scores.dtw}
    return results | {"accuracy": scores.accuracy, "users": scores.users}


def window_metrics(windows: PredictionWindows, cells: np.ndarray, log_probability: np.ndarray) -> dict[str, float]:
    """Scores and negative log-likelihood of predicted windows; nothing where the truth is not known.

    Args:
        windows: that were predicted.
        cells: [windows, Q], -100 where a window asks for fewer.
        log_probability: [windows, Q] of the true cells.
    """
    if windows.masked:
        return {}
    nll = -float(log_probability[cells != NO_LABEL].mean())
    return scores_of(predicted_records(windows, cells), true_records(windows), windows) | {"nll": nll}


def baseline_scores(windows: PredictionWindows, progress: bool) -> dict[str, float]:
    """Scores of every frequency baseline on the same users and records."""
    width = max(len(windows.asked_for(window)["uid"]) for window in range(len(windows)))
    cells = {name: np.full((len(windows), width), NO_LABEL) for name in BASELINES}
    for window in tqdm(range(len(windows)), desc="baselines", unit="users", leave=False, disable=not progress):
        for name, chosen in predict_person(windows, window).items():
            cells[name][window, : len(chosen)] = chosen
    true = true_records(windows)
    results: dict[str, float] = {}
    for name, chosen in cells.items():
        scores = scores_of(predicted_records(windows, chosen), true, windows)
        results |= {f"{name}_{key}": value for key, value in scores.items() if key != "users"}
    return results


def results_table(results: dict[str, Any]) -> str:
    """The scores of a run and of the baselines, for a person."""
    lines = [
        f"City {results['city']}, {results['edition']}, days from {results['cut_day']} on, {results['test_users']}"
        f" held-out users, seed {results['seed']}",
        f"{'':26}{'edition humob2024':>21}{'edition humob2025':>21}",
        f"{'':26}{'GEO-BLEU':>10}{'DTW km':>11}{'GEO-BLEU':>10}{'DTW km':>11}{'accuracy':>10}",
    ]
    for name in ("test", *BASELINES):
        row = [results[f"{name}_{key}"] for key in ("humob2024_geobleu", "humob2024_dtw")]
        row += [results[f"{name}_{key}"] for key in ("humob2025_geobleu", "humob2025_dtw", "accuracy")]
        title = f"this model, {results['decoder']}" if name == "test" else name
        lines.append(f"{title:26}{row[0]:10.4f}{row[1]:11.2f}{row[2]:10.4f}{row[3]:11.2f}{row[4]:10.3f}")
    return "\n".join(lines)
