"""Cities: prepared once, from files in any order, by one process at a time, and never half."""

import json
import logging
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stmoe_hf.__main__ import main
from stmoe_hf.data import prepare
from stmoe_hf.data.city import open_city
from stmoe_hf.data.errors import DataError
from stmoe_hf.data.files import aside_of, open_aside

from ..helpers import people, write_city

HEADER = "uid,d,t,x,y\n"
COLUMNS = ["uid", "records", "masked", "first_day", "last_day", "day", "slot", "cell"]


def test_a_city_is_prepared_once_and_again_when_its_file_changes(tmp_path):
    folder, cache = write_city(tmp_path / "data", masked=2), tmp_path / "cache"
    first = open_city("B", folder, cache_dir=cache)
    written = {path: path.stat().st_mtime_ns for path in cache.rglob("*.arrow")}
    open_city("B", folder, cache_dir=cache)
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.arrow")} == written
    write_city(folder, users=5)
    assert len(open_city("B", folder, cache_dir=cache)) == 5
    assert len(first) == 12
    assert all(p.is_dir() or p.suffix in (".lock", ".digest") for p in cache.iterdir())
    assert not list(cache.glob(".*"))


def test_a_city_holds_what_the_file_holds(tmp_path):
    table = people(masked=2)
    city = open_city("B", write_city(tmp_path / "data", masked=2), cache_dir=tmp_path / "cache")
    assert city.num_records == len(table)
    assert city.num_masked == (table["x"] == 999).sum()
    for row in range(len(city)):
        person = city.trajectory(row)
        records = table[table["uid"] == person.uid]
        assert np.array_equal(person.day, records["d"])
        assert np.array_equal(person.slot, records["t"])
        known = records["x"].to_numpy() != 999
        expected = np.where(known, (records["y"] - 1) * 200 + records["x"] - 1, 40000)
        assert np.array_equal(person.cell, expected)
    assert city.dataset.column_names == COLUMNS
    part = city.select(np.array([3, 1]))
    assert [part.trajectory(i).uid for i in range(2)] == [3, 1]


def test_records_before_a_day_are_those_that_a_search_finds(tmp_path, monkeypatch):
    monkeypatch.setattr("stmoe_hf.data.readers.BLOCK_BYTES", 10_000)  # several chunks
    city = open_city("B", write_city(tmp_path / "data", users=30), cache_dir=tmp_path / "cache")
    assert len(city._starts) > 4
    part = city.select(np.random.default_rng(0).permutation(30)[:20])
    for some in (city, part):
        rows = np.array([7, 3, 3, 19, 0])
        for day in (0, 60, 99, np.array([1, 30, 75, 2, 59])):
            days = [some.trajectory(row).day for row in rows]
            expected = [np.searchsorted(d, n) for d, n in zip(days, np.broadcast_to(day, 5), strict=True)]
            assert some.records_before(rows, day).tolist() == expected
        assert some.day_of(rows, np.full(5, 4)).tolist() == [d[4] for d in days]
    assert city.records_before(np.zeros(0, np.int64), 60).tolist() == []


def test_a_refused_file_leaves_nothing_prepared(tmp_path):
    (tmp_path / "cityB_challengedata.csv").write_text(HEADER + "3,0,5,1,1\n9,75,7,1,1\n")
    with pytest.raises(DataError):
        open_city("B", tmp_path, cache_dir=tmp_path / "cache")
    assert not [p for p in (tmp_path / "cache").iterdir() if p.is_dir()]
    (tmp_path / "cityB_challengedata.csv").write_text(HEADER + "3,0,5,1,1\n9,74,7,1,1\n")
    assert len(open_city("B", tmp_path, cache_dir=tmp_path / "cache")) == 2


def same(one, other):
    assert np.array_equal(one.uids, other.uids)
    for row in range(len(one)):
        for name in ("day", "slot", "cell"):
            assert np.array_equal(getattr(one.trajectory(row), name), getattr(other.trajectory(row), name))


def test_blocks_may_end_anywhere(tmp_path, monkeypatch):
    folder = write_city(tmp_path / "data", users=30, masked=3)
    whole = open_city("B", folder, cache_dir=tmp_path / "whole")
    for size in (300, 1000, 7777):
        monkeypatch.setattr("stmoe_hf.data.readers.BLOCK_BYTES", size)
        same(open_city("B", folder, cache_dir=tmp_path / f"blocks{size}"), whole)


