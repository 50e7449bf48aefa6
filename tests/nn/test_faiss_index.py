from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from pyg_nodequant import PackedMIPSIndex, PackedTable
from pyg_nodequant.nn import to_faiss
from pyg_nodequant.runtime import RowClasses
from pyg_nodequant.runtime.row_codes import pack_codes

N, D, K = 300, 9, 10


def faiss():
    return pytest.importorskip("faiss")


def rows(n: int = N, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32)


def grid_table(widths, *, steps=1.0, offset=None, n: int = N) -> PackedTable:
    """Random codes of classes of the given widths; one scale for all."""
    rng = np.random.default_rng(1)
    widths = np.stack([np.broadcast_to(width, D) for width in widths])
    classes = RowClasses(widths, steps, rng.normal(size=widths.shape),
                         rng.integers(0, 2, size=widths.shape).astype(bool))
    ids = rng.integers(0, len(widths), size=n)
    codes = (rng.random((n, D)) * (1 << widths[ids])).astype(np.uint8)
    offset = None if offset is None else [offset] * n
    return PackedTable.from_classes(codes, ids, classes, [0.25] * n, offset)


def brute_force(table: PackedTable, queries: np.ndarray, k: int):
    """Sorts all scores of each query in plain Python."""
    every = table.dequantize().astype(float).tolist()
    for query in queries.astype(float).tolist():
        found = sorted((-sum(x * y for x, y in zip(query, row)), i)
                       for i, row in enumerate(every))[:k]
        yield [-score for score, _ in found], [i for _, i in found]


def check_search(index, table: PackedTable, rtol: float = 1e-5):
    """Faiss has our scores, and our rows but for those that nearly tie."""
    queries = rows(20, seed=7)
    scores, ids = index.search(queries, K)
    x = table.dequantize()
    scale = np.abs(queries) @ np.abs(x).T
    for b, (expected, best) in enumerate(brute_force(table, queries, K)):
        tolerance = rtol * scale[b].max()
        assert np.allclose(scores[b], expected, rtol=0, atol=tolerance)
        assert np.allclose(queries[b] @ x[ids[b]].T, expected, rtol=0,
                           atol=tolerance)
        if min(np.diff(expected[::-1])) > 4 * tolerance:
            assert ids[b].tolist() == best


def name(index) -> str:
    # A build for one instruction set may derive classes of its own.
    return type(index).__name__


STEPS = np.random.default_rng(2).normal(size=(1, D))  # some are below 0


@pytest.mark.parametrize("table", [
    grid_table([4]),
    grid_table([4], steps=STEPS, offset=0.75),
    grid_table([3], offset=-2.0),
    grid_table([np.arange(D) % 5]),
    grid_table([3, 2, 0]),
    grid_table([0]),
    grid_table([4], n=1),
])
def test_product_quantizer_of_4_bits(table):
    index = to_faiss_or_skip(table)
    assert name(index) == "IndexPQ"
    assert (index.ntotal, index.d) == (len(table), D)
    assert index.code_size == (D + 1) // 2
    read = np.asarray(index.reconstruct_n(0, len(table)))
    assert np.array_equal(read, table.dequantize())
    if len(table) >= K:
        check_search(index, table)


def to_faiss_or_skip(*tables, **kwargs):
    faiss()
    return to_faiss(*tables, **kwargs)


def test_codes_of_4_bits_are_taken_over():
    table = grid_table([4])
    index = to_faiss_or_skip(table)
    stored = np.array([index.sa_encode(table.dequantize([i]))[0]
                       for i in range(N)])
    ours = pack_codes(table.codes(), [4] * D)
    assert np.array_equal(stored, ours)
    assert np.array_equal(
        faiss().vector_to_array(index.codes).reshape(N, -1), ours)


@pytest.mark.parametrize("table", [
    grid_table([8]),
    grid_table([8], steps=STEPS, offset=0.75),
    grid_table([5], offset=-2.0),
    grid_table([np.arange(D)]),
])
def test_scalar_quantizer(table):
    index = to_faiss_or_skip(table)
    assert name(index) == "IndexScalarQuantizer"
    assert index.code_size == D
    codes = faiss().vector_to_array(index.codes).reshape(N, D)
    assert np.array_equal(codes, table.codes())
    expected = table.dequantize()
    assert np.allclose(np.asarray(index.reconstruct_n(0, N)), expected,
                       rtol=0, atol=1e-6 * np.abs(expected).max())
    check_search(index, table)


