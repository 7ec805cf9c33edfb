"""Shards: done once, whole or not there, listed with what they were made from; what fails is named, no more."""

import json
import multiprocessing
import os
import time

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stmoe_hf.__main__ import main
from stmoe_hf.data.errors import DataError
from stmoe_hf.scale import folders, run
from stmoe_hf.scale.folders import LOCK, Folder, locked
from stmoe_hf.scale.local import LocalEngine
from stmoe_hf.scale.run import MANIFEST, ShardsFailed, run_shards

from .fixtures import KillsAWorker, contents, job, rows, table_of, write_shards


@pytest.fixture
def engine():
    engine = LocalEngine(1)
    yield engine
    engine.close()


@pytest.fixture
def people(tmp_path):
    return write_shards(tmp_path / "people")


class Fails:
    """An engine in this process on which chosen shards fail so many times, and which notes what it does."""

    slots = 1

    def __init__(self, failures=None):
        self.failures, self.tried = dict(failures or {}), []

    def submit(self, function, shard):
        future = run.Future()
        self.tried.append(shard.name)
        try:
            if self.failures.get(shard.name, 0):
                self.failures[shard.name] -= 1
                raise OSError("the disk is full")
            future.set_result(function(shard))
        except Exception as error:
            future.set_exception(error)
        return future

    def close(self):
        pass


def test_a_second_run_does_nothing_and_a_changed_input_alone_is_done_again(model, people, tmp_path):
    output = tmp_path / "out"
    first = run_shards(job(model), str(people), str(output), Fails())
    assert (first.done_now, first.shards, first.people, first.rows) == (4, 4, 8, 24)
    before = contents(output)
    engine = Fails()
    assert run_shards(job(model), str(people), str(output), engine).done_now == 0
    assert engine.tried == []
    os.utime(people / "part-0.parquet", (1, 1))  # touched, not changed
    pq.write_table(rows(users=2, seed=5), people / "part-2.parquet")
    (output / "part-3.parquet").unlink()
    (people / "part-1.parquet").unlink()
    assert run_shards(job(model), str(people), str(output), engine).shards == 3
    assert engine.tried == ["part-2.parquet", "part-3.parquet"]
    after = contents(output)
    assert sorted(after) == ["part-0.parquet", "part-2.parquet", "part-3.parquet"]  # of no input, no answer
    assert after["part-0.parquet"] == before["part-0.parquet"]
    assert after["part-2.parquet"] != before["part-2.parquet"]
    assert after["part-3.parquet"] == before["part-3.parquet"]


def test_the_manifest_tells_of_each_shard_what_it_was_made_from(model, people, tmp_path):
    output = tmp_path / "out"
    run_shards(job(model), str(people), str(output), Fails())
    manifest = pd.read_parquet(output / MANIFEST)
    assert manifest["name"].tolist() == [f"part-{i}.parquet" for i in range(4)]
    assert manifest["people"].tolist() == [2] * 4 and manifest["made_from"].nunique() == 1
    assert manifest["input_sha256"].str.fullmatch("[0-9a-f]{64}").all()
    settings = json.loads((output / "_run.json").read_text())["settings"]
    assert settings["kind"] == "forecast" and len(settings["weights"]) == 64


def test_other_settings_or_weights_are_refused_and_never_mix(model, people, tmp_path):
    output = tmp_path / "out"
    run_shards(job(model), str(people), str(output), Fails())
    with pytest.raises(DataError, match=r"other settings \(forecast.days was 1, is 2\).*--replace"):
        run_shards(job(model, days=2), str(people), str(output), Fails())
    done = run_shards(job(model, days=2), str(people), str(output), Fails(), replace_others=True)
    assert (done.done_now, done.rows) == (4, 48) and len(table_of(output)) == 48
    with pytest.raises(DataError, match="weights was"):
        run_shards(job(None, days=2), str(people), str(output), Fails())
    (tmp_path / "theirs").mkdir()
    pq.write_table(rows(users=1), tmp_path / "theirs" / "trips.parquet")
    with pytest.raises(DataError, match="none of ours"):
        run_shards(job(model), str(people), str(tmp_path / "theirs"), Fails())
    assert (tmp_path / "theirs" / "trips.parquet").exists()


