"""Counting sort of edges by an integer key, in O(E)."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True)
def _scatter(keys: np.ndarray, start: np.ndarray, order: np.ndarray) -> None:
    for e in range(keys.shape[0]):
        key = keys[e]
        order[start[key]] = e
        start[key] += 1


def index_pointer(keys: np.ndarray, num_groups: int) -> np.ndarray:
    r"""Returns the int64 :obj:`[num_groups + 1]` offsets of sorted groups.

    Example:
        >>> index_pointer(np.array([2, 0, 2]), 3).tolist()
        [0, 1, 1, 3]
    """
    pointer = np.zeros(num_groups + 1, dtype=np.int64)
    np.cumsum(np.bincount(keys, minlength=num_groups), out=pointer[1:])
    return pointer


def group_order(keys: np.ndarray, num_groups: int) -> np.ndarray:
    r"""Returns the stable order that sorts :obj:`keys`, in O(E).

    Args:
        keys (np.ndarray): Integers in :obj:`[0, num_groups)`.
        num_groups (int): Number of distinct keys there may be.

    Example:
        >>> group_order(np.array([2, 0, 2, 1]), 3).tolist()
        [1, 3, 0, 2]
    """
    start = index_pointer(keys, num_groups)[:-1].copy()
    order = np.empty(keys.shape[0], dtype=np.int64)
    _scatter(np.ascontiguousarray(keys, dtype=np.int64), start, order)
    return order
