from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyg_nodequant.runtime import PackedTable, RowClasses, scan
from pyg_nodequant.runtime._jit import jit
from pyg_nodequant.runtime.query_plan import make_plans
from pyg_nodequant.runtime.row_codes import num_levels
from pyg_nodequant.runtime.search import ENGINES
from pyg_nodequant.runtime.tile_bounds import tile_bounds

DIMS = [1, 7, 63, 64, 65, 100, 128, 300]


def random_table(rng, n, dim, kind, dtype="float16", copies=False):
    """A table of width classes, with or without offsets, of general classes
    or of Gaussian ones; some rows zero, and many alike if :obj:`copies`.
    """
    ids = np.arange(n)
    if copies and n:
        ids = rng.integers(0, max(1, n // 4), n)
    scale = np.exp(rng.normal(size=n))
    if dtype == "float16":
        scale *= rng.choice([-1, 1, 1, 1], n)
    scale[rng.random(n) < 0.05] = 0.0
    if kind == "gaussian":
        classes = RowClasses.gaussian(
            rng.integers(0, 9, (int(rng.integers(1, 17)), dim)),
            np.exp(rng.normal(size=dim)))
        numbers = rng.integers(0, len(classes), n)
        codes = rng.integers(0, num_levels(classes.widths[numbers]) + 1)
        return PackedTable.from_classes(codes[ids], numbers[ids], classes,
                                        scale[ids], scale_dtype=dtype)
    if kind == "general":
        count = int(rng.integers(1, 9))
        widths = rng.integers(0, 9, (count, dim))
        widths[:, rng.random(dim) < 0.3] = 0
        classes = RowClasses(
            widths, np.exp(rng.normal(size=(count, dim))) * rng.choice(
                [-1, 1], (count, dim)), rng.normal(size=(count, dim)),
            rng.integers(0, 2, (count, dim)))
        numbers = rng.integers(0, count, n)
        codes = rng.integers(0, num_levels(widths[numbers]) + 1)
        offset = rng.normal(size=n) if rng.random() < 0.5 else None
        return PackedTable.from_classes(
            codes[ids], numbers[ids], classes, scale[ids],
            None if offset is None else offset[ids], scale_dtype=dtype)
    widths = rng.choice(rng.integers(0, 9, 3), n)
    codes = rng.integers(0, num_levels(widths)[:, None] + 1, (n, dim))
    scale /= num_levels(widths) + 1
    offset = rng.normal(size=n) if kind == "offset" else None
    return PackedTable.from_codes(
        codes[ids], widths[ids], scale=scale[ids],
        offset=None if offset is None else offset[ids],
        centered=kind == "centered", scale_dtype=dtype)


def brute_force(table, queries, k, exclude=None, allow=None):
    """All scores, summed as the reference is, sorted by (-score, row)."""
    rows = table.dequantize().astype(np.float64)
    scores = np.zeros((len(queries), len(rows)))
    for d in range(table.dim):
        scores += queries[:, d:d + 1].astype(np.float64) * rows[:, d]
    if allow is not None:
        scores[:, np.setdiff1d(np.arange(len(rows)), allow)] = -np.inf
    if exclude is not None:
        for q in range(len(queries)):
            scores[q, exclude[1][exclude[0][q]:exclude[0][q + 1]]] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    scores = np.take_along_axis(scores, order, axis=1)
    order[np.isneginf(scores)] = -1
    return scores, order


def random_exclude(rng, batch, rows):
    counts = rng.integers(0, min(rows, 50) + 1, batch)
    indptr = np.concatenate([[0], np.cumsum(counts)])
    return indptr, rng.integers(0, rows, indptr[-1])


def check(table, queries, k, exclude=None, allow=None):
    scores, ids = table.topk(queries, k, exclude, allow)
    expected = brute_force(table, np.atleast_2d(queries), k, exclude, allow)
    assert np.array_equal(ids, expected[1])
    assert np.array_equal(scores, expected[0])


kinds = st.sampled_from(["centered", "plain", "offset", "general",
                         "gaussian"])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3000), st.sampled_from(DIMS),
       kinds, st.sampled_from(["float16", "float32", "log8", "log4"]),
       st.booleans())
