"""A real Ray of two workers and a real Spark of two cores: the same answers as on this machine, whatever dies."""

import os
import re
import signal
import subprocess
import sys
import time

import pandas as pd
import pyarrow as pa
import pytest

from stmoe_hf.__main__ import main
from stmoe_hf.data.errors import DataError
from stmoe_hf.scale.local import LocalEngine
from stmoe_hf.scale.run import run_shards

from ..helpers import ROOT
from .fixtures import KillsAWorker, contents, job, table_of, write_shards

pytestmark = pytest.mark.engines
SETTINGS = {"slots": tuple(range(14, 26))}
OPTIONS = {"ray": ["--engine", "ray", "--workers", "2"], "spark": ["--engine", "spark", "--cluster", "local[2]"]}


@pytest.fixture(scope="module", autouse=True)
def tests_can_be_imported_by_workers():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module", params=["ray", "spark"])
def engine(request):
    """(name, engine), started once for all tests of this file."""
    if request.param == "ray":
        pytest.importorskip("ray")
        from stmoe_hf.scale.on_ray import RayEngine

        started = patiently(lambda: RayEngine(workers=2))
    else:
        pytest.importorskip("pyspark")
        from stmoe_hf.scale.on_spark import SparkEngine

        started = SparkEngine("local[2]")
    assert started.slots == 2
    yield request.param, started
    started.close()


def patiently(start):
    """What `start` gives; on a busy machine Ray's own processes may wait for each other for too long, so once more."""
    import ray

    try:
        return start()
    except Exception:
        ray.shutdown()
        return start()


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("people"), users=12, shards=6)


@pytest.fixture(scope="module")
def here(model, people, tmp_path_factory):
    """The answers of this process."""
    output, engine = tmp_path_factory.mktemp("here"), LocalEngine(1)
    run_shards(job(model, **SETTINGS), str(people), str(output), engine)
    engine.close()
    return output


def test_forecasts_crowds_and_flows_are_those_of_this_machine(engine, model, people, here, tmp_path):
    done = run_shards(job(model, **SETTINGS), str(people), str(tmp_path / "out"), engine[1])
    assert (done.shards, done.people) == (6, 12)
    assert table_of(tmp_path / "out").equals(table_of(here))
    assert contents(tmp_path / "out") == contents(here)
    for command in ("crowds", "flows"):
        for folder, name in ((here, "here.csv"), (tmp_path / "out", "there.csv")):
            options = ["--forecast", str(folder), "--edition", "humob2024", "--min_people", "1", "--square_km", "10"]
            assert main([command, *options, "--output", str(tmp_path / name)]) == 0
        assert len(pd.read_csv(tmp_path / "here.csv")) > 1
        assert (tmp_path / "here.csv").read_bytes() == (tmp_path / "there.csv").read_bytes()


def test_workers_are_told_of_the_counts_of_a_city_as_this_machine_is(engine, people, tmp_path):
    file = tmp_path / "city.parquet"
    assert main(["field", "--input", str(people), "--min_people", "2", "--output", str(file)]) == 0
    here = LocalEngine(1)
    for name, how, field in (("here", here, file), ("there", engine[1], file), ("nobody", here, None)):
        ours = job(None, field=field and str(field), slots=(17,), top_k=60, decoder=None)
        run_shards(ours, str(people), str(tmp_path / name), how)
    here.close()
    assert contents(tmp_path / "here") == contents(tmp_path / "there") != contents(tmp_path / "nobody")


def test_a_worker_that_is_killed_costs_its_shard_and_nothing_else(engine, model, people, here, tmp_path):
    fragile = KillsAWorker(engine[1], tmp_path / "killed", "part-2.parquet")
    assert run_shards(job(model, **SETTINGS), str(people), str(tmp_path / "out"), fragile).done_now == 6
    assert (tmp_path / "killed").exists()
    assert fragile.tried.count("part-2.parquet") == 2 and len(fragile.tried) == 7
    assert contents(tmp_path / "out") == contents(here)


def test_a_second_run_on_the_output_of_a_run_at_work_is_refused(engine, model, people, here, tmp_path):
    refused = []

    class Watched:
        slots = engine[1].slots

        def submit(self, function, shard):
            with pytest.raises(DataError, match="is written by process") as error:
                run_shards(job(model, days=2, **SETTINGS), str(people), str(tmp_path / "out"), engine[1])
            refused.append(error)
            return engine[1].submit(function, shard)

    run_shards(job(model, **SETTINGS), str(people), str(tmp_path / "out"), Watched())
    assert len(refused) == 6
    assert contents(tmp_path / "out") == contents(here)


@pytest.mark.parametrize("name", list(OPTIONS))
def test_a_run_that_is_killed_and_started_again_ends_equal(name, model, people, here, tmp_path, capsys):
    pytest.importorskip({"ray": "ray", "spark": "pyspark"}[name])
    output = tmp_path / "out"
    slots = ",".join(map(str, SETTINGS["slots"]))
    what = ["--days", "1", "--decoder", "mode", "--slots", slots, "--device", "cpu", "--model", model]
    command = ["forecast", "--input", str(people), "--output", str(output), *what]
    run = [sys.executable, "-m", "stmoe_hf", *command, *OPTIONS[name]]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(run, stdout=log, stderr=log)
        until = time.monotonic() + 400
        while not contents(output) and process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    found = len(contents(output))
    assert found, (tmp_path / "log").read_text()[-2000:]
    assert (output / "_lock").exists()
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    # What the killed run had finished is not done again; a worker that outlived it may have finished some more.
    now = int(re.search(r"in 6 shards, (\d) of them done now", done.stdout)[1])
    assert now <= 6 - found < 6
    assert table_of(output).equals(table_of(here))
    assert contents(output) == contents(here)


def test_map_batches_of_ray_data_gives_the_same_rows(model, people, here):
    ray = pytest.importorskip("ray")
    ours = job(model, **SETTINGS)

    class Forecast:
        def __call__(self, table: pa.Table) -> pa.Table:
            return pa.Table.from_batches(ours(table.to_batches()), ours.schema())

    started = not ray.is_initialized()
    if started:
        patiently(lambda: ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False))
    data = ray.data.read_parquet(str(people)).map_batches(Forecast, batch_format="pyarrow", concurrency=1)
    found = data.to_pandas().sort_values(["uid", "d", "t"], ignore_index=True)
    if started:
        ray.shutdown()
    assert (found.to_numpy() == table_of(here).to_numpy()).all()


def test_map_in_arrow_of_spark_gives_the_same_rows(model, people, here):
    pytest.importorskip("pyspark")
    from pyspark.sql import SparkSession
    from pyspark.sql.pandas.types import from_arrow_schema

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    session = SparkSession.builder.master("local[2]").getOrCreate()
    ours = job(model, **SETTINGS)
    frame = session.read.parquet(str(people)).mapInArrow(ours, from_arrow_schema(ours.schema()))
    found = frame.toPandas().sort_values(["uid", "d", "t"], ignore_index=True)
    session.stop()
    assert (found.to_numpy() == table_of(here).to_numpy()).all()
