from __future__ import annotations

import numpy as np
import pytest

from pyg_nodequant.runtime import FloatTable, PackedTable, RowClasses
from pyg_nodequant.runtime.joined import join_rows
from pyg_nodequant.runtime.row_fit import fit_rows


@pytest.mark.parametrize("kind,dtype", [
    ("symmetric", "float16"), ("symmetric", "float32"), ("symmetric", "log8"),
    ("symmetric", "log4"), ("minmax", "float16"), ("minmax", "log8"),
    ("minmax", "log4"),
])
@pytest.mark.parametrize("widths", [[4], [0, 1, 3, 8]])
def test_rows_are_those_of_the_tables(kind, dtype, widths):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 5)).astype(np.float32)
    old = PackedTable.from_float(x, rng.choice(widths, 300), kind,
                                 scale_dtype=dtype)
    new = fit_rows(old, x[:70] * 2, old.bits[:70])
    first = rng.permutation(300)[:200]
    second = rng.permutation(70)[:65]
    both = join_rows([(old, first), (new, second), (old, [3])])
    expected = np.concatenate([old.dequantize(first), new.dequantize(second),
                               old.dequantize([3])])
    assert np.array_equal(both.dequantize(), expected)
    assert np.array_equal(both.codes(), np.concatenate(
        [old.codes(first), new.codes(second), old.codes([3])]))
    # Taking everything changes no byte of what a file would hold.
    same = join_rows([(old, np.arange(300))])
    one, two = old.encode("t"), same.encode("t")
    assert one[0] == two[0] and one[1].keys() == two[1].keys()
    for name, array in one[1].items():
        assert np.array_equal(two[1][name], array)
    assert len(join_rows([(old, [])])) == 0
    some = join_rows([(old, [5, 5, 7]), (new, [0])])  # an even number
    assert np.array_equal(some.dequantize(), np.concatenate(
        [old.dequantize([5, 5, 7]), new.dequantize([0])]))


def test_shared_scales():
    classes = RowClasses([[2, 2]], .5)
    old = PackedTable.from_classes([[0, 3], [1, 2]], [0, 0], classes, [3, 3])
    assert old.encode("t")[1]["t.scale"].shape == (1, )
    new = fit_rows(old, np.float32([[3.0, 4.5]]), [4])
    assert new.dequantize().tolist() == [[3, 4.5]]
    both = join_rows([(old, [0, 1]), (new, [0])])
    assert both.encode("t")[1]["t.scale"].shape == (1, )
    assert both.dequantize().tolist() == [[0, 4.5], [1.5, 3], [3, 4.5]]


def test_floats():
    one, two = FloatTable(np.eye(2)), FloatTable([[5.0, 6.0]])
    both = join_rows([(one, [1]), (two, [0])])
    assert isinstance(both, FloatTable)
    assert both.rows.tolist() == [[0, 1], [5, 6]]
