r"""Where the bit strings of a class lie: in blocks that are scanned as stored.

The rows of a class, by ascending number, are cut into blocks of 64. A block of
:math:`m \le 64` rows with strings of :math:`n` bytes holds the first bytes of
its rows, then all second bytes, and so on: :math:`m n` bytes. One load of a
vector register so gets the same byte of many rows, a row lies within one or
two pages, and nothing is filled up.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pyg_nodequant.runtime._jit import jit

Array = np.ndarray[Any, Any]

BLOCK_ROWS = 64


def to_blocks(strings: Array) -> Array:
    r"""Lays the strings of one class out in blocks.

    Args:
        strings (array): Strings of shape :obj:`[rows, size]`, :obj:`uint8`.

    Returns:
        The :obj:`rows * size` bytes of the class.

    Example:
        >>> to_blocks(np.uint8([[1, 2], [3, 4], [5, 6]])).tolist()
        [1, 3, 5, 2, 4, 6]
    """
    rows, size = strings.shape
    out = np.empty(rows * size, dtype=np.uint8)
    if size == 0:
        return out
    whole = rows - rows % BLOCK_ROWS
    blocks = strings[:whole].reshape(-1, BLOCK_ROWS, size)
    out[:whole * size].reshape(-1, size, BLOCK_ROWS)[:] = blocks.transpose(
        0, 2, 1)
    out[whole * size:].reshape(size, rows - whole)[:] = strings[whole:].T
    return out


@jit
def row_start(place: int, rows: int, size: int) -> tuple[int, int]:
    r"""Where the first byte of a class's row lies in its blocks, and how far
    apart its bytes are.
    """
    block = place // 64
    apart = min(64, rows - block * 64)
    return block * 64 * size + place - block * 64, apart


@jit
def gather_strings(codes: Array, start: int, rows: int, places: Array,
                   out: Array) -> None:
    r"""Copies strings of a class out of its blocks.

    Args:
        codes (array): The codes of a table.
        start (int): Where the blocks of the class begin.
        rows (int): The number of rows of the class.
        places (array): Which of them to copy.
        out (array): Their strings, of shape :obj:`[len(places), size]`.
    """
    size = out.shape[1]
    for i in range(len(places)):
        first, apart = row_start(places[i], rows, size)
        for b in range(size):
            out[i, b] = codes[start + first + b * apart]
