from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyg_nodequant.runtime import FloatTable, PackedTable
from pyg_nodequant.runtime.grown_table import GrownTable
from pyg_nodequant.runtime.row_fit import fit_rows

D = 4


def grow(rng, sizes, removed, floats=False):
    # Rows repeat, so that there are ties within and between the parts.
    x = rng.integers(-2, 3, (sum(sizes), D)).astype(np.float32)
    x[rng.integers(0, len(x), len(x) // 2)] = x[0]
    widths = rng.choice([2, 8], sizes[0])
    base = (FloatTable(x[:sizes[0]]) if floats else
            PackedTable.from_float(x[:sizes[0]], widths,
                                   scale_dtype="float32"))
    table, start = GrownTable(base), sizes[0]
    bits = np.resize([8 * D, 2 * D] if 8 in widths and 2 in widths else
                     widths[:1] * D, sum(sizes))
    for size in sizes[1:]:
        rows = x[start:start + size]
        table = table.with_rows(fit_rows(base, rows, bits[:size]))
        start += size
    gone = rng.permutation(len(x))[:removed]
    return table.without(gone), np.sort(gone)


def oracle(table, gone, queries, k, exclude, allow):
    x = every_row(table)
    scores = np.zeros((len(queries), len(x)))
    for d in range(D):
        scores += queries[:, d:d + 1].astype(float) * x[:, d]
    scores[:, gone] = -np.inf
    if allow is not None:
        scores[:, np.setdiff1d(np.arange(len(x)), allow)] = -np.inf
    for q in range(len(queries)):
        if exclude is not None:
            part = exclude[1][exclude[0][q]:exclude[0][q + 1]]
            scores[q, part] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(scores, order, axis=1)
    return best, np.where(np.isneginf(best), -1, order)


def every_row(table):
    return table.read(np.arange(len(table)))


@given(st.integers(0, 10**6), st.booleans(), st.booleans(), st.booleans(),
       st.sampled_from([(9,), (30, 1), (5, 20, 3), (200, 40)]))
@settings(max_examples=60, deadline=None)
def test_search_is_that_of_one_table(seed, floats, masked, limited, sizes):
    rng = np.random.default_rng(seed)
    total = sum(sizes)
    table, gone = grow(rng, sizes, int(rng.integers(0, total)), floats)
    batch = int(rng.integers(1, 6))
    queries = rng.normal(size=(batch, D)).astype(np.float32)
    exclude = allow = None
    if masked:
        parts = [np.sort(rng.permutation(total)[:rng.integers(0, total)])
                 for _ in range(batch)]
        exclude = (np.cumsum([0, *map(len, parts)]), np.concatenate(parts))
    if limited:
        allow = rng.permutation(table.live)[:rng.integers(0, total)]
    k = int(rng.integers(1, total + 1))
    found = table.topk(queries, k, exclude, allow)
    expected = oracle(table, gone, queries, k, exclude, allow)
    assert np.array_equal(found[0], expected[0])
    assert np.array_equal(found[1], expected[1])
    # The flat table gives the same, numbered anew.
    flat, live = table.flat(), table.live
    assert np.array_equal(flat.dequantize(), table.dequantize(live))
    if len(live) and exclude is None and allow is None:
        k = min(k, len(live))
        again = flat.topk(queries, k)
        assert np.array_equal(again[0], found[0][:, :k])
        assert np.array_equal(live[again[1]], found[1][:, :k])


@pytest.mark.parametrize("floats", [False, True])
@pytest.mark.parametrize("removed", [0, 3, 60])
def test_similar(floats, removed):
    rng = np.random.default_rng(4)
    table, gone = grow(rng, (70, 20), removed, floats)
    live = table.live
    found = table.similar(live[:8], 90)
    expected = table.flat().similar(np.arange(8), len(live))
    assert np.array_equal(found[0][:, :len(live)], expected[0])
    rows = np.where(expected[1] < 0, -1, live[expected[1]])
    assert np.array_equal(found[1][:, :len(live)], rows)
    assert (found[1][:, len(live):] == -1).all()
    assert not np.isin(found[1], gone).any()


def test_removed_rows_cannot_be_asked_for():
    table = GrownTable(FloatTable(np.eye(3)), FloatTable(np.ones((1, 3))))
    table = table.without([3, 1])
    assert table.live.tolist() == [0, 2] and table.num_live == 2
    for call in (lambda: table.dequantize([0, 3]),
                 lambda: table.topk(np.ones(3), 1, allow=[1]),
                 lambda: table.without([1])):
        with pytest.raises(ValueError, match="needs to hold rows that were n"
                           "ot removed"):
            call()
    with pytest.raises(ValueError, match=r"'ids' needs to be in \[0, 3\]"):
        table.dequantize([4])


def test_what_it_holds():
    base = PackedTable.from_float(np.eye(4)[[0, 1, 2]], [2, 8, 2])
    table = GrownTable(base).with_rows(fit_rows(base, np.eye(4)[:1], [8 * D]))
    assert table.widths.tolist() == [2, 8, 2, 8]
    assert table.mean_bits == 5
    assert table.resident_bytes == (base.resident_bytes +
                                    table.tail.resident_bytes)
    assert GrownTable.of(table) is table
    assert len(table.tail_from(4)) == 0
    assert np.array_equal(table.tail_from(3).dequantize(),
                          table.dequantize([3]))
    assert len(GrownTable(base).tail_from(3)) == 0
