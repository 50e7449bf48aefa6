from __future__ import annotations

import numpy as np
import pytest

from pyg_nodequant.data import counter_random as cr

MASK = 2**64 - 1


def splitmix64(state: int, n: int) -> list[int]:
    """The published sequential generator, in Python integers."""
    out = []
    for _ in range(n):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        out.append(z ^ (z >> 31))
    return out


@pytest.mark.parametrize("key", [0, 1234567, 2**64 - 1])
def test_hash_bits_is_splitmix64(key: int) -> None:
    want = splitmix64(key, 5)
    counters = np.arange(5, dtype=np.uint64)
    keys = np.full(1, key, dtype=np.uint64)
    assert cr._hash_bits(keys, counters).tolist() == want
    assert [cr._hash_bits_jit(np.uint64(key), i) for i in range(5)] == want


def test_known_value() -> None:
    # First output of SplitMix64 with seed 0, as published.
    assert splitmix64(0, 1) == [0xE220A8397B1DCDAF]


@pytest.mark.parametrize("n", [1, 2, 3, 40981, 2**31 - 1])
def test_draw_below(n: int) -> None:
    for counter, bits in enumerate(splitmix64(7, 50)):
        want = (bits >> 11) * n >> 53
        assert cr.draw_below(np.uint64(7), counter, n) == want
        assert cr.draw_below.py_func(np.uint64(7), counter, n) == want
    # The largest possible draw, rounded as a double, is still below n.
    assert int(np.float64(MASK >> 11) * cr._UNIT * n) == n - 1


def test_streams_differ_and_repeat() -> None:
    a, b = cr.random_bits(0, 0, 100), cr.random_bits(0, 1, 100)
    assert not np.array_equal(a, b)
    assert np.array_equal(a, cr.random_bits(0, 0, 100))
    assert not np.array_equal(a, cr.random_bits(1, 0, 100))
    assert cr.stream_key(0, 1, 2) != cr.stream_key(0, 2, 1)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_bad_seed(seed: int) -> None:
    with pytest.raises(ValueError, match=r"'seed' needs to be in .*got"):
        cr.stream_key(seed)


def test_uniform_and_order() -> None:
    x = cr.random_uniform(3, 0, 10_000)
    counts = np.bincount((x * 10).astype(int), minlength=10)
    assert ((counts - 1000)**2 / 1000).sum() < 27.9  # chi2(9), p = .001
    order = cr.random_order(3, 0, 1000)
    assert sorted(order.tolist()) == list(range(1000))
    assert order.tolist() != list(range(1000))
