"""`python -m stmoe_hf predict --model runs/cityB --data_dir DIR --city B --output submission.csv.gz`"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoModel

from ..data.city import city_id, open_city
from ..data.errors import DataError
from ..data.files import open_aside
from ..data.splits import refuse_cut_day
from ..data.windows import PredictionWindows, WindowShape
from ..model.decoding import BALANCED_DISTANCE_WEIGHT, DECODERS
from ..model.processing_stmoe_bert import MobilityProcessor
from ..model.spacetime import Calendar, Grid
from ..prediction.load import refuse_missing_model
from ..prediction.predict import PredictionSettings, predict_windows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="folder of a run, or Hub id")
    parser.add_argument("--city", help="city to predict, by its name in the files")
    parser.add_argument("--data_dir", help="folder with the files of the city")
    parser.add_argument("--data_path", help="a file, in place of a city of a folder")
    parser.add_argument("--edition", help="humob2023, humob2024 or humob2025; unset: told from the file's name")
    parser.add_argument("--cache_dir", help="where prepared cities are kept")
    parser.add_argument("--output", required=True, help="file to write, .csv or .csv.gz")
    parser.add_argument("--plain", action="store_true", help="predict the unmasked users, from the cut day on, too")
    parser.add_argument("--cut_day", type=int, help="first day to predict of unmasked users; unset: the edition's")
    parser.add_argument("--horizon_days", type=int, default=15, help="days to predict of unmasked users")
    parser.add_argument("--decoder", choices=DECODERS, help="how cells are chosen; unset: as in the run")
    parser.add_argument(
        "--distance_weight", type=float, help="cost of a km in the balanced decoder; unset: as in the run"
    )
    parser.add_argument("--input_seq_length", type=int, help="records of history; unset: as in the run, else all")
    parser.add_argument(
        "--predict_seq_length", type=int, help="records predicted at a time, fed back; unset: as in the run, else all"
    )
    parser.add_argument("--batch_size", type=int, default=8, help="users at a time")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu, cuda, ...")


def run(args: argparse.Namespace) -> int:
    output = Path(args.output)
    if not output.parent.is_dir():
        raise FileNotFoundError(f"the folder {output.parent} for --output does not exist")
    refuse_missing_model(args.model)
    settings = _settings(args)
    config = AutoConfig.from_pretrained(args.model)

    def check(grid: Grid, calendar: Calendar) -> None:
        MobilityProcessor.for_data(grid, calendar).refuse_other_model(config)
        if args.cut_day is not None:
            refuse_cut_day(args.cut_day, calendar)

    city = open_city(
        args.city,
        args.data_dir,
        path=args.data_path,
        edition=args.edition,
        cache_dir=args.cache_dir,
        progress=True,
        check=check,
    )
    # Of the city, not of the model: the days of an edition are not those of another.
    processor = MobilityProcessor.for_data(city.grid, city.calendar)
    model = AutoModel.from_pretrained(args.model).to(args.device)
    shape = WindowShape(args.horizon_days, settings.input_seq_length, settings.predict_seq_length)
    cut_day = city.edition.cut_day if args.cut_day is None else args.cut_day
    masked = np.flatnonzero(city.masked_counts)
    plain = np.flatnonzero(city.masked_counts == 0) if args.plain or not len(masked) else masked[:0]
    own_id = city_id(getattr(model.config, "cities", None), city)
    parts = [
        PredictionWindows(city, masked, cut_day, shape, processor, masked=True, city_id=own_id),
        PredictionWindows(city, plain, cut_day, shape, processor, city_id=own_id),
    ]
    if not any(len(windows) for windows in parts):
        raise DataError(f"city {city.name} asks for nothing: no masked record, and no record from day {cut_day} on")
    for windows in parts:
        windows.warn_of_the_unknown()
    count = 0
    with open_aside(output) as file, tqdm(total=sum(map(len, parts)), desc="predicting", unit="users") as bar:
        file.write("uid,d,t,x,y\n")
        for windows in parts:
            for records in predict_windows(model, windows, processor, settings, args.batch_size):
                records.to_csv(file, index=False, header=False)
                count += len(records)
                bar.update(records["uid"].nunique())
    left_out = sum(len(windows.without_horizon) for windows in parts)
    print(f"{count} records of {sum(map(len, parts))} users are in {output}", end="")
    print(f"; {left_out} users have no record to predict" if left_out else "")
    return 0


def _settings(args: argparse.Namespace) -> PredictionSettings:
    """As the command line says, else as in the run that trained the model, else one shot with the usual decoder."""
    run: dict[str, Any] = {"decoder": "balanced", "distance_weight": BALANCED_DISTANCE_WEIGHT, "num_candidates": 32}
    record = Path(args.model) / "run.json"
    if record.is_file():
        values = json.loads(record.read_text())
        run |= values["data"] | values["training"]
    names = ("decoder", "distance_weight", "num_candidates", "input_seq_length", "predict_seq_length")
    given = {name: getattr(args, name, None) for name in names}
    chosen: dict[str, Any] = {name: run.get(name) if given[name] is None else given[name] for name in names}
    return PredictionSettings(**chosen)
