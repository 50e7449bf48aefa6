from __future__ import annotations

import numpy as np
import pytest

from pyg_nodequant.data import grouping


@pytest.mark.parametrize("size", [0, 1, 50])
def test_group_order_is_a_stable_sort(size: int) -> None:
    keys = np.random.default_rng(0).integers(0, 7, size)
    want = np.argsort(keys, kind="stable").tolist()
    assert grouping.group_order(keys, 7).tolist() == want
    order = np.empty(size, dtype=np.int64)
    grouping._scatter.py_func(
        keys, grouping.index_pointer(keys, 7)[:-1].copy(), order)
    assert order.tolist() == want


def test_index_pointer() -> None:
    keys = np.array([0, 0, 3])
    assert grouping.index_pointer(keys, 5).tolist() == [0, 2, 2, 2, 3, 3]
