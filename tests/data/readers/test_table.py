from __future__ import annotations

import gzip
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Optional

import numpy as np
import polars as pl
import pytest

from pyg_nodequant.data import Columns, DataError, Interactions, read_table

CSV = """user_id,item_id,rating,time,title
ann,tea,5,10,Green tea
bob,tea,1,30,
ann,007,4,20,Film
carl,7,3,40,"Seven, the number"
ann,tea,5,50,Green tea
"""
WHOLE = {"test_fraction": 0, "val_fraction": 0}


def write(folder: Path, text: str, name: str = "t.csv") -> Path:
    (folder / name).write_bytes(text.encode())
    return folder / name


def edges(data: Interactions, split: str = "train") -> set[tuple[Any, Any]]:
    return {(data.user_ids[u], data.item_ids[i])
            for u, i in data.edges(split).t().tolist()}


ALL = {("ann", "tea"), ("bob", "tea"), ("ann", "007"), ("carl", "7")}


def test_text_ids_stay_text(tmp_path: Path) -> None:
    data = read_table(write(tmp_path, CSV), Columns(title="title"), **WHOLE)
    assert edges(data) == ALL
    assert data.user_ids.tolist() == ["ann", "bob", "carl"]
    assert data.item_ids.tolist() == ["007", "7", "tea"]
    assert data.item_titles == ["Film", "Seven, the number", "Green tea"]
    assert data.counts["rows_read"] == 5
    assert data.counts["duplicates_removed"] == 1
    assert data.name == "t"


@pytest.mark.parametrize("name, separator, given", [
    ("t.csv", ",", None), ("t.tsv", "\t", None), ("t.txt", "\t", None),
    ("t.csv", ";", None), ("t.dat", "|", None), ("t.csv", "\t", "\\t"),
    ("t.csv", "\t", "tab"), ("t.csv", "~", "~")])
def test_separators(tmp_path: Path, name: str, separator: str,
                    given: Optional[str]) -> None:
    text = CSV.replace(", the", " the").replace(",", separator)
    file = write(tmp_path, text, name)
    assert edges(read_table(file, separator=given, **WHOLE)) == ALL


def test_gzip_crlf_mark_and_blank_lines(tmp_path: Path) -> None:
    text = "\ufeff" + CSV.replace("bob", "\nbob").replace("\n", "\r\n")
    file = write(tmp_path, text + "\r\n\r\n")
    assert edges(read_table(file, **WHOLE)) == ALL
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(file.read_bytes()))
    assert edges(read_table(tmp_path / "t.csv.gz", **WHOLE)) == ALL
    broken = (tmp_path / "t.csv.gz").read_bytes()[:-30]
    (tmp_path / "t.csv.gz").write_bytes(broken)
    with pytest.raises(DataError, match="broken gzip"):
        read_table(tmp_path / "t.csv.gz")
    flipped = bytearray(gzip.compress(file.read_bytes() * 100))
    flipped[30] ^= 0x55
    (tmp_path / "t.csv.gz").write_bytes(flipped)
    with pytest.raises(DataError, match="broken gzip"):
        read_table(tmp_path / "t.csv.gz")


def test_integer_ids(tmp_path: Path) -> None:
    file = write(tmp_path, "item_id,user_id\n10, 3\n9,20\n")
    data = read_table(file, **WHOLE)
    assert data.user_ids.dtype == np.int64
    assert data.user_ids.tolist() == [3, 20]
    assert data.item_ids.tolist() == [9, 10]
    assert edges(data) == {(3, 10), (20, 9)}


def test_row_order_changes_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [f"u{rng.integers(20)},i{rng.integers(30)},t{k % 3}"
            for k in range(200)]
    head = "user_id,item_id,title\n"
    columns = Columns(title="title")
    a = read_table(write(tmp_path, head + "\n".join(rows)), columns)
    b = read_table(write(tmp_path, head + "\n".join(rows[::-1])), columns)
    for split in ("train", "val", "test"):
        assert edges(a, split) == edges(b, split)
    assert a.item_titles == b.item_titles


def test_min_rating(tmp_path: Path) -> None:
    file = write(tmp_path, CSV)
    columns = Columns(rating="rating")
    data = read_table(file, columns, min_rating=4, **WHOLE)
    assert edges(data) == {("ann", "tea"), ("ann", "007")}
    assert data.counts["ratings_below_min"] == 2
    assert edges(read_table(file, columns, **WHOLE)) == ALL
    with pytest.raises(DataError, match="largest rating .* is 5 .got 6"):
        read_table(file, columns, min_rating=6)
    with pytest.raises(DataError, match="data.min_rating.*rating_column"):
        read_table(file, min_rating=4)


@pytest.mark.parametrize("times", [
    ["10", "30", "20", "40"], ["1.5", "30", "2e1", "1e9"],
    ["2020-01-01", "2021-03-01", "2020-05-05", "2022-01-01"],
    ["2020-01-01 10:00:00", "2020-01-01 12:00:00", "2020-01-01 11:00:00",
     "2020-01-02 00:00:00"]])
