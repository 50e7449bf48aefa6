r"""Memory for what is scanned again and again."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# The pages of a processor's larger kind, and the arrays that get them.
_PAGE = 1 << 21
_LEAST = 1 << 19


def empty(size: int, dtype: Any = np.uint8) -> Array:
    r"""Returns an array of no particular values, in large pages where the
    system has them.

    A scan of a few megabytes in pages of 4 KiB spends a sixth of its time on
    finding the pages; NumPy asks for larger ones from 4 MiB on only.

    Args:
        size (int): The length of the array.
        dtype (dtype, optional): Its type.

    Example:
        >>> empty(3, np.float32).shape
        (3,)
    """
    wanted = size * np.dtype(dtype).itemsize
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    if advice is None or wanted < _LEAST:
        return np.empty(size, dtype=dtype)
    try:
        # One page more, so that it can begin where a page does.
        memory = mmap.mmap(-1, wanted + _PAGE)
        memory.madvise(advice)
    except OSError:  # a system without large pages
        return np.empty(size, dtype=dtype)
    start = -np.frombuffer(memory, np.uint8, 1).ctypes.data % _PAGE
    return np.frombuffer(memory, dtype, size, start)
