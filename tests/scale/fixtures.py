"""Small shards of made-up people, and a small network for them."""

import os
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from stmoe_hf import MobilityProcessor
from stmoe_hf.scale.batches import forecast_job
from stmoe_hf.scale.shards import do_shard

from ..helpers import people, portable_model

DAYS = 20


def rows(**options) -> pa.Table:
    """One row a person."""
    table = people(days=DAYS, **options).rename(columns={"d": "day", "t": "slot"})
    return pa.Table.from_pandas(table.groupby("uid").agg(list).reset_index(), preserve_index=False)


def write_shards(folder: Path, users: int = 8, shards: int = 4) -> Path:
    """`users` people in so many files."""
    folder.mkdir(parents=True, exist_ok=True)
    table, each = rows(users=users), users // shards
    for number in range(shards):
        pq.write_table(table.slice(number * each, each), folder / f"part-{number}.parquet")
    return folder


def write_model(folder: Path) -> str:
    """The folder of a small portable network."""
    portable_model(temperature=0.8).save_pretrained(folder)
    MobilityProcessor(40, 30, num_days=40).save_pretrained(folder)
    return str(folder)


def job(model: str, **settings):
    return forecast_job(model=model, device="cpu", **({"days": 1, "decoder": "mode", "slots": [0, 17, 30]} | settings))


def contents(folder: Path) -> dict[str, bytes]:
    """The files of answers of a run, to the byte."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("[!_.]*.parquet"))}


def table_of(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder).sort_values(["uid", "d", "t"], ignore_index=True)


class KillsAWorker:
    """An engine of which a worker is killed in the middle of one shard, once; notes what is tried."""

    def __init__(self, engine, mark, name):
        self.engine, self.slots, self.tried = engine, engine.slots, []
        self.do = KilledOnce(str(mark), name)

    def submit(self, function, shard):
        self.tried.append(shard.name)
        return self.engine.submit(self.do, shard)


class KilledOnce:
    def __init__(self, mark, name):
        self.mark, self.name = mark, name

    def __call__(self, shard):
        if shard.name == self.name and not os.path.exists(self.mark):
            with open(self.mark, "w"):
                os.kill(os.getpid(), 9)
        return do_shard(shard)
