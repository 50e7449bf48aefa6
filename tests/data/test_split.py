from __future__ import annotations

import numpy as np
import pytest

from pyg_nodequant.data import DataError
from pyg_nodequant.data.split import carve, held_out_size


@pytest.mark.parametrize("n, fraction, want", [
    (10, 0.2, 2), (7, 0.1, 1), (4, 0.1, 0), (100_000, 0.2, 20_000),
    (5, 0.1, 1), (5, 0.0, 0)])
def test_held_out_size(n: int, fraction: float, want: int) -> None:
    assert held_out_size(n, fraction) == want
    if want < n:
        assert carve(n, fraction, "test").sum() == want


def test_test_and_val_are_independent_draws() -> None:
    test, val = carve(1000, 0.5, "test"), carve(1000, 0.5, "val")
    assert 150 < (test & val).sum() < 350


def test_frozen_choice() -> None:
    # These positions must never change: published figures depend on them.
    assert np.flatnonzero(carve(20, 0.2, "test")).tolist() == [0, 13, 16, 19]


def test_equal_times_keep_their_order() -> None:
    mask = carve(4, 0.5, "test", times=np.zeros(4))
    assert mask.tolist() == [False, False, True, True]


def test_nothing_left() -> None:
    with pytest.raises(DataError, match="leave training interactions"):
        carve(1, 0.9, "test")
    with pytest.raises(DataError, match="leave training interactions"):
        carve(0, 0.0, "val")


@pytest.mark.parametrize("fraction, seed, message", [
    (-0.5, 0, "'data.val_fraction' needs to be a number of at least 0"),
    (float("nan"), 0, "'data.val_fraction' needs .*got nan"),
    (0.1, -1, "'data.split_seed' needs .*got -1"),
    (0.1, 2**64, "'data.split_seed' needs to be an integer in .0, 2"),
])
def test_bad_arguments(fraction: float, seed: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        carve(10, fraction, "val", split_seed=seed)
