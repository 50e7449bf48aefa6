from __future__ import annotations

import csv

import polars
import pytest

from pyg_nodequant.app.output_files import check_output, write_table

BATCHES = [[("ann", 1, 2.5), ("b,ob", 2, 1.5)], [], [("eve", 1, -1.0)]]
COLUMNS = ("user_id", "rank", "score")


def test_csv(tmp_path):
    path = tmp_path / "a.csv"
    write_table(str(path), COLUMNS, BATCHES)
    with open(path, newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [list(COLUMNS)] + [
        [str(cell) for cell in row] for batch in BATCHES for row in batch]


def test_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    write_table(str(path), COLUMNS, BATCHES)
    table = polars.read_parquet(path)
    assert table.columns == list(COLUMNS)
    assert table.rows() == [row for batch in BATCHES for row in batch]
    write_table(str(path), COLUMNS, [])
    assert polars.read_parquet(path).columns == list(COLUMNS)


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_nothing_is_left_of_a_failure(tmp_path, name):
    def batches():
        yield BATCHES[0]
        raise ValueError("unknown user")

    (tmp_path / name).write_text("before")
    with pytest.raises(ValueError, match="unknown user"):
        write_table(str(tmp_path / name), COLUMNS, batches())
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "before"


def test_check(tmp_path):
    check_output(str(tmp_path / "a.csv"))
    check_output(str(tmp_path / "A.PARQUET"))
    with pytest.raises(ValueError, match="needs to end in .csv or .parquet"):
        check_output("a.txt")
    with pytest.raises(ValueError, match="existing folder"):
        check_output(str(tmp_path / "none" / "a.csv"))
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ValueError, match="needs to be a file .got the folde"):
        check_output(str(tmp_path / "folder.csv"))


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_the_file_that_was_asked_for_is_named(tmp_path, name):
    path = tmp_path / "none" / name
    with pytest.raises(FileNotFoundError) as caught:
        write_table(str(path), COLUMNS, BATCHES)
    assert caught.value.filename == str(path)
