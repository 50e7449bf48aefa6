from __future__ import annotations

import numpy as np
import pytest

from pyg_nodequant.runtime import RowClasses
from pyg_nodequant.runtime.row_classes import pack_nibbles, unpack_nibbles


def same(a, b):
    return all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for name in ("widths", "steps", "offsets", "uses_offset"))


@pytest.mark.parametrize("count,dim", [(1, 1), (3, 5), (16, 8), (256, 2)])
@pytest.mark.parametrize("half", [True, False])
def test_round_trip(count, dim, half):
    rng = np.random.default_rng(count)
    dtype = np.float16 if half else np.float32
    classes = RowClasses(rng.integers(0, 9, (count, dim)),
                         rng.normal(size=(count, dim)).astype(dtype),
                         rng.normal(size=(count, dim)).astype(dtype),
                         rng.integers(0, 2, (count, dim)))
    data = classes.to_bytes()
    assert same(RowClasses.from_bytes(data, count, dim), classes)
    number = 2 if half else 4
    assert len(data) <= 4 + (count * dim + 1) // 2 + 2 * number * count * dim \
        + (count * dim + 7) // 8


@pytest.mark.parametrize("centered", [True, False])
def test_node_only_tables_are_small(centered):
    classes = RowClasses.by_width(range(9), 4096, centered)
    data = classes.to_bytes()
    assert len(data) == (4 + 5 + 18 if centered else 4 + 5 + 2)
    assert same(RowClasses.from_bytes(data, 9, 4096), classes)
    assert classes.is_node_only
    assert classes.bits.tolist() == [4096 * b for b in range(9)]
    if centered:
        assert classes.offsets[:, 7].tolist() == [
            -(2**b - 1) / 2 for b in range(9)]
    else:
        assert classes.uses_offset[:, 0].tolist() == [False] + [True] * 8
    assert len(classes) == 9 and classes.dim == 4096


def test_per_dimension_is_not_node_only():
    assert not RowClasses([[1, 2]]).is_node_only


@pytest.mark.parametrize("args,message", [
    (([1, 2], ), "'widths' needs a shape"),
    ((np.zeros((1, 4097), int), ), "'widths' needs a shape"),
    ((np.zeros((257, 1), int), ), "'widths' needs a shape"),
    (([[9]], ), r"'widths' needs to be in \[0, 8\] \(got 9\)"),
    (([[-1]], ), r"'widths' needs to be in \[0, 8\] \(got -1\)"),
    (([[1.5]], ), "'widths' needs to hold integers"),
    (([[1]], np.inf), "'steps' needs to be finite"),
    (([[1]], 1.0, 1e60), "'offsets' needs to be finite"),
    (([[1]], [1.0, 2.0]), "'steps' needs to broadcast"),
])
def test_refuses(args, message):
    with pytest.raises(ValueError, match=message):
        RowClasses(*args)


def test_from_bytes_refuses_other_bytes():
    data = RowClasses([[1, 2], [3, 4]], 0.5, 0.25, [[0, 1], [1, 0]]).to_bytes()
    for length in range(len(data)):
        with pytest.raises(ValueError, match="class table"):
            RowClasses.from_bytes(data[:length], 2, 2)
    with pytest.raises(ValueError, match="too long"):
        RowClasses.from_bytes(data + b"\0", 2, 2)
    for place, value in [(0, 3), (0, 17), (1, 33), (3, 17)]:
        changed = bytearray(data)
        changed[place] = value
        with pytest.raises(ValueError, match="unknown layout"):
            RowClasses.from_bytes(bytes(changed), 2, 2)
    changed = bytearray(data)
    changed[0] = 0
    with pytest.raises(ValueError, match="no widths"):
        RowClasses.from_bytes(bytes(changed), 2, 2)
    with pytest.raises(ValueError, match="not allowed"):
        RowClasses.from_bytes(data, 0, 2)


def test_nibbles():
    for n in range(6):
        values = np.random.default_rng(n).integers(0, 16, n)
        data = pack_nibbles(values)
        assert len(data) == (n + 1) // 2
        assert np.array_equal(unpack_nibbles(data, n), values)
