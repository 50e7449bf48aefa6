from __future__ import annotations

import numpy as np
import pytest

from pyg_nodequant.runtime import PackedGraph, graph


def random_graph(rng, users, items, layers):
    dense = rng.random((users, items)) < 0.3
    dense[0] = False
    dense[:, -1] = False
    indptr = np.concatenate([[0], np.cumsum(dense.sum(axis=1))])
    return dense, PackedGraph(indptr, np.nonzero(dense)[1], items, layers)


def slow_propagate(dense, users, items, layers):
    # The mean over layers of the dense normalised adjacency's powers.
    n, m = dense.shape
    matrix = np.zeros((n + m, n + m))
    for u in range(n):
        for i in range(m):
            if dense[u, i]:
                weight = 1 / np.sqrt(dense[u].sum() * dense[:, i].sum())
                matrix[u, n + i] = matrix[n + i, u] = weight
    x = np.concatenate([users, items]).astype(float)
    total = x.copy()
    for _ in range(layers):
        x = matrix @ x
        total += x
    total /= layers + 1
    return total[:n], total[n:]


@pytest.mark.parametrize("layers", [0, 1, 3])
@pytest.mark.parametrize("python", [False, True])
def test_against_dense(monkeypatch, layers, python):
    if python:
        for name in ("_gather", "_transpose"):
            monkeypatch.setattr(graph, name, getattr(graph, name).py_func)
    rng = np.random.default_rng(layers)
    dense, packed = random_graph(rng, 9, 7, layers)
    users = rng.normal(size=(9, 4)).astype(np.float32)
    items = rng.normal(size=(7, 4)).astype(np.float32)
    found = packed.propagate(users, items)
    expected = slow_propagate(dense, users, items, layers)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == np.float32
        assert a == pytest.approx(b, rel=1e-5, abs=1e-6)
    # Nodes without edges keep their own share.
    assert np.array_equal(found[0][0], users[0] * np.float32(1 /
                                                            (layers + 1)))
    assert np.array_equal(found[1][-1], items[-1] * np.float32(1 /
                                                             (layers + 1)))


def test_threads_do_not_matter(monkeypatch):
    rng = np.random.default_rng(5)
    _, packed = random_graph(rng, 30, 20, 2)
    users = rng.normal(size=(30, 3)).astype(np.float32)
    items = rng.normal(size=(20, 3)).astype(np.float32)
    one = packed.propagate(users, items)
    monkeypatch.setattr(graph, "_BLOCK_ROWS", 4)
    monkeypatch.setattr("pyg_nodequant.runtime._jit.num_threads", lambda: 3)
    two = packed.propagate(users, items)
    assert np.array_equal(one[0], two[0]) and np.array_equal(one[1], two[1])


def test_properties_and_unsorted_rows():
    packed = PackedGraph([0, 2, 3], [4, 1, 0], 5, 2)
    assert packed.indices.tolist() == [1, 4, 0]
    assert (packed.num_users, packed.num_items, packed.num_edges) == (2, 5, 3)
    assert repr(packed) == "PackedGraph(2, 5, num_edges=3, num_layers=2)"
    field, arrays = packed.encode()
    assert field == "2"
    assert {a.dtype for a in arrays.values()} == {np.dtype(np.uint8)}


@pytest.mark.parametrize("arguments,message", [
    (([0, 2], [1, 1], 3, 1), "needs distinct items"),
    (([0, 1], [3], 3, 1), "'graph' needs to be in"),
    (([0, 1], [1], 3, -1), "'num_layers' needs to be an integer"),
    (([0, 1], [1], 3, 65), "'num_layers' needs to be an integer"),
    (([0, 1], [1], 3, 1.5), "'num_layers' needs to be an integer"),
    (([], [], 3, 1), "'graph' needs an indptr"),
])
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        PackedGraph(*arguments)
