"""One reader of records: `prepare`, `validate` and `score` take and refuse the same values with the same words."""

import bz2
import gzip
import io
import lzma
import zipfile

import pandas as pd
import pytest

from stmoe_hf.__main__ import main
from stmoe_hf.data.city import open_city
from stmoe_hf.data.errors import DataError
from stmoe_hf.data.readers import part_files, stream_records
from stmoe_hf.data.submission import read_table
from stmoe_hf.model.spacetime import Calendar, Grid

HEADER = "uid,d,t,x,y"
ROWS = ["3,60,5,1,1", "3,60,6,200,1", "3,74,47,1,200"]
TABLE = [[3, 60, 5, 1, 1], [3, 60, 6, 200, 1], [3, 74, 47, 1, 200]]
WRONG = {
    "hexadecimal": ("0x10", "'0x10', which is no whole number"),
    "a plus": ("+3", "'+3', which is no whole number"),
    "an underscore": ("1_0", "'1_0', which is no whole number"),
    "full-width digits": ("\uff11", "'\uff11', which is no whole number"),
    "Arabic digits": ("\u0661", "'\u0661', which is no whole number"),
    "a half": ("1.5", "'1.5', which is no whole number"),
    "text": ("one", "'one', which is no whole number"),
    "5,000 digits": ("1" * 5000, f"'{'1' * 40}'... (5,000 characters), which is too large"),
    "200,000 characters": ("a" * 200_000, f"'{'a' * 40}'... (200,000 characters), which is no whole number"),
    "a bool": ("True", "'True', which is no whole number"),
    "not a number": ("nan", "'nan', which is no whole number"),
    "nothing": ("", "missing"),
}


def write(path, rows, header=HEADER):
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def every_command(path, folder, capsys):
    """What `prepare`, `validate` and `score` say of a file, and their return codes."""
    asked = write(folder / "asked.csv", [f"{row.rsplit(',', 2)[0]},999,999" for row in ROWS])
    truth = write(folder / "truth.csv", ROWS)
    commands = (
        ["prepare", "--data_path", str(path), "--output_dir", str(folder / "cache")],
        ["validate", "--prediction", str(path), "--data", str(asked), "--city", "B", "--edition", "humob2024"],
        ["score", "--prediction", str(path), "--reference", str(truth), "--edition", "humob2024"],
    )
    for command in commands:
        code = main(command)
        captured = capsys.readouterr()
        yield command[0], code, captured.out + captured.err


@pytest.mark.parametrize("column", HEADER.split(","))
@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_whole_number_is_refused_by_line_with_the_same_words_everywhere(tmp_path, capsys, kind, column):
    value, said = WRONG[kind]
    fields = dict(zip(HEADER.split(","), ROWS[1].split(","), strict=True))
    fields[column] = value
    path = write(tmp_path / "p.csv", [ROWS[0], ",".join(fields.values()), ROWS[2]])
    for command, code, text in every_command(path, tmp_path, capsys):
        assert code == 1, command
        if kind == "nothing" and column in "xy":  # a cell may be missing, but not by half, and not in a prediction
            half = f"line 3: only one of x {fields['x'] or 'missing'} and y {fields['y'] or 'missing'} is masked"
            said_here = {
                "prepare": half,
                "validate": f"line 3: {column} is missing",
                "score": f": {column} is missing",
            }
            assert said_here[command] in text
        else:
            assert f"line 3: {column} is {said}" in text, (command, text)
        assert max(map(len, text.splitlines())) < 400


def test_rows_of_six_fields_under_five_names_are_refused_everywhere(tmp_path, capsys):
    path = write(tmp_path / "p.csv", [f"{row},7" for row in ROWS])
    for command, code, text in every_command(path, tmp_path, capsys):
        assert code == 1 and "line 2: 6 values in place of 5" in text, command


def test_a_flipped_bit_in_a_gzip_is_refused_everywhere(tmp_path, capsys):
    path = tmp_path / "p.csv.gz"
    content = bytearray(gzip.compress("\n".join([HEADER, *ROWS * 50]).encode()))
    content[-6] ^= 4  # of the checksum
    path.write_bytes(content)
    for command, code, text in every_command(path, tmp_path, capsys):
        assert code == 1 and f"{path} is no whole gzip file" in text, command


def zipped(content):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("records.csv", content)
    return packed.getvalue()


