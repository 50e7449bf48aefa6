from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyg_nodequant.runtime import topk
from pyg_nodequant.runtime.topk import check_k, top_rows


def slow_top(rows, queries, k, exclude=None, allow=None):
    # Every score by the plain sum, sorted by (-score, row).
    scores = np.full((len(queries), k), -np.inf)
    ids = np.full((len(queries), k), -1)
    for q, query in enumerate(queries.tolist()):
        found = []
        for i, row in enumerate(rows.tolist()):
            if exclude is not None and i in exclude[1][
                    exclude[0][q]:exclude[0][q + 1]]:
                continue
            if allow is not None and i not in allow:
                continue
            total = 0.0
            for a, b in zip(query, row, strict=True):
                total += a * b
            found.append((-total, i))
        for place, (score, i) in enumerate(sorted(found)[:k]):
            scores[q, place], ids[q, place] = -score, i
    return scores, ids


def random_exclude(rng, batch, items):
    parts = [np.sort(rng.choice(items, rng.integers(0, items + 1),
                                replace=False)) for _ in range(batch)]
    indptr = np.cumsum([0] + [len(part) for part in parts])
    flat = np.concatenate(parts + [np.zeros(0, dtype=np.int64)])
    return indptr, flat.astype(np.int32)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(0, 5),
       st.integers(1, 9), st.booleans())
def test_against_brute_force(seed, items, batch, dim, ties):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(items, dim)).astype(np.float32)
    queries = rng.normal(size=(batch, dim)).astype(np.float32)
    if ties:
        rows = rows[rng.integers(0, max(1, items // 3), items)]
        queries = np.sign(queries)
    exclude = random_exclude(rng, batch, items)
    candidates = rng.permutation(items)
    k = int(rng.integers(1, items + 1))
    scores, ids = top_rows(lambda ids: rows[ids].astype(float), candidates,
                           queries, k, exclude)
    expected = slow_top(rows, queries, k, exclude)
    assert np.array_equal(ids, expected[1])
    assert np.array_equal(scores, expected[0])


def test_blocks_and_threads(monkeypatch):
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(50, 4)).astype(np.float32)
    rows[25:] = rows[:25]
    queries = rng.normal(size=(33, 4)).astype(np.float32)
    expected = slow_top(rows, queries, 7)
    monkeypatch.setattr(topk, "_BLOCK_NUMBERS", 4 * 6)
    monkeypatch.setattr(topk, "_BLOCK_QUERIES", 5)
    for threads in (1, 3):
        monkeypatch.setattr("pyg_nodequant.runtime._jit.num_threads",
                            lambda threads=threads: threads)
        scores, ids = top_rows(lambda ids: rows[ids].astype(float),
                               np.arange(50), queries, 7)
        assert np.array_equal(ids, expected[1])
        assert np.array_equal(scores, expected[0])


@pytest.mark.parametrize("size", [3e38, 1e19, 1e-19, 1e-30])
def test_extreme_sizes(size):
    # Neither the largest nor the smallest floats break the screening, not
    # even sums that leave the range of single precision and come back.
    rows = size * np.float32([[1, 1], [-1, 1], [-1, -1], [0, 0]])
    rows = np.concatenate([rows, -rows[:, ::-1], rows], axis=1)
    rows = np.float32(np.concatenate([rows, rows / 3, np.full_like(rows,
                                                                   1e-45)]))
    queries = np.float32([[size] * 6, [1e-45] * 6, [0] * 6,
                          [-size, -size, size, size, size, -size]])
    for k in (1, 12):
        scores, ids = top_rows(lambda ids: rows[ids].astype(float),
                               np.arange(12), queries, k)
        expected = slow_top(rows, queries, k)
        assert np.array_equal(ids, expected[1])
        assert np.array_equal(scores, expected[0])


def test_near_ties_in_the_last_bit():
    rng = np.random.default_rng(5)
    rows = np.repeat(rng.normal(size=(1, 64)), 400, axis=0)
    rows = (rows + 1e-7 * rng.integers(-1, 2, rows.shape)).astype(np.float32)
    queries = rng.normal(size=(3, 64)).astype(np.float32)
    queries[:, ::2] *= -1
    scores, ids = top_rows(lambda ids: rows[ids].astype(float),
                           np.arange(400)[::-1], queries, 100)
    expected = slow_top(rows, queries, 100)
    assert np.array_equal(ids, expected[1])
    assert np.array_equal(scores, expected[0])


def test_no_candidates():
    scores, ids = top_rows(lambda ids: np.zeros((len(ids), 2)),
                           np.zeros(0, dtype=np.int64), np.zeros((2, 2)), 3)
    assert np.isneginf(scores).all() and (ids == -1).all()


def test_kernels_as_python(monkeypatch):
    for name in ("dot", "_screen", "worse", "sink", "contains", "_scan",
                 "sort_heaps", "dot_rows"):
        monkeypatch.setattr(topk, name, getattr(topk, name).py_func)
    rng = np.random.default_rng(4)
    rows = rng.integers(-2, 3, size=(20, 6)).astype(np.float32)
    queries = rng.integers(-2, 3, size=(6, 6)).astype(np.float32)
    exclude = random_exclude(rng, 6, 20)
    scores, ids = top_rows(lambda ids: rows[ids].astype(float),
                           np.arange(20), queries, 8, exclude)
    expected = slow_top(rows, queries, 8, exclude)
    assert np.array_equal(ids, expected[1])
    assert np.array_equal(scores, expected[0])
    out = np.empty(6)
    topk.dot_rows(queries, rows[:6], out)
    assert out.tolist() == (queries * rows[:6]).sum(axis=1).tolist()


@pytest.mark.parametrize("k", [0, -1, 6, 1.5, "3", None, True])
def test_check_k_refuses(k):
    with pytest.raises(ValueError, match=r"in \[1, 5\], the number of items"):
        check_k(k, 5, "items")


def test_check_k_accepts_numpy():
    assert check_k(np.int32(5), 5, "items") == 5