def test_records_in_any_order_and_users_split_over_files(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(prepare, "RECORDS_A_BUCKET", 700)
    table = people(users=30, masked=3)
    whole = open_city("B", write_city(tmp_path / "data", users=30, masked=3), cache_dir=tmp_path / "cache")
    (tmp_path / "parts").mkdir()
    shuffled = table.sample(frac=1, random_state=0)
    shuffled[:2000].to_csv(tmp_path / "parts" / "1.csv", index=False)
    shuffled[2000:4000].to_csv(tmp_path / "parts" / "2.csv.gz", index=False)
    shuffled[4000:].to_parquet(tmp_path / "parts" / "3.parquet")
    with caplog.at_level(logging.WARNING):
        parts = open_city(path=tmp_path / "parts", cache_dir=tmp_path / "cache")
    assert "it is sorted on disk" in caplog.text
    same(parts, whole)
    assert not [p for p in (tmp_path / "cache").rglob("*") if "bucket" in p.name or "spilled" in p.name]


@pytest.mark.parametrize("sort", [True, False])
def test_two_records_in_one_slot_are_refused_with_both_lines(tmp_path, sort):
    lines = ["3,0,5,1,1", "3,0,6,200,1", "3,0,6,4,4", "7,2,0,9,9"]
    if not sort:
        lines = [lines[3], lines[1], lines[0], lines[2]]
    (tmp_path / "cityB_challengedata.csv").write_text(HEADER + "\n".join(lines) + "\n")
    expected = "line 3 and .*line 4" if sort else "line 3 and .*line 5"
    with pytest.raises(DataError, match=expected + ": two records of uid 3 on day 0, slot 6"):
        open_city("B", tmp_path, cache_dir=tmp_path / "cache")


def test_two_records_in_one_slot_of_two_files(tmp_path):
    (tmp_path / "1.csv").write_text(HEADER + "3,0,5,1,1\n\n3,0,6,200,1\n")
    for second, lines in (("3,0,6,4,4\n7,2,0,9,9\n", (4, 2)), ("7,2,0,9,9\n3,0,6,4,4\n", (4, 3))):
        (tmp_path / "2.csv").write_text(HEADER + second)
        said = r"1\.csv, line {} and .*2\.csv, line {}: two records of uid 3".format(*lines)
        with pytest.raises(DataError, match=said):
            open_city(path=tmp_path, cache_dir=tmp_path / "cache")


def test_two_records_in_one_slot_on_both_sides_of_a_block(tmp_path, monkeypatch):
    monkeypatch.setattr("stmoe_hf.data.readers.BLOCK_BYTES", 30)
    lines = [f"1,0,{t},1,1" for t in range(40)]
    lines.insert(20, lines[20])
    (tmp_path / "cityB_challengedata.csv").write_text(HEADER + "\n".join(lines) + "\n")
    with pytest.raises(DataError, match=r"line 22 and .*line 23: two records of uid 1 on day 0, slot 20"):
        open_city("B", tmp_path, cache_dir=tmp_path / "cache")


def prepare_in_process(folder, cache, queue):
    written = []
    original = prepare._write
    prepare._write = lambda *arguments: (written.append(1), time.sleep(0.5), original(*arguments))
    open_city("B", folder, cache_dir=cache)
    queue.put(len(written))


def test_of_two_processes_one_prepares_and_one_waits(tmp_path):
    folder = write_city(tmp_path / "data")
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    both = [context.Process(target=prepare_in_process, args=(folder, tmp_path / "cache", queue)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert sorted(queue.get(timeout=5) for _ in both) == [0, 1]


def test_what_a_killed_process_leaves_is_not_taken_for_a_city(tmp_path):
    folder = write_city(tmp_path / "data")
    code = """
import os, sys
from stmoe_hf.data import prepare
from stmoe_hf.data.city import open_city
original = prepare._write
def killed(*arguments):
    original(*arguments)
    os._exit(9)
prepare._write = killed
open_city("B", sys.argv[1], cache_dir=sys.argv[2])
"""
    done = subprocess.run([sys.executable, "-c", code, str(folder), str(tmp_path / "cache")])
    assert done.returncode == 9
    assert list((tmp_path / "cache").glob(".*.part"))
    assert len(open_city("B", folder, cache_dir=tmp_path / "cache")) == 12
    assert not list((tmp_path / "cache").glob(".*"))


@pytest.mark.parametrize("replace", [shutil.copy2, lambda new, old: os.replace(new, old)], ids=["cp -p", "rsync -t"])
def test_a_file_replaced_with_its_size_and_time_kept_is_prepared_again(tmp_path, replace):
    file, other = tmp_path / "data" / "city.csv", tmp_path / "other.csv"
    file.parent.mkdir()
    file.write_text(HEADER + "1,0,5,1,1\n")
    other.write_text(HEADER + "2,0,5,1,1\n")
    os.utime(other, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    assert open_city(path=file, cache_dir=tmp_path / "cache").uids.tolist() == [1]
    replace(other, file)
    assert open_city(path=file, cache_dir=tmp_path / "cache").uids.tolist() == [2]


@pytest.mark.parametrize(
    "damage",
    [
        lambda users: users.unlink(),
        lambda users: users.write_bytes(users.read_bytes()[:-100]),
        lambda users: users.write_bytes(users.read_bytes().replace(b"\x05", b"\x06")),
        lambda users: shutil.rmtree(users.parent),
        lambda users: (users.parent / prepare.DIGEST_FILE).write_text("{"),
    ],
    ids=["deleted", "cut off", "changed", "its folder deleted", "its note damaged"],
)
def test_a_damaged_prepared_city_is_prepared_again(tmp_path, damage):
    folder, cache = write_city(tmp_path / "data"), tmp_path / "cache"
    whole = open_city("B", folder, cache_dir=tmp_path / "untouched")
    open_city("B", folder, cache_dir=cache)
    (users,) = cache.rglob("*.arrow")
    damage(users)
    same(open_city("B", folder, cache_dir=cache), whole)


def open_as_nobody(folder, cache, queue):
    if os.geteuid() == 0:  # root may write everywhere
        os.setuid(65534)
    try:
        queue.put(len(open_city("B", folder, cache_dir=cache)))
    except PermissionError as error:
        queue.put(str(error))


def test_a_cache_that_cannot_be_written_serves_what_is_in_it_and_says_so_of_the_rest():
    with tempfile.TemporaryDirectory() as name:
        folder, cache = write_city(Path(name) / "data"), Path(name) / "cache"
        open_city("B", folder, cache_dir=cache)
        other = write_city(Path(name) / "other", users=5)
        for path in (Path(name), folder, other, cache, *cache.iterdir()):
            path.chmod(0o555)
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        for data in (folder, other):
            process = context.Process(target=open_as_nobody, args=(data, cache, queue))
            process.start()
            process.join(60)
        assert queue.get(timeout=5) == 12
        assert "cannot be written: give another folder for prepared cities" in queue.get(timeout=5)
        for path in (Path(name), folder, other, cache, *cache.iterdir()):
            path.chmod(0o755)


def test_what_killed_processes_left_half_made_is_swept_away(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    mine = aside_of(tmp_path / "mine.csv")
    dead = tmp_path / mine.name.replace(f".{os.getpid()}.", f".{gone.pid}.")
    far, old = (tmp_path / f".{name}.csv.elsewhere.1.2.part" for name in ("far", "old"))
    for path in (mine, far, old):
        path.touch()
    dead.mkdir()
    os.utime(old, (0, 0))
    with open_aside(tmp_path / "new.csv"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([mine.name, far.name, "new.csv"])


def test_the_prepare_command_ends_with_one_json_line(tmp_path, capsys):
    table = people(masked=2)
    folder = write_city(tmp_path / "data", masked=2)
    options = ["--city", "B", "--data_dir", str(folder), "--output_dir", str(tmp_path / "cache")]
    assert main(["prepare", *options]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["records"] == len(table)
    assert result["users"] == 12
    assert result["masked"] == (table["x"] == 999).sum()
    assert result["seconds"] >= 0
    assert result["peak_rss_mb"] > 0


def test_a_city_is_found_as_a_folder_of_parts_or_as_parquet(tmp_path, capsys):
    table = people(masked=2)
    parts = tmp_path / "parts" / "cityB_challengedata"
    parts.mkdir(parents=True)
    table[:1500].to_parquet(parts / "1.parquet")
    table[1500:].to_csv(parts / "2.csv", index=False)
    table.to_parquet(tmp_path / "cityB_challengedata.parquet")
    for folder in (tmp_path / "parts", tmp_path):
        options = ["--city", "B", "--data_dir", str(folder), "--output_dir", str(tmp_path / "cache")]
        assert main(["prepare", *options]) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["records"] == len(table)


def test_a_folder_without_parts_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no part of a city"):
        open_city(path=tmp_path, cache_dir=tmp_path / "cache")
    pd.DataFrame().to_csv(tmp_path / "part.csv")
    with pytest.raises(DataError):
        open_city(path=tmp_path, cache_dir=tmp_path / "cache")


def test_a_city_says_what_it_is_and_gives_its_records_as_a_table(tmp_path):
    table = people(users=5, masked=2)
    city = open_city("B", write_city(tmp_path, users=5, masked=2), cache_dir=tmp_path / "cache")
    assert repr(city).startswith(f"City('B', humob2024: 5 people, {len(table):,} records (")
    assert city.to_pandas().equals(table)
    some = city.select(np.array([4, 1])).to_pandas()
    assert some.equals(pd.concat([table[table["uid"] == uid] for uid in (4, 1)], ignore_index=True))
