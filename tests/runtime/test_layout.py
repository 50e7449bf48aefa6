from __future__ import annotations

import numpy as np
import pytest

from pyg_nodequant.runtime import RowClasses, layout
from pyg_nodequant.runtime.layout import RowLayout


@pytest.mark.parametrize("count", [1, 2, 16, 17, 256])
@pytest.mark.parametrize("rows", [0, 1, 77])
def test_against_sorting(count, rows, monkeypatch):
    rng = np.random.default_rng(count)
    widths = rng.integers(0, 9, (count, 5))
    ids = rng.integers(0, count, rows).astype(np.uint8)
    for compiled in (True, False):
        if not compiled:
            for name in ("_count_classes", "_sort_rows", "_find_rows"):
                monkeypatch.setattr(layout, name,
                                    getattr(layout, name).py_func)
        one = RowLayout.of(RowClasses(widths), ids)
        order = np.argsort(ids, kind="stable")
        assert np.array_equal(one.class_ids, ids)
        assert np.array_equal(one.order, order)
        assert one.order.dtype == np.uint32
        assert np.array_equal(one.counts, np.bincount(ids, minlength=count))
        assert np.array_equal(one.first, np.cumsum(one.counts) - one.counts)
        some = rng.integers(0, rows, 30) if rows else np.zeros(0, int)
        place = np.empty(rows, dtype=np.int64)
        place[order] = np.arange(rows)
        assert np.array_equal(one.positions(some), place[some])
        assert np.array_equal(one.classes_of(some), ids[some])
        sizes = (widths.sum(axis=1) + 7) // 8
        assert one.num_bytes == sizes[ids].sum()
        assert np.array_equal(one.starts, np.cumsum(one.counts * sizes) -
                              one.counts * sizes)


def test_order_is_made_when_it_is_needed():
    one = RowLayout.of(RowClasses([[1], [2]]), np.uint8([0, 1, 0]))
    assert one.resident_bytes == 2
    assert one.order.tolist() == [0, 2, 1]
    assert one.resident_bytes == 2 + 12


def test_rows_of_no_class_are_found():
    one = RowLayout(RowClasses([[1], [2]]), np.uint8([0x31, 0x10]), 4)
    assert one.found[2:].tolist() == [0, 1] + [0] * 12
