from __future__ import annotations

import numpy as np
import pytest

from pyg_nodequant.data import DataError, assemble
from pyg_nodequant.data.assemble import compact


@pytest.mark.parametrize("high", [60, 10**12])  # dense marks, sparse sort
def test_compact(high: int) -> None:
    rng = np.random.default_rng(0)
    parts = [rng.integers(0, high, size) for size in (40, 0, 25)]
    ids, rows = compact(*parts)
    assert ids.tolist() == sorted({int(x) for part in parts for x in part})
    for part, row in zip(parts, rows):
        assert ids[row].tolist() == part.tolist()


def test_row_order_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 9, 60), rng.integers(0, 11, 60)
    order = rng.permutation(60)
    ids = np.arange(9), np.arange(11)
    a = assemble({"train": (users, items)}, *ids)
    b = assemble({"train": (users[order], items[order])}, *ids)
    for split in ("train", "val", "test"):
        assert a.edges(split).tolist() == b.edges(split).tolist()
    assert a.counts == b.counts


def test_split_seed_alone_decides() -> None:
    rows = np.arange(200)
    one, same, other = (
        assemble({"train": (rows, rows % 7)}, rows, np.arange(7),
                 split_seed=seed) for seed in (0, 0, 1))
    assert one.test.size(1) == 40 and one.val.size(1) == 16
    assert one.test.tolist() == same.test.tolist()
    assert one.test.tolist() != other.test.tolist()


def test_split_by_time_holds_out_the_latest() -> None:
    rng = np.random.default_rng(0)
    times = rng.permutation(100)
    users = np.arange(100)
    data = assemble({"train": (users, users % 5)}, users, np.arange(5),
                    times=times, split="time")
    when = {split: times[data.edges(split)[0].numpy()]
            for split in ("train", "val", "test")}
    assert when["train"].max() < when["val"].min()
    assert when["val"].max() < when["test"].min()
    assert len(when["test"]) == 20 and len(when["val"]) == 8


def test_earliest_of_duplicates_counts() -> None:
    users = np.array([0, 1, 2, 0])
    items = np.array([0, 0, 0, 0])
    data = assemble({"train": (users, items)}, np.arange(3), np.arange(1),
                    times=np.array([1, 5, 3, 9]), split="time",
                    test_fraction=1 / 3, val_fraction=0)
    assert data.test.tolist() == [[1], [0]]
    assert data.counts["duplicates_removed"] == 1


ROWS = np.arange(3)


@pytest.mark.parametrize("parts, options, message", [
    ({"train": (ROWS, ROWS)}, {"split": "time"}, "time_column"),
    ({"train": (ROWS, ROWS), "test": (ROWS, ROWS)},
     {"split": "time", "times": ROWS}, "its own test split"),
    ({"train": (ROWS, ROWS[:2])}, {}, "as many users as items .got 3 and 2"),
    ({"train": (ROWS + 1, ROWS)}, {}, r"user rows .*\[0, 2\] .got 1 to 3"),
    ({"train": (ROWS, ROWS - 1)}, {}, r"item rows .*got -1 to 1"),
    ({"train": (ROWS[:0], ROWS[:0])}, {}, "holds no interactions"),
    ({"train": (ROWS[:0], ROWS[:0]), "test": (ROWS, ROWS),
      "val": (ROWS[:1], ROWS[:1])}, {}, "no training interactions"),
    ({"train": (ROWS, ROWS)}, {"test_fraction": 0.9}, "data.test_fraction"),
    ({"train": (ROWS, ROWS)}, {"test_fraction": 0, "val_fraction": 0.9},
     "data.val_fraction.*holds out 3 of 3"),
])
def test_errors(parts: dict, options: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        assemble(parts, ROWS, ROWS, **options)


def test_arguments_that_do_not_fit() -> None:
    rows = np.arange(4)
    for parts in ({}, {"test": (rows, rows)},
                  {"train": (rows, rows), "valid": (rows, rows)}):
        with pytest.raises(DataError, match="'parts' needs 'train'"):
            assemble(parts, rows, rows)
    with pytest.raises(DataError, match="'times' .* 4 rows .*got 3"):
        assemble({"train": (rows, rows)}, rows, rows, times=np.arange(3),
                 split="time")