def test_answers_are_those_of_brute_force(seed, n, dim, kind, dtype, copies):
    rng = np.random.default_rng(seed)
    table = random_table(rng, n, dim, kind, dtype, copies)
    batch = int(rng.integers(1, 4))
    queries = rng.normal(size=(batch, dim)).astype(np.float32)
    if rng.random() < 0.3:
        queries = np.sign(queries)
    exclude = random_exclude(rng, batch, n) if rng.random() < 0.5 else None
    allow = (rng.integers(0, n, rng.integers(1, n + 1))
             if rng.random() < 0.3 else None)
    for k in {1, int(rng.integers(1, n + 1)), min(n, 20)}:
        check(table, queries, k, exclude, allow)


@pytest.mark.parametrize("seed", range(200))
def test_two_hundred_tables(seed):
    # Many rows, few numbers: the sizes grow up to 50,000 rows.
    rng = np.random.default_rng(seed)
    dim = DIMS[seed % 8]
    n = int(min(50_000, 2_000_000 // dim) * rng.random()**3) + 1
    kind = ["centered", "plain", "offset", "general"][seed // 8 % 4]
    table = random_table(rng, n, dim, kind, copies=seed % 3 == 0)
    queries = rng.normal(size=(2, dim)).astype(np.float32)
    check(table, queries, min(n, 1 + seed % 40), random_exclude(rng, 2, n))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["centered", "offset", "general"])
def test_engines_agree(engine, kind):
    rng = np.random.default_rng(5)
    table = random_table(rng, 5000, 70, kind)
    table.engine = engine
    assert table.engine == engine
    queries = rng.normal(size=(4, 70)).astype(np.float32)
    allow = rng.integers(0, 5000, 3000)
    check(table, queries, 20, random_exclude(rng, 4, 5000), allow)
    check(table, queries, 1)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("n", [1, 2, 801, 5000])
def test_gaussian_classes_with_scales_of_half_bytes(engine, n):
    rng = np.random.default_rng(n)
    table = random_table(rng, n, 96, "gaussian", "log4", copies=n == 801)
    table.engine = engine
    queries = rng.normal(size=(4, 96)).astype(np.float32)
    check(table, queries, min(n, 20), random_exclude(rng, 4, n))
    compiled = len(scan.scan.signatures)
    random_table(rng, 900, 96, "gaussian", "log8").topk(queries, 9)
    assert len(scan.scan.signatures) == compiled  # the same kernels


@pytest.mark.parametrize("engine", ENGINES)
def test_long_rows_take_several_looks(engine):
    # 1,100 bytes a row: sums of 16 bits hold 128 bytes at once.
    rng = np.random.default_rng(6)
    table = random_table(rng, 700, 1100, "plain")
    wide = PackedTable.from_codes(rng.integers(0, 256, (700, 1100)),
                                  [8] * 700, scale=np.exp(rng.normal(
                                      size=700)))
    for one in (table, wide):
        one.engine = engine
        check(one, rng.normal(size=(2, 1100)).astype(np.float32), 9)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("size", [3e38, 1e19, 1e-19, 1e-30, 1e-45])
def test_extreme_sizes(engine, size):
    rng = np.random.default_rng(7)
    widths = rng.integers(0, 9, 300)
    table = PackedTable.from_codes(
        rng.integers(0, num_levels(widths)[:, None] + 1, (300, 9)), widths,
        scale=np.float32(np.exp(rng.normal(size=300)) * min(size, 1e33)),
        scale_dtype="float32")
    table.engine = engine
    queries = np.float32(rng.normal(size=(3, 9)).clip(-1, 1) * size)
    queries[2] = 0
    check(table, queries, 20)
    check(table, np.float32(rng.normal(size=(1, 9))), 20)


@pytest.mark.parametrize("kind", ["centered", "offset", "general"])
@pytest.mark.parametrize("engine", ENGINES)
def test_similar_rows_are_those_of_brute_force(kind, engine):
    rng = np.random.default_rng(11)
    table = random_table(rng, 3000, 33, kind)
    table.engine = engine
    x = table.dequantize().astype(np.float64)
    length = np.sqrt((x * x).sum(axis=1))
    y = x / np.where(length > 0, length, 1)[:, None]
    ids = np.array([5, 77, 2999, int(np.argmin(length))])
    cosine = y[ids] @ y.T
    cosine[np.arange(4), ids] = -np.inf
    scores, found = table.similar(ids, 30)
    expected = -np.sort(-cosine, axis=1)[:, :30]
    assert scores == pytest.approx(expected, abs=1e-12)
    assert np.take_along_axis(cosine, found, 1) == pytest.approx(scores,
                                                                 abs=1e-12)


def test_rows_of_another_table_are_queries(monkeypatch):
    rng = np.random.default_rng(12)
    table = random_table(rng, 900, 20, "centered")
    other = random_table(rng, 50, 20, "offset")
    monkeypatch.setattr("pyg_nodequant.runtime.rows._QUERY_NUMBERS", 60)
    ids = rng.integers(0, 50, 31)
    exclude = random_exclude(rng, 31, 900)
    expected = table.topk(other.dequantize(ids), 8, exclude)
    found = table.topk((other, ids), 8, exclude)
    assert np.array_equal(found[0], expected[0])
    assert np.array_equal(found[1], expected[1])
    assert table.topk((other, 7), 3)[1].shape == (3, )
    with pytest.raises(ValueError, match="'queries' needs to be in"):
        table.topk((other, [50]), 1)
    with pytest.raises(ValueError, match="'queries' needs 20 numbers"):
        table.topk((random_table(rng, 3, 4, "plain"), [0]), 1)


def test_equal_rows_go_by_number():
    table = PackedTable.from_codes(np.ones((5000, 3), int), [1, 2] * 2500,
                                   scale=[1.0] * 5000)
    assert table.topk([1.0, 2.0, 3.0], 7)[1].tolist() == list(range(7))
    assert table.topk([0.0, 0.0, 0.0], 3)[1].tolist() == [0, 1, 2]
    assert table.topk([-1.0, 0.5, 0.5], 3)[0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("how", [
    copy.deepcopy, lambda table: pickle.loads(pickle.dumps(table))])
def test_copies_search_alike(how):
    table = random_table(np.random.default_rng(13), 400, 12, "offset")
    table.engine = "lookup"
    query = np.ones(12, dtype=np.float32)
    expected, compiled = table.topk(query, 9), len(scan.scan.signatures)
    one = how(table)
    assert one.engine == "lookup"
    assert np.array_equal(one.topk(query, 9)[0], expected[0])
    assert len(scan.scan.signatures) == compiled


def test_rows_in_rising_order():
    # The worst case for a rising bar.
    scale = np.arange(1, 20001) / 10000
    table = PackedTable.from_codes(np.full((20000, 4), 3), [2] * 20000,
                                   scale=scale, scale_dtype="float32")
    assert table.topk([1.0] * 4, 5)[1].tolist() == [19999, 19998, 19997,
                                                    19996, 19995]


@pytest.mark.parametrize("k", [1000, 4096, 4097, 4900])
def test_long_lists(k):
    # Of the longest, no lower bounds are kept.
    rng = np.random.default_rng(k)
    table = random_table(rng, 20000, 5, "classes")
    queries = rng.normal(size=(2, 5)).astype(np.float32)
    exact = np.zeros((2, 20000))
    x = table.dequantize().astype(np.float64)
    for d in range(5):
        exact += queries[:, d:d + 1].astype(np.float64) * x[:, d]
    expected = np.argsort(-exact, axis=1, kind="stable")[:, :k]
    for engine in ENGINES:
        table.engine = engine
        scores, ids = table.topk(queries, k)
        assert np.array_equal(ids, expected)
        assert np.array_equal(scores, np.take_along_axis(exact, ids, 1))


def test_more_rows_wait_than_there_is_room_for():
    # All scores are equal: no bound keeps a row out.
    table = PackedTable.from_codes(np.ones((9000, 4), int), [2] * 9000,
                                   scale=[0.5] * 9000)
    assert 9000 > scan._WAITING
    for query in (np.zeros(4), np.ones(4), -np.ones(4)):
        scores, ids = table.topk(query, 30)
        assert ids.tolist() == list(range(30))
        assert (scores == 0.5 * query.sum()).all()


@jit
def all_bounds(codes, start, blocks, size, tables, first, planes, scale,
               offset, terms, limit, passed, out):
    return tile_bounds(codes, start, blocks, size, tables, first, planes,
                       scale, offset, terms, limit, out, passed)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(DIMS), kinds)
def test_no_score_is_above_its_bound(seed, dim, kind):
    # Neither in fact nor by chance: not for one row of one table.
    rng = np.random.default_rng(seed)
    table = random_table(rng, 640, dim, kind)
    queries = rng.normal(size=(2, dim)) * np.exp(5 * rng.normal(size=(2, 1)))
    queries = queries.astype(np.float32)
    searcher = table._searcher
    rows, classes = searcher.rows, searcher.classes
    plans = make_plans(queries.astype(np.float64), classes)
    exact = np.zeros((2, 640))
    x = table.dequantize().astype(np.float64)
    for d in range(dim):
        exact += queries[:, d:d + 1].astype(np.float64) * x[:, d]
    for c in range(len(classes.sizes)):
        whole = int(rows.counts[c]) // 64
        first = int(rows.first[c])
        part = slice(first, first + 64 * whole)
        ids = table.order[part]
        scale = np.ascontiguousarray(table.scale[ids])
        offset = np.zeros(0, np.float32)
        if table.offset is not None:
            offset = np.ascontiguousarray(table.offset[ids])
        for q in range(2):
            out = np.empty(64 * whole, dtype=np.float32)
            passed = np.empty(whole, dtype=np.uint64)
            terms = tuple(plans.terms[q, c])
            arguments = (rows.codes, int(rows.starts[c]), whole,
                         int(classes.sizes[c]), plans.tables[q],
                         int(classes.entries[c]), 2 if plans.high[q, c] else 1,
                         scale, offset, terms)
            everything = np.float32(-np.inf)
            found = all_bounds(*arguments, everything, passed, out)
            assert found == (1 << whole) - 1
            assert (passed == ~np.uint64(0)).all()
            limits = [scan._limit(-np.inf, score, plans.norms[q])
                      for score in exact[q, ids]]
            assert (out >= limits).all()
            # Nor is one below its lower bound, which is what the scan raises
            # its bar by.
            margin = np.abs(scale).astype(float) * terms[2]
            if len(offset):
                margin += np.abs(offset).astype(float) * terms[4]
            assert (out - 2 * margin - 1e-36 <=
                    exact[q, ids] / plans.norms[q]).all()
            slow, again = np.empty_like(out), np.empty_like(passed)
            assert all_bounds.py_func(*arguments, everything, again,
                                      slow) == found
            assert np.array_equal(again, passed)
            # Which rows pass, for a limit that some do.
            limit = np.median(out) if len(out) else np.float32(0)
            some = np.full_like(out, np.nan)
            found = all_bounds(*arguments, limit, passed, some)
            for b in range(whole):
                part = slice(64 * b, 64 * b + 64)
                assert int(passed[b]) == sum(
                    int(value >= limit) << j
                    for j, value in enumerate(out[part]))
                assert (found >> b & 1) == (passed[b] != 0)
                if passed[b]:
                    assert np.array_equal(some[part], out[part])
            top = 2 * classes.sizes[c] * (65535 if plans.high[q, c] else 255)
            rounding = abs(terms[0]) + terms[1] * top
            assert (np.abs(slow - out) <= 2.0**-20 * (
                np.abs(scale) * rounding + np.abs(out))).all()


def test_kernels_as_python(monkeypatch):
    table = random_table(np.random.default_rng(8), 150, 9, "offset")
    queries = np.random.default_rng(9).normal(size=(2, 9)).astype(np.float32)
    expected = table.topk(queries, 5, ([0, 1, 2], [3, 4]))
    for name in ("_limit", "_bounds", "_reference", "_read", "_multiply",
                 "_raise_floor", "_score_waiting", "scan", "answer",
                 "make_plans", "lookup_bounds", "contains", "worse", "sink",
                 "sort_heaps", "row_start", "decode_number"):
        kernel = getattr(scan, name)
        monkeypatch.setattr(scan, name, kernel.py_func)
    monkeypatch.setattr("pyg_nodequant.runtime.search.answer", scan.answer)
    for engine in ENGINES:
        table.engine = engine
        found = table.topk(queries, 5, ([0, 1, 2], [3, 4]))
        assert np.array_equal(found[1], expected[1])
        assert np.array_equal(found[0], expected[0])
