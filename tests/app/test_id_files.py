from __future__ import annotations

import polars
import pytest

from pyg_nodequant.app.id_files import read_ids


@pytest.mark.parametrize("name, text, ids", [
    ("a.txt", "7\n\n 8 \n7\n", ["7", "8"]),
    ("a.txt", "\ufeffann\n", ["ann"]),
    ("a.csv", "x,user_id\n1,ann\n2,\"b,ob\"\n", ["ann", "b,ob"]),
    ("a.csv", "who,x\nann,1\n", ["ann"]),
    ("a.TSV", "x\tuser_id\n1\tann\n", ["ann"]),
])
def test_text(tmp_path, name, text, ids):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_ids(str(tmp_path / name), "user_id") == ids


def test_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    polars.DataFrame({"x": [1, 2], "user_id": [7, 8]}).write_parquet(path)
    assert read_ids(str(path), "user_id") == [7, 8]
    assert read_ids(str(path), "item_id") == [1, 2]
    path.write_text("no parquet")
    with pytest.raises(ValueError, match="as a Parquet table"):
        read_ids(str(path), "user_id")


def test_empty_and_foreign(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("user_id\n")
    with pytest.raises(ValueError, match="holds no user id"):
        read_ids(str(path), "user_id")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="UTF-8"):
        read_ids(str(path), "user_id")
    for name in ("b.txt", "b.csv", "b.parquet"):
        with pytest.raises(FileNotFoundError):
            read_ids(str(tmp_path / name), "user_id")


def test_broken_tables(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("user_id\n\"" + "x" * 200_000)
    with pytest.raises(ValueError, match="cannot be read as a table: field"):
        read_ids(str(path), "user_id")
    path = tmp_path / "a.parquet"
    for ids in ([[7]], [b"7"], [{"a": 7}]):
        polars.DataFrame({"user_id": ids}).write_parquet(path)
        with pytest.raises(ValueError, match="'user_id' of .*integers or te"):
            read_ids(str(path), "user_id")


def test_parquet_that_polars_panics_at(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    polars.DataFrame({"user_id": [1]}).write_parquet(path)

    def read_parquet(*args, **kwargs):
        raise polars.exceptions.PanicException("assertion failed")

    monkeypatch.setattr(polars, "read_parquet", read_parquet)
    with pytest.raises(ValueError, match="as a Parquet table: assertion"):
        read_ids(str(path), "user_id")
