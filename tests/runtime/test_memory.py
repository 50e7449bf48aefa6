from __future__ import annotations

import gc

import numpy as np
import pytest

from pyg_nodequant.runtime import memory


@pytest.mark.parametrize("dtype", [np.uint8, np.uint32, np.float32])
@pytest.mark.parametrize("size", [0, 1, 1 << 18, (1 << 20) + 7])
def test_arrays_of_any_size(size, dtype):
    array = memory.empty(size, dtype)
    assert array.shape == (size, ) and array.dtype == dtype
    assert array.flags.writeable and array.flags.c_contiguous
    array[:] = 3
    part = array[-5:]
    del array
    gc.collect()  # the memory lives as long as a part of it
    assert (part == 3).all()


def test_large_arrays_begin_with_a_page(monkeypatch):
    if not hasattr(memory.mmap, "MADV_HUGEPAGE"):
        pytest.skip("a system without large pages")
    assert memory.empty(1 << 20).ctypes.data % (1 << 21) == 0
    monkeypatch.delattr(memory.mmap, "MADV_HUGEPAGE")
    assert len(memory.empty(1 << 20)) == 1 << 20


def test_no_large_pages_are_no_error(monkeypatch):
    def refuse(*_):
        raise OSError("none left")

    monkeypatch.setattr(memory.mmap, "mmap", refuse)
    assert memory.empty(1 << 20, np.float32).shape == (1 << 20, )
