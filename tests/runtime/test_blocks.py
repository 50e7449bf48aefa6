from __future__ import annotations

import numpy as np
import pytest

from pyg_nodequant.runtime import blocks
from pyg_nodequant.runtime.blocks import gather_strings, row_start, to_blocks


@pytest.mark.parametrize("rows", [0, 1, 63, 64, 65, 128, 200])
@pytest.mark.parametrize("size", [0, 1, 3, 17])
def test_every_byte_is_where_the_document_says(rows, size):
    rng = np.random.default_rng(rows)
    strings = rng.integers(0, 256, (rows, size), dtype=np.uint8)
    codes = to_blocks(strings)
    assert codes.shape == (rows * size, )
    for j in range(rows):
        block = 64 * (j // 64)
        for b in range(size):
            at = block * size + b * min(64, rows - block) + j % 64
            assert codes[at] == strings[j, b]
            first, apart = row_start(j, rows, size)
            assert first + b * apart == at


def test_gather(monkeypatch):
    rng = np.random.default_rng(0)
    strings = rng.integers(0, 256, (150, 5), dtype=np.uint8)
    codes = np.concatenate([np.zeros(7, np.uint8), to_blocks(strings)])
    places = rng.integers(0, 150, 40)
    for gather in (gather_strings, gather_strings.py_func):
        out = np.zeros((40, 5), dtype=np.uint8)
        gather(codes, 7, 150, places, out)
        assert np.array_equal(out, strings[places])
        monkeypatch.setattr(blocks, "row_start", row_start.py_func)
