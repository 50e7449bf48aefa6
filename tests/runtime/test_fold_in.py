from __future__ import annotations

import numpy as np
import pytest

from pyg_nodequant.runtime import Catalogue, FloatTable, PackedRecommender
from pyg_nodequant.runtime.fold_in import RIDGE, Lengths, degrees, spread

U, N, D = 40, 30, 6


def model(seed=0, seen=True, scale=1.0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(U + N, D)) * rng.uniform(.5, 2, (U + N, 1)) * scale
    parts = [np.sort(rng.permutation(N)[:rng.integers(0, 9)])
             for _ in range(U)]
    lists = np.cumsum([0, *map(len, parts)]), np.concatenate(parts)
    catalogue = Catalogue(np.arange(U) + 100, np.arange(N) + 1000,
                          seen=lists if seen else None)
    return PackedRecommender(FloatTable(x[:U]), FloatTable(x[U:]),
                             catalogue=catalogue)


def slow_length(one, rows, degree, weight):
    """The length by the normal equations, row by row."""
    a, b = np.zeros((3, 3)), np.zeros(3)
    logs = [np.log(d) for d in degree if d > 0]
    for x, d in zip(rows.astype(float), degree):
        if d > 0:
            basis = np.log(d)**np.arange(3)
            a += np.outer(basis, basis)
            b += basis * np.log(np.sqrt(sum(x * x)))
    log = min(max(np.log(weight), min(logs)), max(logs))
    return np.exp(np.linalg.solve(a, b) @ log**np.arange(3))


def test_the_row_of_a_user():
    one = model()
    y = one.items.dequantize().astype(float)
    degree = np.diff(one.catalogue.seen[0])
    gram = sum(np.outer(row, row) for row in y)
    ridge = RIDGE * np.trace(gram) / D
    z = np.linalg.solve(gram + ridge * np.eye(D),
                        2 * y[3] + .5 * y[7] - .25 * y[1])
    length = slow_length(one, one.users.dequantize(), degree, 2.75)
    row = one.fold_in([1003, 1007, 1001], [2, .5, -.25])
    assert row.dtype == np.float32 and row.shape == (D, )
    assert row == pytest.approx(length * z / np.linalg.norm(z), rel=1e-5)


def test_the_row_of_an_item():
    one = model()
    x = one.users.dequantize().astype(float)
    indptr, indices = one.catalogue.seen
    degree = np.maximum(np.diff(indptr), 1)
    z = x[4] / np.sqrt(degree[4]) + x[9] / np.sqrt(degree[9])
    length = slow_length(one, one.items.dequantize(),
                         np.bincount(indices, minlength=N), 2)
    row = one.fold_in_item([104, 109])
    assert row == pytest.approx(length * z / np.linalg.norm(z), rel=1e-5)


def test_without_seen_lists():
    one = model(seen=False)
    x, y = one.users.dequantize(), one.items.dequantize()
    mean = np.exp(np.log(np.linalg.norm(x, axis=1)).mean())
    assert np.linalg.norm(one.fold_in([1003])) == pytest.approx(mean, 1e-5)
    z = x[4] + x[9]
    mean = np.exp(np.log(np.linalg.norm(y, axis=1)).mean())
    assert one.fold_in_item([104, 109]) == pytest.approx(
        mean * z / np.linalg.norm(z), rel=1e-4)
    bare = PackedRecommender(one.users, one.items)
    assert np.array_equal(bare.fold_in([3]), one.fold_in([1003]))


def test_it_is_the_same_in_any_order():
    one = model()
    row = one.fold_in([1003, 1007, 1001], [1, 2, 3])
    assert np.array_equal(row, one.fold_in(["1001", 1003, 1007], [3, 1, 2]))
    assert np.array_equal(row, model().fold_in([1007, 1001, 1003], [2, 3, 1]))
    twice = one.fold_in([1003, 1003, 1007])
    assert np.array_equal(twice, one.fold_in([1003, 1007], [2, 1]))
    # The order of the answer does not depend on the size of the weights.
    a, b = (one.recommend_for([1003, 1007], 5, [w, w])[1] for w in (1, 9))
    assert a.tolist() == b.tolist()


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_rows_of_any_size(scale):
    row = model(scale=scale).fold_in([1003, 1007]) / scale
    assert row == pytest.approx(model().fold_in([1003, 1007]), rel=1e-4)


def test_rows_of_zeros():
    zero = FloatTable(np.zeros((3, 2)))
    one = PackedRecommender(zero, zero)
    assert one.fold_in([1]).tolist() == [0, 0]
    assert one.fold_in_item([1, 2]).tolist() == [0, 0]
    assert model().fold_in([1000], [0]).tolist() == [0] * D


def test_lengths_need_some_rows():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3))
    mean = np.exp(np.log(np.linalg.norm(x, axis=1)).mean())
    table, rows = FloatTable(x), np.arange(40)
    for degree in (None, np.zeros(40, dtype=int), np.ones(40, dtype=int)):
        found = Lengths(table, rows, degree)
        assert found(1) == pytest.approx(mean)
        assert found(100) == pytest.approx(mean)
    assert Lengths(table, [], None)(3) == 1
    # Never beyond the degrees that were seen.
    degree = rng.integers(1, 50, 40)
    found = Lengths(table, rows, degree)
    assert found(1e9) == found(degree.max())
    assert found(0) == found(degree.min())


def test_degrees_of_what_counts():
    seen = np.array([0, 2, 2, 5]), np.array([0, 1, 0, 1, 2])
    users, items = degrees(seen, np.array([0, 1]), np.array([0, 2]), 3)
    assert users.tolist() == [1, 0, 0]
    assert items.tolist() == [1, 0, 0]


def test_spread():
    assert spread(np.arange(5), 5).tolist() == [0, 1, 2, 3, 4]
    found = spread(np.arange(10**6), 1000)
    assert len(np.unique(found)) == 1000
    assert np.diff(found).max() - np.diff(found).min() <= 1


@pytest.mark.parametrize("call,message", [
    (lambda one: one.fold_in([]), "'item_ids' needs at least one id"),
    (lambda one: one.fold_in("1003"), "'item_ids' needs to be a list of ids"),
    (lambda one: one.fold_in([5]), "unknown item 5"),
    (lambda one: one.fold_in([1003], [1, 2]), "'weights' needs one number"),
    (lambda one: one.fold_in([1003], [np.nan]), "'weights' needs to be fin"),
    (lambda one: one.fold_in_item([]), "'user_ids' needs at least one id"),
    (lambda one: one.fold_in_item([5]), "unknown user 5"),
])
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(model())
