r"""Some rows of several tables of one form, as one table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Union

import numpy as np

from pyg_nodequant.runtime.blocks import gather_strings, to_blocks
from pyg_nodequant.runtime.file_format import Container
from pyg_nodequant.runtime.float_table import FloatTable
from pyg_nodequant.runtime.layout import RowLayout
from pyg_nodequant.runtime.row_classes import pack_nibbles, unpack_nibbles
from pyg_nodequant.runtime.table import PackedTable

Array = np.ndarray[Any, Any]
Table = Union[PackedTable, FloatTable]


def join_rows(parts: Sequence[tuple[Table, Array]]) -> Table:
    r"""Returns rows of tables as one table, as they are stored: no number is
    rounded again.

    Args:
        parts (sequence): Pairs of a table and the row numbers to take of it.
            All tables have the classes of the first and the precision of
            its scales and offsets, with the same grid where they are
            logarithms; tables whose offsets are 0 may have none.

    Example:
        >>> table = PackedTable.from_float([[1.0, 2.0], [3.0, 4.0]], [2, 8])
        >>> rows = join_rows([(table, [1]), (table, [0, 1])]).dequantize()
        >>> np.array_equal(rows, table.dequantize()[[1, 0, 1]])
        True
    """
    pairs = [(table, np.asarray(rows, dtype=np.int64))
             for table, rows in parts]
    floats = [table.rows[rows] for table, rows in pairs
              if isinstance(table, FloatTable)]
    if floats:
        return FloatTable(np.concatenate(floats))
    packed = [_Part(table, rows) for table, rows in pairs
              if isinstance(table, PackedTable)]
    first = packed[0].table
    layout = RowLayout.of(first.classes,
                          np.concatenate([part.class_ids for part in packed]))
    codes = np.empty(layout.num_bytes, dtype=np.uint8)
    for number in np.flatnonzero(layout.counts).tolist():
        strings = np.concatenate([part.strings(number) for part in packed])
        blocks = to_blocks(strings)
        start = int(layout.starts[number])
        codes[start:start + len(blocks)] = blocks
    arrays = {"t.codes": codes,
              "t.classes": packed[0].arrays["t.classes"]}
    count = len(first.classes)
    if count > 1:
        arrays["t.class"] = layout.data
    scale = np.concatenate([part.by_row("t.scale")
                            for part in packed])[layout.order]
    may_share = count > 1 or int(first.classes.bits[0]) > 0
    if "t.log" in packed[0].arrays:
        arrays["t.log"] = packed[0].arrays["t.log"]
    elif "t.log4" in packed[0].arrays:
        arrays["t.log4"] = packed[0].arrays["t.log4"]
        scale = pack_nibbles(scale)
    elif may_share and len(scale) > 1 and (scale == scale[0]).all():
        scale = scale[:1].copy()
    arrays["t.scale"] = scale
    if any("t.offset" in part.arrays for part in packed):
        offset = np.concatenate([part.by_row("t.offset") for part in packed])
        arrays["t.offset"] = offset[layout.order]
    field = f"packed {layout.size} {first.dim} {count}"
    return PackedTable.decode(Container("joined rows", {"t": field}, arrays),
                              "t")


class _Part:
    # Some rows of a packed table, as they are stored.

    def __init__(self, table: PackedTable, rows: Array) -> None:
        self.table = table
        self.rows = rows
        self.arrays = table.encode("t")[1]
        if "t.log4" in self.arrays:  # from here on, a byte a row
            self.arrays["t.scale"] = unpack_nibbles(self.arrays["t.scale"],
                                                    len(table))
        data = self.arrays.get("t.class", np.zeros(0, dtype=np.uint8))
        self.layout = RowLayout(table.classes, data, len(table))
        self.class_ids = self.layout.classes_of(rows)
        self.positions = (np.asarray(rows) if self.layout.is_sorted else
                          self._find(rows))

    def _find(self, rows: Array) -> Array:
        # Where rows lie, through the order that the table has made already.
        places = np.empty(len(self.table), dtype=np.int64)
        places[self.table.order] = np.arange(len(self.table))
        return np.asarray(places[rows])

    def strings(self, number: int) -> Array:
        layout = self.layout
        chosen = self.positions[self.class_ids == number]
        out = np.empty((len(chosen), int(layout.sizes[number])),
                       dtype=np.uint8)
        gather_strings(self.arrays["t.codes"], int(layout.starts[number]),
                       int(layout.counts[number]),
                       chosen - layout.first[number], out)
        return out

    def by_row(self, name: str) -> Array:
        stored = self.arrays.get(name)
        if stored is None:  # no offsets
            return np.zeros(len(self.rows), dtype=np.float16)
        if len(stored) == 1 and len(self.table) != 1:
            return np.repeat(stored, len(self.rows))
        return np.asarray(stored[self.positions])
