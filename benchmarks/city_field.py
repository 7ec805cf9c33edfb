"""Where the negative log-likelihood lies: cells that a person knows, and new ones by their distance to known ones.

    python benchmarks/city_field.py --data_dir HUMOB --models stmoe_hf/pretrained RUN --cut_day 45

HUMOB holds the files of B and D with all 75 days. The 15 days from the cut on of everybody are predicted from the days
before it, told when each person will be observed (`seen`) and asked alone (`alone`). A network with a city field is
asked twice: told what the other people at hand did before the cut, and told of nobody; one with a part for points of
interest is asked with those of `--poi POI/POIdata_city{}.csv.gz` too, where {} stands for the city. Prints, for each
kind of cell, its share of the records and the nats a record, and how many of the new cells are among the ten unvisited
ones that the network holds for the most probable.
"""

import argparse
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader

import stmoe_hf
from stmoe_hf.data.field import CityField
from stmoe_hf.data.windows import PredictionWindows, WindowShape
from stmoe_hf.model.processing_stmoe_bert import MobilityProcessor
from stmoe_hf.model.records import CELL
from stmoe_hf.prediction.load import load_model

KINDS = {"known": 0.0, "beside a known one": 1.5, "within 4 cells": 4.0, "farther": np.inf}  # up to so many cells away
MOST_PROBABLE = 10
CANDIDATES = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True, help="folder with the files of B and D")
    parser.add_argument("--models", nargs="+", default=["stmoe_hf/pretrained"], help="folders of models")
    parser.add_argument("--cities", nargs="+", default=["B", "D"])
    parser.add_argument("--cut_day", type=int, default=45, help="first day that is predicted (default 45)")
    parser.add_argument("--poi", help="files of points of interest, with {} for the name of the city")
    args = parser.parse_args()
    for name in args.cities:
        city = stmoe_hf.open_city(name, args.data_dir)
        processor = MobilityProcessor.for_data(city.grid, city.calendar)
        print(f"\nCity {name}, {len(city)} people, days {args.cut_day} to {args.cut_day + 14}: nats a record\n")
        print(f"| | all | {' | '.join(KINDS)} | new cells among the ten | seconds |")
        print("| --- " * (len(KINDS) + 4) + "|")
        for model in args.models:
            network = load_model(model, city.grid, city.calendar, "cpu")
            for told, windows in told_in_turn(city, network.config, args.poi, args.cut_day, processor):
                for alone in (False, True):
                    title = f"{model}, {told}{'alone' if alone else 'seen'}"
                    print(line(title, *outcome(network, windows, alone)), flush=True)


def told_in_turn(city, config, poi: str | None, cut_day: int, processor) -> Iterator[tuple[str, PredictionWindows]]:
    """Each thing that a network can be told, in words, and the windows that tell it."""
    how = np.arange(len(city)), cut_day, WindowShape(15), processor
    if getattr(config, "city_field", False):
        yield "told of the others, ", PredictionWindows(city, *how, city_field=True)
    yield "", PredictionWindows(city, *how)
    if poi is not None and getattr(config, "city_field_poi", False):
        with_poi = city.with_poi(poi.format(city.name))
        yield "told of the others and of points of interest, ", PredictionWindows(with_poi, *how, city_field=True)
        windows = PredictionWindows(with_poi, *how, city_field=True)
        windows.field = CityField(with_poi, city.calendar.first_day)  # of days before the first: of nobody
        yield "told of points of interest, ", windows


@torch.no_grad()
def outcome(network, windows: PredictionWindows, alone: bool) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Records and nats [kinds], the share of new cells among the ten most probable unvisited ones, and the seconds."""
    width = windows.city.grid.width
    records, nats = np.zeros(len(KINDS)), np.zeros(len(KINDS))
    hits, began = 0, time.process_time()
    for batch in DataLoader(windows, batch_size=8, collate_fn=windows.processor.pad):
        output = network(**batch, asked_alone=alone, num_candidates=CANDIDATES)
        for row in range(len(batch["inputs"])):
            labels = batch["labels"][row]
            labels = labels[labels >= 0]
            cell = batch["inputs"][row, :, CELL]
            places = cell[cell < windows.city.grid.mask_id].unique()
            dx = labels[:, None] % width - places % width
            dy = labels[:, None] // width - places // width
            apart = torch.hypot(dx.float(), dy.float()).amin(1) if len(places) else torch.full(labels.shape, np.inf)
            kind = np.searchsorted(list(KINDS.values()), apart.numpy())
            surprise = -output.log_probability[row, : len(labels)].double().numpy()
            records += np.bincount(kind, minlength=len(KINDS))
            nats += np.bincount(kind, surprise, minlength=len(KINDS))
            candidates, logits = output.candidates[row], output.logits[row, : len(labels)]
            is_new = (candidates >= 0) & ~torch.isin(candidates, places)
            best = logits.masked_fill(~is_new, -np.inf).topk(min(MOST_PROBABLE, int(is_new.sum()))).indices
            hits += int((candidates[best] == labels[:, None]).any(1).sum())
    return records, nats, hits / max(records[1:].sum(), 1), time.process_time() - began


def line(title: str, records: np.ndarray, nats: np.ndarray, hits: float, seconds: float) -> str:
    """A row of the table."""
    parts = [
        f"{of_kind / max(n, 1):.3f} ({n / records.sum():.3f} of the records)"
        for n, of_kind in zip(records, nats, strict=True)
    ]
    return f"| {title} | {nats.sum() / records.sum():.4f} | {' | '.join(parts)} | {hits:.3f} | {seconds:.0f} |"


if __name__ == "__main__":
    main()
