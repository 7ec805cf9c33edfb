"""What tests share: made-up people, a small network and its batch, the sizes of a small run."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from stmoe_hf import STMoEBertConfig, STMoEBertForMobility
from stmoe_hf.data.city import City, open_city
from stmoe_hf.model.records import CELL, NO_LABEL

ROOT = Path(__file__).parents[1]
REPOSITORY = "org/stmoe-bert-cityB"

SIZES = (
    "--hidden_size 16 --num_hidden_layers 2 --num_attention_heads 2 --intermediate_size 32 --num_experts 4"
    " --location_embedding_size 4 --history_content_size 8 --history_relation_size 4 --dropout 0.1"
    " --per_device_train_batch_size 4 --learning_rate 5e-3 --logging_steps 1 --disable_tqdm true --use_cpu true"
    " --report false"
).split()

NO_CELL_HEAD = ["--cell_head", "false"]


SMALL = {
    "grid_width": 12,
    "grid_height": 10,
    "num_days": 20,
    "num_slots": 24,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_experts": 4,
    "location_embedding_size": 8,
    "dropout": 0.0,
}


# Changes of SMALL that leave nothing of a grid or a calendar in the weights.
PORTABLE = {
    "location_embedding_size": 0,
    "day_embedding_size": 0,
    "cell_head": False,
    "history_spread": 2,
    "history_far": True,
    "record_features": True,
    "grid_width": 40,
    "grid_height": 30,
    "num_days": 40,
    "num_slots": 48,
}


def people(users: int = 12, seed: int = 0, masked: int = 0, days: int = 75) -> pd.DataFrame:
    """Records of people who sleep at home and work elsewhere on working days, with some noise.

    The last `masked` of them have x = y = 999 from day 60 on.
    """
    random = np.random.default_rng(seed)
    parts = []
    for uid in range(users):
        home, work = random.integers(60, 140, (2, 2))
        time = np.sort(random.choice(days * 48, random.integers(150, 300), replace=False))
        day, slot = time // 48, time % 48
        at_work = (day % 7 < 6) & (day % 7 > 0) & (slot >= 18) & (slot < 36)
        place = np.where(at_work[:, None], work, home) + random.integers(-1, 2, (len(time), 2))
        if uid >= users - masked:
            place[day >= 60] = 999
        parts.append(pd.DataFrame({"uid": uid, "d": day, "t": slot, "x": place[:, 0], "y": place[:, 1]}))
    return pd.concat(parts, ignore_index=True)


def city_of(folder: Path, table: pd.DataFrame) -> City:
    """City B of these records, from a file in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "cityB_challengedata.csv.gz", index=False)
    return open_city("B", folder, cache_dir=folder / "cache")


def write_city(folder: Path, city: str = "B", **options) -> Path:
    """A file of a city of 2024; returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    people(**options).to_csv(folder / f"city{city}_challengedata.csv.gz", index=False)
    return folder


def small_model(**changes) -> STMoEBertForMobility:
    torch.manual_seed(0)
    model = STMoEBertForMobility(STMoEBertConfig(**(SMALL | changes)))
    with torch.no_grad():  # away from the start, where relation and content are zero
        for name, parameter in model.named_parameters():
            if "history_head" in name or "gate" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def batch(rows: int = 4, records: int = 30, asked: tuple[int, ...] = (6, 9, 3, 5), seed: int = 1):
    """Inputs and labels of some rows of different lengths; the last `asked` records of a row are asked for."""
    generator = torch.Generator().manual_seed(seed)
    config = STMoEBertConfig(**SMALL)
    inputs = torch.zeros(rows, records, 6, dtype=torch.long)
    labels = torch.full((rows, records), NO_LABEL)
    inputs[..., CELL] = config.pad_id
    for row in range(rows):
        length = records - 3 * row
        time = torch.randperm(20 * 24, generator=generator)[:length].sort().values
        cells = torch.randint(0, 15, (length,), generator=generator)
        day = time // 24
        columns = (day, time % 24, day % 7, (day % 7 >= 5).long(), time.diff(prepend=time[:1]), cells)
        inputs[row, :length] = torch.stack(columns, dim=-1)
        labels[row, length - asked[row] : length] = cells[length - asked[row] :]
        inputs[row, length - asked[row] : length, CELL] = config.mask_id
    return inputs, labels


def portable_model(**changes) -> STMoEBertForMobility:
    """A small network that can be moved to any grid and calendar."""
    model = small_model(**(PORTABLE | changes)).eval()
    with torch.no_grad():
        if model.far is not None:
            model.far.rings.weight.normal_(0, 0.2)
    return model
