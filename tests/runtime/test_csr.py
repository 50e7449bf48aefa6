from __future__ import annotations

import numpy as np
import pytest

from pyg_nodequant.runtime.csr import (
    check_csr,
    has_repeats,
    smallest_unsigned,
    take_rows,
    with_columns,
)


def random_lists(rng, rows, cols, repeats=False):
    lists = []
    for _ in range(rows):
        size = rng.integers(0, cols + 1)
        lists.append(rng.choice(cols, size, replace=repeats).tolist())
    indptr = np.cumsum([0] + [len(one) for one in lists])
    return lists, (indptr, np.array(sum(lists, []), dtype=np.int64))


@pytest.mark.parametrize("seed", range(8))
def test_against_lists(seed):
    rng = np.random.default_rng(seed)
    lists, csr = random_lists(rng, 7, 6, repeats=True)
    indptr, indices = check_csr("seen", csr, 7, 6)
    for i, one in enumerate(lists):
        assert indices[indptr[i]:indptr[i + 1]].tolist() == sorted(one)
    repeats = any(len(set(one)) < len(one) for one in lists)
    assert has_repeats((indptr, indices)) == repeats
    rows = rng.integers(0, 7, 5)
    part = take_rows((indptr, indices), rows)
    assert part[1].tolist() == sum((sorted(lists[i]) for i in rows), [])
    assert np.diff(part[0]).tolist() == [len(lists[i]) for i in rows]


def test_no_rows():
    csr = check_csr("seen", ([0], []), 0, 0)
    assert not has_repeats(csr)
    assert take_rows(csr, np.zeros(0, dtype=np.int64))[0].tolist() == [0]


@pytest.mark.parametrize("csr,message", [
    (None, "needs to be a pair"),
    (([0, 1], ), "needs to be a pair"),
    (([0, 1], [0]), "indptr of 3 numbers"),
    (([0, 2, 1], [0]), "ascends from 0 to 1"),
    (([1, 1, 1], [0]), "ascends from 0 to 1"),
    (([0, 1, 2], [0, 4]), r"in \[0, 3\] \(got 4\)"),
    (([0, 1, 2], [0, -4]), r"in \[0, 3\] \(got -4\)"),
    (([0, 1, 2], [0.5, 1]), "needs to hold integers"),
    (([0, 1, 2], [[0, 1]]), "needs one dimension"),
])
def test_refuses(csr, message):
    with pytest.raises(ValueError, match=message):
        check_csr("seen", csr, 2, 4)


@pytest.mark.parametrize("top,dtype", [(0, "u1"), (255, "u1"), (256, "u2"),
                                       (65535, "u2"), (65536, "u4")])
def test_smallest_unsigned(top, dtype):
    assert smallest_unsigned(np.array([0, top])).dtype == dtype
    assert smallest_unsigned(np.array([], dtype=int)).dtype == "u1"


@pytest.mark.parametrize("columns", [[], [3], [8, 1, 5]])
def test_with_columns(columns):
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 4, 9)
    indptr = np.concatenate([[0], np.cumsum(counts)])
    indices = rng.integers(0, 9, indptr[-1])
    start, found = with_columns((indptr, indices), np.array(columns, int), 9)
    for i in range(9):
        assert found[start[i]:start[i + 1]].tolist() == [
            *indices[indptr[i]:indptr[i + 1]].tolist(), *columns]
    start, found = with_columns(None, np.array(columns, int), 2)
    assert found.tolist() == columns * 2 and start[-1] == 2 * len(columns)