def test_a_shard_that_fails_three_times_is_named_and_the_others_go_on(model, people, tmp_path):
    output = tmp_path / "out"
    engine = Fails({"part-1.parquet": 3, "part-2.parquet": 2})
    with pytest.raises(ShardsFailed, match=r"1 of 4 shards failed 3 times: part-1.parquet \(the disk is full\)"):
        run_shards(job(model), str(people), str(output), engine)
    assert sorted(contents(output)) == ["part-0.parquet", "part-2.parquet", "part-3.parquet"]
    assert engine.tried.count("part-2.parquet") == 3
    assert run_shards(job(model), str(people), str(output), Fails()).done_now == 1


def test_a_file_that_is_no_parquet_fails_by_its_name(model, people, tmp_path):
    (people / "part-1.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(ShardsFailed, match=r"part-1.parquet cannot be read"):
        run_shards(job(model), str(people), str(tmp_path / "out"), Fails())
    assert len(contents(tmp_path / "out")) == 3


def test_rows_that_cannot_be_read_are_set_aside_and_beyond_max_bad_the_run_stops(model, people, tmp_path):
    table = rows(users=2, seed=3).to_pylist()
    table[1]["slot"][4] = 99
    pq.write_table(pa.Table.from_pylist(table), people / "part-0.parquet")
    output = tmp_path / "out"
    engine = Fails()
    with pytest.raises(
        ShardsFailed, match=r"1 rows cannot be read, more than --max_bad 0: first part-0.parquet, row 1"
    ):
        run_shards(job(model), str(people), str(output), engine)
    assert engine.tried == ["part-0.parquet"]
    assert run_shards(job(model), str(people), str(output), engine, max_bad=1).bad == 1
    bad = pd.read_csv(output / "_quarantine" / "part-0.parquet.csv")
    assert bad.loc[0, ["file", "row", "uid"]].tolist() == ["part-0.parquet", 1, 1]
    assert "record 4: slot 99" in bad.loc[0, "reason"]
    assert len(table_of(output)) == 7 * 3  # readers of the folder see the answers alone
    write_shards(people)
    run_shards(job(model), str(people), str(output), engine)
    assert not (output / "_quarantine" / "part-0.parquet.csv").exists()


def test_two_runs_on_one_output_are_refused(model, people, tmp_path, engine):
    said = rf"is written by process {os.getpid()} of .*give another --output"
    with locked(Folder(str(tmp_path / "out"))), pytest.raises(DataError, match=said):
        run_shards(job(model), str(people), str(tmp_path / "out"), engine)
    assert run_shards(job(model), str(people), str(tmp_path / "out"), engine).done_now == 4


def test_the_lock_of_a_run_that_is_no_more_is_taken_over_and_what_it_left_half_written_is_swept(
    model, people, tmp_path, monkeypatch
):
    output = tmp_path / "out"
    output.mkdir()
    (output / ".part-0.parquet.ab12.part").write_bytes(b"half")
    gone = multiprocessing.get_context("spawn").Process(target=int)
    gone.start()
    gone.join()
    mine = {"token": "x", "host": folders.socket.gethostname(), "process": gone.pid, "alive": time.time()}
    (output / LOCK).write_text(json.dumps(mine))
    assert run_shards(job(model), str(people), str(output), Fails()).done_now == 4
    assert [path.name for path in output.iterdir() if path.name.endswith(".part") or path.name == LOCK] == []
    silent = mine | {"host": "elsewhere", "alive": time.time() - 10}
    (output / LOCK).write_text(json.dumps(silent))
    with pytest.raises(DataError, match="of elsewhere, heard of"):
        run_shards(job(model), str(people), str(output), Fails())
    monkeypatch.setattr(folders, "STALE_SECONDS", 5)
    assert run_shards(job(model), str(people), str(output), Fails()).done_now == 0


def test_a_worker_whose_run_has_lost_its_folder_writes_nothing(model, people, tmp_path):
    output = Folder(str(tmp_path / "out"))

    class TakenOver(Fails):
        def submit(self, function, shard):
            if shard.name == "part-2.parquet":
                output.fs.pipe_file(output.path(LOCK), json.dumps({"token": "another"}).encode())
            return super().submit(function, shard)

    with pytest.raises(OSError, match="is written by another run now"):
        run_shards(job(model), str(people), output.url, TakenOver())
    assert sorted(contents(tmp_path / "out")) == ["part-0.parquet", "part-1.parquet"]


def test_shards_lie_wherever_fsspec_reaches(model, people, tmp_path):
    memory = fsspec.filesystem("memory")
    memory.put(str(people) + "/", "/scale/people/", recursive=True)
    engine = Fails()
    done = run_shards(job(model), "memory://scale/people", "memory://scale/out", engine)
    assert done.done_now == 4
    assert run_shards(job(model), "memory://scale/people", "memory://scale/out", engine).done_now == 0
    here = run_shards(job(model), str(people), str(tmp_path / "out"), Fails())
    assert here.rows == done.rows
    with memory.open("/scale/out/part-3.parquet", "rb") as file:
        assert pq.read_table(file).equals(pq.read_table(tmp_path / "out" / "part-3.parquet"))


@pytest.mark.slow
def test_processes_give_the_bytes_of_this_process_and_one_that_dies_costs_its_shard_only(model, people, tmp_path):
    run_shards(job(model), str(people), str(tmp_path / "one"), Fails())
    engine = LocalEngine(2)
    try:
        fragile = KillsAWorker(engine, tmp_path / "died", "part-1.parquet")
        assert run_shards(job(model), str(people), str(tmp_path / "two"), fragile).done_now == 4
    finally:
        engine.close()
    assert (tmp_path / "died").exists() and fragile.tried.count("part-1.parquet") == 2
    assert len(fragile.tried) == 5
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_the_command_does_a_folder_and_says_in_one_line_what_is_wrong(model, people, tmp_path, capsys):
    output = tmp_path / "out"
    how = ["--model", model, "--days", "1", "--decoder", "mode", "--slots", "0,17,30", "--workers", "1"]
    command = ["forecast", "--input", str(people), "--output", str(output), "--device", "cpu", *how]
    assert main(command) == 0
    assert "24 rows for 8 people in 4 shards, 4 of them done now" in capsys.readouterr().out
    assert table_of(output)["uid"].nunique() == 8
    (people / "part-9.parquet").write_bytes(b"nothing")
    assert main(command) == 1
    assert "1 of 5 shards failed 3 times: part-9.parquet" in capsys.readouterr().err
    for wrong, text in (
        (["forecast", "--input", str(people), "--output", str(people / "within")], "lies within the input"),
        (["forecast", "--input", str(tmp_path / "none"), "--output", str(output)], "holds no parquet file"),
        (["forecast", "--input", "s4://x/y", "--output", str(output)], "cannot be opened"),
        (["forecast", "--points", "p.csv", "--workers", "2", "--output", "o.csv"], "--workers is said of a folder"),
        ([*command, "--points", "p.csv"], "--points is not said of a folder of shards"),
        ([*command, "--like", str(tmp_path)], "there is no city.json in"),
        (["gps", "--input", str(people), "--output", str(output), "--timezone", "UTC"], "give --bounds, or --like"),
    ):
        assert main(wrong) == 1
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: ") and text in error


def test_an_engine_that_is_not_installed_is_one_line_with_what_to_install(
    model, people, tmp_path, capsys, monkeypatch
):
    for name, package in (("ray", "ray"), ("spark", "pyspark")):
        monkeypatch.setitem(__import__("sys").modules, package, None)
        monkeypatch.setitem(__import__("sys").modules, f"{package}.sql", None)
        command = ["forecast", "--input", str(people), "--output", str(tmp_path / "o"), "--engine", name]
        assert main(command) == 1
        assert f"pip install 'stmoe-hf[{name}]'" in capsys.readouterr().err


def test_crowds_and_flows_read_a_folder_of_shards(model, people, tmp_path):
    output = tmp_path / "out"
    run_shards(job(model, slots=None), str(people), str(output), Fails())
    table_of(output).to_parquet(tmp_path / "one.parquet")
    for command in ("crowds", "flows"):
        for forecast in (output, tmp_path / "one.parquet"):
            options = ["--forecast", str(forecast), "--edition", "humob2024", "--min_people", "1", "--square_km", "10"]
            assert main([command, *options, "--output", str(tmp_path / f"{forecast.name}.csv")]) == 0
        folder, file = (pd.read_csv(tmp_path / name) for name in ("out.csv", "one.parquet.csv"))
        assert len(folder) and folder.columns.equals(file.columns)
        np.testing.assert_allclose(folder.select_dtypes("number"), file.select_dtypes("number"))