@pytest.mark.parametrize(
    ("name", "write_bytes"),
    [
        ("a.csv.gz", gzip.compress),
        ("a.csv", gzip.compress),
        ("a.csv.bz2", bz2.compress),
        ("a.csv.xz", lzma.compress),
        ("a.csv.zip", zipped),
        ("a.tsv", lambda text: text.replace(b",", b"\t")),
        ("a.csv", lambda text: text.replace(b",", b";")),
        ("a.csv", lambda text: text.replace(b"uid,d", b"UID, d")),
        ("a.csv", lambda text: text.replace(b",", b", ")),
        ("a.csv", lambda text: text.replace(b"\n", b"\r")),
        ("a.csv", lambda text: text.replace(b"5,1,1", b"5.0,1.0,1.")),
        ("a.csv", lambda text: b"\n\n" + text.replace(b"\n", b"\n\n")),
        ("a.csv", lambda text: text.replace(b",y", b",y,0x").replace(b"5,1,1", b"5,1,1,0x12")),
    ],
    ids=["gzip", "gzip without its name", "bz2", "xz", "zip", "tabs", "semicolons", "other letters", "spaces",
         "old line ends", "points", "blank lines", "0x in another column"],
)  # fmt: skip
def test_what_is_safe_to_read_is_read(tmp_path, name, write_bytes):
    text = "\n".join([HEADER, *ROWS]) + "\n"
    if name == "a.csv" and write_bytes(b"uid,d,t,x,y") != b"uid,d,t,x,y" and b"0x" in write_bytes(b",y"):
        text = text.replace("1,200", "1,200,7").replace("200,1\n", "200,1,7\n")
    path = tmp_path / name
    path.write_bytes(write_bytes(text.encode()))
    (records,) = stream_records(path, Grid(), Calendar())
    assert records.uid.tolist() == [3, 3, 3] and records.cell.tolist() == [0, 199, 199 * 200]
    assert read_table(path).to_numpy().tolist() == TABLE


def test_what_is_not_read_is_told_in_plain_words(tmp_path):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.csv", "uid")
        archive.writestr("b.csv", "uid")
    for content, said in (
        (b"\x28\xb5\x2f\xfd1234", "packed as or is zstd, which is not read; give csv or parquet"),
        (b"\xd0\xcf\x11\xe01234", "an Excel file"),
        (packed.getvalue(), "a zip archive of 2 files; unpack it"),
        (b"3,0,5,1,1\n", "the columns are '3,0,5,1,1'; they must be uid,d,t,x,y .*the first line must name"),
    ):
        (tmp_path / "a.csv").write_bytes(content)
        with pytest.raises(DataError, match=said):
            read_table(tmp_path / "a.csv")


def test_a_missing_cell_is_asked_for_in_files_as_in_tables(tmp_path):
    write(tmp_path / "a.csv", [*ROWS, "7,3,4,,"])
    table = pd.DataFrame([[3, 0, 5, 1, 1], [7, 3, 4, None, None]], columns=HEADER.split(","))
    table.to_parquet(tmp_path / "b.parquet")
    for name in ("a.csv", "b.parquet"):
        *_, last = stream_records(tmp_path / name, Grid(), Calendar())
        assert last.cell.tolist()[-1] == Grid().mask_id and last.cell.tolist()[0] == 0


def test_folders_of_spark_and_hive_are_read(tmp_path):
    spark = tmp_path / "spark"
    spark.mkdir()
    (spark / "_SUCCESS").touch()
    (spark / "part-00000.csv").touch()  # an empty part
    write(spark / "part-00001.csv", ROWS[:2])
    (spark / ".part-00001.csv.crc").write_bytes(b"crc")
    write(spark / "part-00002.csv", ROWS[2:])
    write(spark / "part-00003.csv", [])  # another, with a header
    table = pd.DataFrame(TABLE, columns=HEADER.split(","))
    table[:0].to_parquet(spark / "part-00004.parquet")
    assert read_table(spark).to_numpy().tolist() == TABLE
    assert open_city(path=spark, cache_dir=tmp_path / "cache").num_records == len(TABLE)
    for name in ("part-00001.csv", "part-00002.csv"):
        (spark / name).unlink()
    with pytest.raises(DataError, match="spark holds no record"):
        read_table(spark)
    table.to_parquet(tmp_path / "hive", partition_cols=["d"])
    assert len(part_files(tmp_path / "hive")) == 2
    assert read_table(tmp_path / "hive").to_numpy().tolist() == TABLE
    with pytest.raises(DataError, match=r"d=x.*: d is 'x', which is no whole number"):
        (tmp_path / "hive" / "d=74").rename(tmp_path / "hive" / "d=x")
        read_table(tmp_path / "hive")


def test_x_and_y_that_are_exchanged_are_noticed(tmp_path):
    path = write(tmp_path / "a.csv", ["1,0,0,5,30", "1,0,1,7,35"])
    with pytest.raises(DataError, match=r"line 2: y is 30 \(uid 1\); the grid has 1\.\.10; x and y look exchanged"):
        list(stream_records(path, Grid(40, 10), Calendar()))


def test_a_submission_is_plainer_than_a_file_of_records(tmp_path, capsys):
    path = write(tmp_path / "p.csv", [ROWS[0], ROWS[1].replace("200", "200.0"), ROWS[2]])
    said = {command: (code, text) for command, code, text in every_command(path, tmp_path, capsys)}
    assert said["prepare"][0] == said["score"][0] == 0
    assert said["validate"][0] == 1
    assert "line 3: x is '200.0'; a submission has whole numbers without a point" in said["validate"][1]


@pytest.mark.parametrize("blank", [0, 1, 2])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_in_any_way_and_blank_ones_may_come_first(tmp_path, end, blank):
    path = tmp_path / "a.csv"
    path.write_bytes((end * blank + end.join([HEADER, *ROWS])).encode())
    assert read_table(path).to_numpy().tolist() == TABLE
    path.write_bytes((end * blank + end.join([HEADER, *ROWS, "x,0,0,1,1"])).encode())
    if end != "\r":
        with pytest.raises(DataError, match=f"line {blank + 5}: uid is 'x'"):
            read_table(path)
