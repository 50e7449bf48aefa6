from __future__ import annotations

from pathlib import Path

import pytest

from pyg_nodequant.data import DataError, read_lightgcn_txt


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.txt").write_text(text)
    return folder


def edges(data, split: str) -> set[tuple[int, int]]:
    """Edges in original ids."""
    return {(int(data.user_ids[u]), int(data.item_ids[i]))
            for u, i in data.edges(split).t()}


def test_gaps_empty_users_and_all_files(tmp_path: Path) -> None:
    folder = write(tmp_path, train="0 5 9\n3\n7 5 5\n\n", test="0 9 2\n3 5\n",
                   valid="7 2\n12 100")
    data = read_lightgcn_txt(folder)
    assert data.user_ids.tolist() == [0, 3, 7, 12]
    assert data.item_ids.tolist() == [2, 5, 9, 100]
    assert edges(data, "train") == {(0, 5), (0, 9), (7, 5)}
    assert edges(data, "val") == {(7, 2), (12, 100)}
    assert edges(data, "test") == {(0, 2), (3, 5)}
    assert data.counts == {
        "interactions_read": 9 - 0, "duplicates_removed": 1,
        "overlap_removed": 1, "users_without_train": 2,
        "items_without_train": 2}
    assert data.name == tmp_path.name


def test_user_without_any_item_is_counted(tmp_path: Path) -> None:
    data = read_lightgcn_txt(write(tmp_path, train="0 1 2\n4\n", test="4\n"),
                             val_fraction=0)
    assert data.num_users == 2 and data.counts["users_without_train"] == 1


def test_user_on_two_lines(tmp_path: Path) -> None:
    data = read_lightgcn_txt(write(tmp_path, train="0 1\n1 1\n0 2\n",
                                   test=""), val_fraction=0)
    assert edges(data, "train") == {(0, 1), (0, 2), (1, 1)}


def test_absent_test_is_carved(tmp_path: Path) -> None:
    text = "\n".join(f"{u} {u % 7} {7 + u % 5}" for u in range(50))
    data = read_lightgcn_txt(write(tmp_path, train=text), name="x")
    assert data.test.size(1) == 20 and data.val.size(1) == 8
    assert data.counts["test_carved"] == 20
    assert data.counts["val_carved"] == 8 and data.name == "x"
    again = read_lightgcn_txt(tmp_path)
    other = read_lightgcn_txt(tmp_path, split_seed=1)
    assert again.test.tolist() == data.test.tolist() != other.test.tolist()


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no train.txt"):
        read_lightgcn_txt(tmp_path)
    for text in ("", "\n", "1\n2\n"):
        with pytest.raises(DataError, match="train.txt' holds no inter"):
            read_lightgcn_txt(write(tmp_path, train=text, test="0 1"))
    with pytest.raises(DataError, match="test.txt', line 2: only integers"):
        read_lightgcn_txt(write(tmp_path, train="0 1", test="0 1\n1 b"))
    with pytest.raises(DataError, match="does not exist"):
        read_lightgcn_txt(tmp_path / "nothing")


@pytest.mark.parametrize("name, users, items, train, test", [
    ("lastfm", 1892, 4489, 42_135, 10_533),
    ("ml-1m", 6038, 3533, 457_819, 117_462),
    ("gowalla", 29_858, 40_981, 810_128, 217_242)])
def test_published_counts(real_data: Path, name: str, users: int, items: int,
                          train: int, test: int) -> None:
    data = read_lightgcn_txt(real_data / name, val_fraction=0)
    assert (data.num_users, data.num_items) == (users, items)
    assert (data.train.size(1), data.test.size(1)) == (train, test)
    assert data.counts["duplicates_removed"] == 0
    assert data.counts["overlap_removed"] == 0
    with_val = read_lightgcn_txt(real_data / name)
    assert with_val.val.size(1) == int(train * 0.1 + 0.5)
    assert with_val.train.size(1) + with_val.val.size(1) == train
