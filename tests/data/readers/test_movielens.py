from __future__ import annotations

from pathlib import Path

import pytest

from pyg_nodequant.data import DataError, read_movielens

ROWS = [(1, 10, 5, 100), (1, 20, 3, 300), (7, 10, 2, 200), (7, 30, 4, 50)]


@pytest.mark.parametrize("ratings, mark, titles, title_mark", [
    ("u.data", "\t", "u.item", "|"),
    ("ratings.dat", "::", "movies.dat", "::")])
def test_both_forms(tmp_path: Path, ratings: str, mark: str, titles: str,
                    title_mark: str) -> None:
    (tmp_path / ratings).write_text(
        "".join(mark.join(map(str, row)) + "\n" for row in ROWS))
    whole = {"test_fraction": 0, "val_fraction": 0}
    data = read_movielens(tmp_path, **whole)
    assert data.user_ids.tolist() == [1, 7]
    assert data.item_ids.tolist() == [10, 20, 30]
    assert data.item_titles is None and data.train.size(1) == 4
    lines = [f"10{title_mark}Belle \u00e9poque (1992){title_mark}x",
             f"20{title_mark}Alien{title_mark}", "broken"]
    (tmp_path / titles).write_bytes("\n".join(lines).encode("latin-1"))
    data = read_movielens(tmp_path, min_rating=3, name="m", **whole)
    assert data.item_titles == ["Belle \u00e9poque (1992)", "Alien", ""]
    assert data.counts["ratings_below_min"] == 1 and data.name == "m"
    data = read_movielens(tmp_path, split="time", test_fraction=0.25,
                          val_fraction=0)
    assert data.test.tolist() == [[0], [1]]
    with pytest.raises(DataError, match="largest rating .* is 5 .got 6"):
        read_movielens(tmp_path, min_rating=6)


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither u.data nor ratings.dat"):
        read_movielens(tmp_path)
    (tmp_path / "u.data").write_text("1 2 3\n")
    with pytest.raises(DataError, match="needs 4 integers .user item rating"):
        read_movielens(tmp_path)


def test_100k(real_data: Path) -> None:
    data = read_movielens(real_data / "ml-100k")
    assert (data.num_users, data.num_items) == (943, 1682)
    sizes = [data.edges(s).size(1) for s in ("train", "val", "test")]
    assert sizes == [72_000, 8_000, 20_000]


def test_titles_are_latin_1_and_lines_end_in_any_way(tmp_path: Path) -> None:
    (tmp_path / "u.data").write_text("1 10 5 100\r\n1 20 3 300\r\n")
    # 0x85 is a letter here, and no end of a line.
    (tmp_path / "u.item").write_bytes(b"10|A\x85B|x\r\n20|C\r\n")
    data = read_movielens(tmp_path, test_fraction=0, val_fraction=0)
    assert data.item_titles == ["A\x85B", "C"]
