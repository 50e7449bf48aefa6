from __future__ import annotations

import numpy as np

from pyg_nodequant.runtime._jit import jit
from pyg_nodequant.runtime.tile_bounds import as_float32


@jit
def convert(stored, out):
    for i in range(len(stored)):
        out[i] = as_float32(stored[i])


def test_every_half_is_read_exactly():
    bits = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)
    bits = bits[np.isfinite(bits.view(np.float16))]
    expected = bits.view(np.float16).astype(np.float32)
    for one in (convert, convert.py_func):
        out = np.empty(len(bits), dtype=np.float32)
        one(bits, out)
        assert np.array_equal(out.view(np.uint32), expected.view(np.uint32))


def test_singles_are_left_alone():
    values = np.float32([0.1, -3e38, 1e-45])
    out = np.empty(3, dtype=np.float32)
    convert(values, out)
    assert np.array_equal(out, values)