@pytest.mark.parametrize("table", [
    grid_table([5, 3]),
    grid_table([7, np.arange(D) % 7, 1, 0], steps=0.01, offset=0.5),
])
def test_product_quantizer_of_8_bits(table):
    index = to_faiss_or_skip(table)
    assert name(index) == "IndexPQ"
    assert index.code_size == D
    assert np.array_equal(np.asarray(index.reconstruct_n(0, N)),
                          table.dequantize())
    check_search(index, table)


@pytest.mark.parametrize("table", [
    PackedTable.from_float(rows(), 4),
    PackedTable.from_float(rows(), 8, "minmax"),
    PackedTable.from_float(rows(), np.arange(N) % 9, scale_dtype="log8"),
    grid_table([8, 1]),  # 258 values in a dimension
])
def test_other_tables_are_flat(table):
    index = to_faiss_or_skip(table)
    assert name(index) == "IndexFlatIP"
    assert np.array_equal(np.asarray(index.reconstruct_n(0, N)),
                          table.dequantize())
    check_search(index, table)


def test_several_tables():
    tables = [grid_table([4]), PackedTable.from_float(rows(5), 8)]
    index = to_faiss_or_skip(*tables)
    assert name(index) == "IndexFlatIP"
    assert index.ntotal == N + 5
    read = np.asarray(index.reconstruct_n(0, N + 5))
    assert np.array_equal(read[:N], tables[0].dequantize())
    assert np.array_equal(read[N:], tables[1].dequantize())


@pytest.mark.parametrize("table", [grid_table([4], offset=0.5, n=4000),
                                   grid_table([2, 1], n=4000)])
def test_fast_scan_is_close(table):
    index = to_faiss_or_skip(table, fast_scan=True)
    assert name(index) == "IndexPQFastScan"
    assert index.ntotal == 4000
    queries = rows(50, seed=7)
    scores, ids = index.search(queries, K)
    expected, best = table.topk(queries, K)
    # Tables of 8 bits over the range of the query's products: D roundings of
    # half a step each.
    x = table.dequantize()
    span = (np.ptp(x, axis=0) * np.abs(queries)).max(axis=1, keepdims=True)
    assert (np.abs(scores - np.take_along_axis(queries @ x.T, ids, axis=1))
            <= D * span / 255).all()
    # Of codes this coarse many tie: the worst score found is near our worst.
    found = np.take_along_axis(queries @ x.T, ids, axis=1)
    assert (found.min(axis=1) >= expected[:, -1] - D * span[:, 0] / 255).all()
    recall = np.mean([len(set(a) & set(b)) / K for a, b in zip(ids, best)])
    assert recall > 0.9


def test_empty_tables_and_files():
    library = faiss()
    index = to_faiss(PackedTable.from_float(rows(0), 4))
    assert (name(index), index.ntotal, index.d) == ("IndexFlatIP", 0, D)
    table = grid_table([4])
    copy = library.deserialize_index(library.serialize_index(to_faiss(table)))
    check_search(copy, table)


def test_index_of_data_points():
    faiss()
    points = PackedMIPSIndex(grid_table([4]))
    assert name(points.to_faiss()) == "IndexPQ"
    assert name(points.to_faiss(fast_scan=True)) == "IndexPQFastScan"
    points.add(torch.from_numpy(rows(7)))
    index = points.to_faiss()
    assert name(index) == "IndexFlatIP"
    queries = torch.from_numpy(rows(4, seed=3))
    expected = points.search(queries, 5)
    scores, ids = index.search(queries.numpy(), 5)
    assert np.allclose(scores, expected.score.numpy(), rtol=1e-5)
    assert ids.tolist() == expected.index.tolist()
    with pytest.raises(RuntimeError, match="not yet initialized"):
        PackedMIPSIndex().to_faiss()


def test_wrong_arguments():
    faiss()
    with pytest.raises(ValueError, match=r"at least one table \(got none\)"):
        to_faiss()
    other = PackedTable.from_float(np.ones((2, 3)), 4)
    with pytest.raises(ValueError, match=r"same number of dimensions \(got "
                       r"\[9, 3\]\)"):
        to_faiss(grid_table([4]), other)
    for tables in ([grid_table([8])], [grid_table([4])] * 2,
                   [PackedTable.from_float(rows(), 4)]):
        with pytest.raises(ValueError, match="'fast_scan' needs one table"):
            to_faiss(*tables, fast_scan=True)


def test_without_faiss(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"'to_faiss' needs the package "
                       r"'faiss' \(pip install pyg-nodequant\[faiss\]\)"):
        to_faiss(grid_table([4]))
