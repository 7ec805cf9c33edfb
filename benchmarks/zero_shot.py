"""Weights trained on city A alone, on the people of B and D whom they never saw: the table of docs/accuracy.md.

    python benchmarks/zero_shot.py --data_dir HUMOB --models stmoe_hf/pretrained RUN_OF_SEED_2 RUN_OF_SEED_3

HUMOB holds the files of B and D with all 75 days. Days 60-74 of everybody are predicted in three ways: `challenge`,
told when each person will be observed; `told the slots`, told it likewise, but each slot is answered from the history
alone; and `forecast`, as `stmoe forecast` does it, which is asked for all 720 slots of the horizon, is told nothing,
and is scored on the observed slots. What it says of a slot is the same whatever else is asked for; tests hold that.
Prints means over the models with their spread and, of the first model, 95 % intervals over people.
"""

import argparse
import platform
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

import stmoe_hf
from stmoe_hf.data.windows import PredictionWindows, WindowShape
from stmoe_hf.evaluation.evaluate import predicted_records, scores_of, true_records
from stmoe_hf.evaluation.intervals import bootstrap
from stmoe_hf.model.processing_stmoe_bert import MobilityProcessor
from stmoe_hf.prediction.forecast import Asked, Forecaster, ForecastSettings
from stmoe_hf.prediction.load import load_model
from stmoe_hf.prediction.predict import PredictionSettings, predict_cells

WAYS = {"challenge": ("day", "mode"), "told the slots": ("day",), "forecast": ("day", "mode")}  # -> decoders


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True, help="folder with the files of B and D")
    parser.add_argument("--models", nargs="+", default=["stmoe_hf/pretrained"], help="folders of models, one a seed")
    parser.add_argument("--cities", nargs="+", default=["B", "D"])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--cut_day", type=int, default=60, help="first day that is predicted (default 60)")
    parser.add_argument("--workers", type=int, default=1, help="processes, of one thread each (default 1)")
    args = parser.parse_args()
    print(f"{platform.machine()}, {args.workers} processes, torch {torch.__version__}; from day {args.cut_day}")
    names = ", ".join(Path(model).name for model in args.models)
    rows = [(way, decoder) for way in args.ways for decoder in WAYS[way]]
    tasks = [(city, *row, model) for city in args.cities for row in rows for model in args.models]
    with ProcessPoolExecutor(args.workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        found = dict(
            zip(tasks, pool.map(partial(outcome, args.data_dir, args.cut_day), *zip(*tasks, strict=True)), strict=True)
        )
    for city in args.cities:
        print(f"\nCity {city}, {len(args.models)} models: {names}\n")
        print(
            "| | nll | GEO-BLEU, DTW humob2024 | GEO-BLEU, DTW humob2025 | accuracy |\n| --- | --- | --- | --- | --- |"
        )
        for way, decoder in rows:
            print(line(f"{way}, decoder {decoder}", [found[city, way, decoder, model] for model in args.models]))


def outcome(data_dir: str, cut_day: int, name: str, way: str, decoder: str, model: str) -> dict:
    """nll and the scores of both editions of everybody of a city."""
    city = stmoe_hf.open_city(name, data_dir)
    processor = MobilityProcessor.for_data(city.grid, city.calendar)
    # Networks without a city field are told of the others too, and do not look.
    windows = PredictionWindows(city, np.arange(len(city)), cut_day, WindowShape(15), processor, city_field=True)
    network = load_model(model, city.grid, city.calendar, "cpu")
    if way == "forecast":
        cells, nll = of_all_slots(network, windows, decoder)
    else:
        cells, nll = of_observed_slots(network, windows, decoder, way != "challenge")
    return {"nll": nll, "scores": scores_of(predicted_records(windows, cells), true_records(windows), windows)}


def of_observed_slots(model, windows: PredictionWindows, decoder: str, alone: bool) -> tuple[np.ndarray, float]:
    """Cells [windows, Q], and the mean negative log-likelihood of the truth."""
    settings = PredictionSettings(decoder=decoder, asked_alone=alone)
    grid, parts, surprise = windows.city.grid, [], []
    for batch in DataLoader(windows, batch_size=8, collate_fn=windows.processor.pad):
        cells, log_probability = predict_cells(model, batch, grid, settings)
        parts += list(cells.numpy())
        surprise.append(-log_probability[cells != -100].double().numpy())
    return together(parts), float(np.concatenate(surprise).mean())


def of_all_slots(model, windows: PredictionWindows, decoder: str) -> tuple[np.ndarray, float]:
    """The same from forecasts of whole days; its negative log-likelihood is that of `told the slots`."""
    city = windows.city
    forecaster = Forecaster(model, city, city.calendar, ForecastSettings(decoder=decoder), until=windows.cut_days)
    asked = [windows.asked_for(window) for window in range(len(windows))]
    questions = [Asked(int(row), one["d"], one["t"]) for row, one in zip(windows.rows, asked, strict=True)]
    if decoder != "day":  # the day decoder asks for whole days of itself
        questions = [whole_horizon(question, city.calendar.num_slots) for question in questions]
    parts = []
    for answer, one in zip(forecaster.answers(questions), asked, strict=True):
        index = {key: place for place, key in enumerate(zip(answer.day.tolist(), answer.slot.tolist(), strict=True))}
        parts.append(answer.cells[[index[key] for key in zip(one["d"].tolist(), one["t"].tolist(), strict=True)], 0])
    return together(parts), float("nan")


def whole_horizon(question: Asked, num_slots: int) -> Asked:
    days = np.arange(question.day.min(), question.day.max() + 1)
    return Asked(question.row, np.repeat(days, num_slots), np.tile(np.arange(num_slots), len(days)))


def together(parts: list[np.ndarray]) -> np.ndarray:
    width = max(map(len, parts))
    return np.stack([np.pad(part, (0, width - len(part)), constant_values=-100) for part in parts])


def line(title: str, rows: list[dict]) -> str:
    """A row of the table: mean over the models ± their spread, and of the first model the interval over people."""
    nll = [row["nll"] for row in rows]
    columns = [title, "as told the slots" if np.isnan(nll).any() else f"{np.mean(nll):.4f} ± {np.std(nll):.4f}"]
    for edition in ("humob2024", "humob2025"):
        texts = []
        for measure, digits in (("geobleu", 4), ("dtw", 2)):
            values = [getattr(row["scores"][edition], measure) for row in rows]
            interval = bootstrap(rows[0]["scores"][edition].per_user[measure].to_numpy())
            texts.append(
                f"{np.mean(values):.{digits}f} ± {np.std(values):.{digits}f}"
                f" ({interval.low:.{digits}f} .. {interval.high:.{digits}f})"
            )
        columns.append(", ".join(texts))
    columns.append(f"{np.mean([row['scores']['humob2024'].accuracy for row in rows]):.4f}")
    return "| " + " | ".join(columns) + " |"


if __name__ == "__main__":
    main()
