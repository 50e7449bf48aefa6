r"""Which row of a packed table is of which class, and where it is stored."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np

from pyg_nodequant.runtime._jit import jit
from pyg_nodequant.runtime.memory import empty
from pyg_nodequant.runtime.row_classes import (
    RowClasses,
    pack_nibbles,
    unpack_nibbles,
)
from pyg_nodequant.runtime.row_codes import string_bytes

Array = np.ndarray[Any, Any]

NIBBLE_CLASSES = 16


@jit
def _count_classes(data: Array, size: int, nibbles: bool,
                   counts: Array) -> None:
    for i in range(len(data)):
        if nibbles:
            counts[data[i] & 15] += 1
            if 2 * i + 1 < size:
                counts[data[i] >> 4] += 1
        else:
            counts[data[i]] += 1


@jit
def _sort_rows(data: Array, nibbles: bool, next_place: Array,
               order: Array) -> None:
    # A counting sort: rows by class, ascending within each.
    for row in range(len(order)):
        if nibbles:
            number = (data[row >> 1] >> (4 * (row & 1))) & 15
        else:
            number = data[row]
        order[next_place[number]] = row
        next_place[number] += 1


@jit
def _find_rows(order: Array, first: Array, counts: Array, ids: Array,
               numbers: Array, out: Array) -> None:
    # Rows of a class ascend: a binary search needs no table of places.
    for i in range(len(ids)):
        low = first[numbers[i]]
        high = low + counts[numbers[i]]
        while low < high:
            middle = (low + high) // 2
            if order[middle] < ids[i]:
                low = middle + 1
            else:
                high = middle
        out[i] = low


class RowLayout:
    r"""The order in which a packed table stores its rows: class by class, and
    by ascending number within a class.

    Args:
        classes (RowClasses): The classes.
        data (array): The class of each row as stored: one byte each, or two
            to a byte if there are at most 16 classes; empty if there is one.
        size (int): The number of rows.

    Example:
        >>> layout = RowLayout.of(RowClasses([[1], [2]]), np.uint8([1, 0, 1]))
        >>> layout.order.tolist(), layout.positions(np.array([2, 1])).tolist()
        ([1, 0, 2], [2, 0])
    """

    def __init__(self, classes: RowClasses, data: Array, size: int) -> None:
        count = len(classes)
        self.data = data
        self.size = size
        self.nibbles = 1 < count <= NIBBLE_CLASSES
        counts = np.zeros(max(count, NIBBLE_CLASSES if self.nibbles else 256),
                          dtype=np.int64)
        if count == 1:
            counts[0] = size
        else:
            _count_classes(data, size, self.nibbles, counts)
        #: Rows of each class; more entries than classes if a row is of none.
        self.found = counts
        self.counts = counts[:count]
        #: The position of the first row of each class.
        self.first = np.cumsum(self.counts) - self.counts
        #: The bytes of a string of each class, and where its blocks begin.
        self.sizes = string_bytes(classes.bits)
        ends = np.cumsum(self.counts * self.sizes)
        self.starts = ends - self.counts * self.sizes
        self.num_bytes = int(ends[-1])
        self._order: Optional[Array] = None

    @classmethod
    def of(cls, classes: RowClasses, class_ids: Array) -> RowLayout:
        r"""The layout of rows of the given classes."""
        if len(classes) == 1:
            data = np.zeros(0, dtype=np.uint8)
        elif len(classes) <= NIBBLE_CLASSES:
            data = pack_nibbles(class_ids)
        else:
            data = class_ids.astype(np.uint8)
        return cls(classes, data, len(class_ids))

    @property
    def is_sorted(self) -> bool:
        r"""Whether the rows are stored in the order of their numbers."""
        return len(self.counts) == 1

    @property
    def class_ids(self) -> Array:
        r"""The class of each row, :obj:`uint8`."""
        if self.is_sorted:
            return np.zeros(self.size, dtype=np.uint8)
        if self.nibbles:
            return unpack_nibbles(self.data, self.size)
        return self.data

    @property
    def order(self) -> Array:
        r"""The number of the row at each position, :obj:`uint32`; made when
        it is first asked for.
        """
        if self._order is None:
            order = empty(self.size, np.uint32)
            if self.is_sorted:
                order[:] = np.arange(self.size)
            else:
                _sort_rows(self.data, self.nibbles, self.first.copy(), order)
            self._order = order
        return self._order

    def classes_of(self, ids: Array) -> Array:
        r"""The class of some rows."""
        if self.is_sorted:
            return np.zeros(len(ids), dtype=np.uint8)
        if self.nibbles:
            half = (4 * (ids & 1)).astype(np.uint8)
            return np.asarray(self.data[ids >> 1] >> half & 15)
        return np.asarray(self.data[ids])

    def positions(self, ids: Array) -> Array:
        r"""Where some rows are stored."""
        if self.is_sorted:
            return ids
        out = np.empty(len(ids), dtype=np.int64)
        _find_rows(self.order, self.first, self.counts, ids,
                   self.classes_of(ids), out)
        return out

    @property
    def resident_bytes(self) -> int:
        r"""The bytes held in memory."""
        made = 0 if self._order is None else self._order.nbytes
        return self.data.nbytes + made