def test_split_by_time(tmp_path: Path, times: list[str]) -> None:
    rows = "".join(f"u{k},i,{time}\n" for k, time in enumerate(times))
    file = write(tmp_path, "user_id,item_id,when\n" + rows)
    data = read_table(file, Columns(time="when"), split="time",
                      test_fraction=0.5, val_fraction=0.5)
    assert edges(data, "test") == {("u1", "i"), ("u3", "i")}
    assert edges(data, "val") == {("u2", "i")}
    with pytest.raises(DataError, match="data.time_column"):
        read_table(file, split="time")


HEAD = "user_id,item_id,rating,time\n"


@pytest.mark.parametrize("text, message", [
    ("", "is empty"),
    (HEAD, "holds no rows"),
    (HEAD + "\n\n", "holds no rows"),
    (HEAD + "a,b,1,1\nc,,1,1\n", "data row 2: the item id is missing"),
    (HEAD + "a,b,1,1\n\"\",b,1,1\n", "data row 2: the user id is missing"),
    (HEAD + "a,NaN,1,1\n", "data row 1: the item id is missing or NaN"),
    (HEAD + "a,b,1,1\nc\n", "data row 2: the item id is missing"),
    (HEAD + "a,b,1,1\n,,,\n", "data row 2: the user id is missing"),
    (HEAD + "1,2,1,1\n-3,2,1,1\n", r"0 or above .got -3 in column 'user_id'"),
    (HEAD + "a,b,1,1\na,c,nan,1\n", "data row 2: the rating is missing"),
    (HEAD + "a,b,1,1\na,c,,1\n", "data row 2: the rating is missing"),
    (HEAD + "a,b,good,1\n", "data row 1: the rating is not a number"),
    (HEAD + "a,b,inf,1\n", "data row 1: the rating is not a number"),
    (HEAD + "a,b,1,\n", "data row 1: the time is missing"),
    (HEAD + "a,b,1,noon\n", "data row 1: the time is neither"),
    (HEAD + "a,b,1,inf\n", "data row 1: the time is neither"),
    (HEAD + "a,b,1,2020-01-01\na,c,1,noon\n", "data row 2: the time is nei"),
    (HEAD + "a,b,1,5\na,c,1,6\na,d,1,noon\n", "data row 3: the time is nei"),
    ("user_id,user_id,item_id,rating,time\na,b,c,1,1\n",
     r"'data.user_column' .* several of this name .got 'user_id'"),
    (HEAD + "a,b,1,1\na,b,1,1,9\n", "line 3: has 5 fields, .* header has 4"),
    (HEAD.replace("rating", "stars") + "a,b,1,1\n",
     r"'data.rating_column' .* has: user_id, item_id, stars, time .got 'rat"),
    (HEAD + 'a,"b,1,1\n', "cannot be read as delimited text"),
    ("x\n1\n", r"'data.user_column' .* has: x .got 'user_id'"),
])
def test_bad_text(tmp_path: Path, text: str, message: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(DataError, match=message) as caught:
        read_table(file, Columns(rating="rating", time="time"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("body", [b"a,\xff,1\n", b"a,b,\xff\n"])
def test_not_utf8(tmp_path: Path, body: bytes) -> None:
    file = tmp_path / "t.csv"
    file.write_bytes(b"user_id,item_id,x\na,b,1\n" + body)
    with pytest.raises(DataError, match="line 3: not UTF-8"):
        read_table(file)


def test_blank_line_and_a_field_too_long(tmp_path: Path) -> None:
    text = f"user_id,item_id,x\na,b,1\n\na,c,{'x' * 200_000}\n"
    with pytest.raises(DataError, match="line 4: cannot be read as delimited"):
        read_table(write(tmp_path, text))


def test_not_utf8_in_the_header(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(CSV.encode("utf-16"))
    with pytest.raises(DataError, match="line 1: not UTF-8"):
        read_table(tmp_path / "t.csv")


def test_rows_of_errors_count_low_ratings_too(tmp_path: Path) -> None:
    file = write(tmp_path, HEAD + "a,b,1,1\na,c,5,\n")
    with pytest.raises(DataError, match="data row 2: the time is missing"):
        read_table(file, Columns(rating="rating", time="time"), min_rating=3)
    file = write(tmp_path, HEAD + "a,b,1,9\na,c,5,3\na,d,5,2\na,e,5,1\n")
    data = read_table(file, Columns(rating="rating", time="time"),
                      min_rating=3, split="time", test_fraction=1 / 3,
                      val_fraction=0)
    assert edges(data, "test") == {("a", "c")}


def test_shifted_row_is_noticed_whatever_is_read(tmp_path: Path) -> None:
    file = write(tmp_path, "title,user_id,item_id,x\nA,1,2,3\nB, C,4,5,6\n")
    with pytest.raises(DataError, match="line 3: has 5 fields"):
        read_table(file)


def test_bad_arguments(tmp_path: Path) -> None:
    file = write(tmp_path, CSV)
    with pytest.raises(DataError, match="is a folder"):
        read_table(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        read_table(tmp_path / "no.csv")
    with pytest.raises(DataError, match="different columns .got 'user_id'"):
        read_table(file, Columns(item="user_id"))
    for separator in ("::", "", '"'):
        with pytest.raises(DataError, match="'data.separator'"):
            read_table(file, separator=separator)
    with pytest.raises(DataError, match="data.test_fraction"):
        read_table(file, test_fraction=0.9)
    with pytest.raises(DataError, match="'data.split' .*random, time .got 't"):
        read_table(file, split="tim")


def parquet(folder: Path, **columns: Any) -> Path:
    pl.DataFrame(columns).write_parquet(folder / "t.parquet")
    return folder / "t.parquet"


@pytest.mark.parametrize("users, want", [
    ([5, 3, 5], [3, 5]),
    ([5.0, 3.0, 5.0], [3, 5]),
    ([0.5, 3.0, 0.5], ["0.5", "3.0"]),
    (["5", "x", "5"], ["5", "x"]),
    (["b", "a", "b"], ["a", "b"]),
    (pl.Series([2**63, 1, 2**63], dtype=pl.UInt64), ["1", str(2**63)]),
    (pl.Series(["b", "a", "b"], dtype=pl.Categorical), ["a", "b"]),
    ([1e19, 1.0, 1e19], ["1.0", "1e+19"]),
])
def test_parquet_ids(tmp_path: Path, users: Any, want: list[Any]) -> None:
    file = parquet(tmp_path, user_id=users, item_id=[1, 2, 3], other=[0] * 3)
    data = read_table(file, **WHOLE)
    assert data.user_ids.tolist() == want
    assert data.train.size(1) == 3


def test_parquet_times(tmp_path: Path) -> None:
    for times in ([datetime(2020, 1, k) for k in (1, 3, 2)], [1, 3, 2],
                  [1.0, 3.0, 2.0]):
        file = parquet(tmp_path, user_id=[0, 1, 2], item_id=[0, 0, 0],
                       t=times)
        data = read_table(file, Columns(time="t"), split="time",
                          test_fraction=1 / 3, val_fraction=0)
        assert edges(data, "test") == {(1, 0)}


@pytest.mark.parametrize("columns, message", [
    ({"user_id": [1, None], "item_id": [1, 1]}, "data row 2: the user id"),
    ({"user_id": [1.0, float("nan")], "item_id": [1, 1]}, "data row 2"),
    ({"user_id": [1, -1], "item_id": [1, 1]}, "got -1 in column 'user_id'"),
    ({"user_id": [1], "item_id": [1], "r": [float("nan")]},
     "data row 1: the rating is missing or NaN"),
    ({"user_id": [1], "item_id": [1], "r": ["x"]}, "row 1: the rating is no"),
    ({"user": [1], "item_id": [1]}, "has: r, user, item_id"),
    ({"user_id": [1.0, float("inf")], "item_id": [1, 1]},
     "data row 2: the user id is infinite .column 'user_id'"),
    ({"user_id": [[1]], "item_id": [1]},
     "'data.user_column' .* integers or text .*List"),
    ({"user_id": [b"\xff"], "item_id": [1]}, "of type Binary"),
    ({"user_id": [1], "item_id": [{"a": 1}]}, "'data.item_column' .*Struct"),
    ({"user_id": pl.Series([""], dtype=pl.Categorical), "item_id": [1]},
     "data row 1: the user id is missing"),
    ({"user_id": [1], "item_id": [1], "r": [datetime(2020, 1, 1)]},
     "'data.rating_column' needs to be a column of numbers"),
    ({"user_id": [1], "item_id": [1], "r": [b"1"]}, "column of numbers"),
    ({"user_id": [], "item_id": [], "r": []}, "holds no rows"),
])
def test_bad_parquet(tmp_path: Path, columns: dict[str, Any],
                     message: str) -> None:
    file = parquet(tmp_path, **{"r": [1.0] * len(columns["item_id"]),
                                **columns})
    with pytest.raises(DataError, match=message):
        read_table(file, Columns(rating="r"))


@pytest.mark.parametrize("times, message", [
    ([timedelta(1)], "'data.time_column' .* numbers or dates .*Duration"),
    ([[1]], "'data.time_column' .* numbers or dates .*List"),
    (pl.Series([2**63], dtype=pl.UInt64), "row 1: the time is neither"),
])
def test_bad_parquet_times(tmp_path: Path, times: Any, message: str) -> None:
    file = parquet(tmp_path, user_id=[1], item_id=[1], t=times)
    with pytest.raises(DataError, match=message):
        read_table(file, Columns(time="t"))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"user_id,item_id\n1,2\n"])
def test_not_parquet(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.parquet").write_bytes(content)
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_table(tmp_path / "t.parquet")


def test_movielens_csv(real_data: Path) -> None:
    data = read_table(real_data / "ml-100k" / "ratings.csv",
                      Columns(rating="rating", time="timestamp"),
                      min_rating=4)
    assert data.counts["ratings_below_min"] == 44_625
    assert data.counts["interactions_read"] == 55_375
