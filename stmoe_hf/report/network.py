"""What a saved network says beside its cells: how probable the best ones are, and which expert sees which records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..data.city import City, city_id
from ..data.windows import PredictionWindows, WindowShape
from ..model.decoding import temper
from ..model.processing_stmoe_bert import MobilityProcessor
from ..model.records import CELL, DAY_OFF, SLOT
from ..prediction.load import load_saved
from .places import KEYS

CELLS_NAMED = 5  # of each slot
CANDIDATES = 32
BATCH = 8
QUARTERS = ("night, 0-6 h", "morning, 6-12 h", "afternoon, 12-18 h", "evening, 18-24 h")


@torch.no_grad()
def look_inside(
    folder: Path, city: City, rows: np.ndarray, cut_day: int, shape: WindowShape, data: dict[str, Any]
) -> tuple[pd.DataFrame | None, pd.DataFrame | None]:
    """Run the network once over the people of a run that were held out.

    Returns:
        Columns uid, d, t, x, y, probability, the most probable cells of each slot; None where the run predicts block
        by block, whose probabilities hang on the cells fed back. And columns layer, kind, expert, share; None without
        experts.
    """
    if data.get("predict_seq_length") or not len(rows):
        return None, None
    model = load_saved(folder)[0]
    processor = MobilityProcessor.for_data(city.grid, city.calendar)
    own = city_id(getattr(model.config, "cities", None), city)
    shape = WindowShape(shape.horizon_days, data.get("input_seq_length"))
    field = getattr(model.config, "city_field", False)
    windows = PredictionWindows(city, rows, cut_day, shape, processor, city_id=own, city_field=field)
    if not len(windows):
        return None, None
    asks_routers = {"output_router_logits": True} if getattr(model.config, "num_experts", 0) else {}
    tables, done = [], 0
    loads: dict[str, np.ndarray] = {}
    loader: DataLoader = DataLoader(windows, batch_size=BATCH, collate_fn=processor.pad)  # type: ignore[arg-type]
    for batch in loader:
        output = model(**{**batch, "labels": None}, num_candidates=CANDIDATES, **asks_routers)
        told = temper(output.logits, output.candidates, city.grid.num_cells, getattr(model.config, "temperature", 1.0))
        tables += [
            _probable(windows, done + row, told[row], output.candidates[row]) for row in range(len(batch["inputs"]))
        ]
        done += len(batch["inputs"])
        routers = getattr(output, "router_logits", None)
        if routers:
            inputs, exists = batch["inputs"].flatten(0, 1), batch["attention_mask"].flatten() != 0
            for kind, is_kind in _kinds(inputs, city).items():
                counts = _choices(routers, is_kind & exists, model.config.num_experts_per_tok)
                loads[kind] = loads.get(kind, 0) + counts
    return pd.concat(tables, ignore_index=True), _expert_table(loads)


def _probable(windows: PredictionWindows, window: int, probability: Tensor, candidates: Tensor) -> pd.DataFrame:
    """The most probable cells of each slot of a window; probability [Q, K], candidates [K]."""
    asked = windows.asked_for(window)
    count = len(asked["uid"])
    best = probability[:count].masked_fill(candidates < 0, 0).topk(min(CELLS_NAMED, probability.shape[-1]), dim=-1)
    cells = candidates[best.indices].numpy()
    named = cells.shape[1]
    x, y = windows.city.grid.xy(cells.ravel())
    table = pd.DataFrame({key: np.repeat(asked[key], named) for key in KEYS} | {"x": x, "y": y})
    table["probability"] = best.values.numpy().ravel().astype(float)
    return table[table["probability"] > 0]


def _kinds(inputs: Tensor, city: City) -> dict[str, Tensor]:
    """[N] masks of the records [N, 6], by name."""
    quarter, asked = inputs[:, SLOT] * 4 // city.calendar.num_slots, inputs[:, CELL] == city.grid.mask_id
    off = inputs[:, DAY_OFF] == 1
    kinds = {"asked for": asked, "history": ~asked, "working day": ~off, "day off": off}
    return kinds | {name: quarter == number for number, name in enumerate(QUARTERS)}


def _choices(routers: tuple[Tensor, ...], is_kind: Tensor, chosen: int) -> np.ndarray:
    """[layers, E] how often each expert was chosen for the records of a kind."""
    experts = routers[0].shape[-1]
    counts = [
        torch.bincount(logits[is_kind].topk(chosen, dim=-1).indices.flatten(), minlength=experts) for logits in routers
    ]
    return torch.stack(counts).numpy()


def _expert_table(loads: dict[str, np.ndarray]) -> pd.DataFrame | None:
    rows = [
        {"layer": layer + 1, "kind": kind, "expert": expert + 1, "share": float(share)}
        for kind, load in loads.items()
        for layer, counts in enumerate(load)
        for expert, share in enumerate(counts / max(counts.sum(), 1))
    ]
    return pd.DataFrame(rows) if rows else None
