r"""A table to which rows were appended, and of which rows were removed."""

from __future__ import annotations

from typing import Any, Optional, Union

import numpy as np

from pyg_nodequant.runtime.csr import CSR, take_rows
from pyg_nodequant.runtime.float_table import FloatTable
from pyg_nodequant.runtime.grown_catalogue import among
from pyg_nodequant.runtime.joined import join_rows
from pyg_nodequant.runtime.rows import RowTable
from pyg_nodequant.runtime.table import PackedTable

Array = np.ndarray[Any, Any]
Table = Union[PackedTable, FloatTable]

# Removed rows in the lists of a batch of queries, at most.
_LIST_ROWS = 1 << 20


class GrownTable(RowTable):
    r"""The rows of a table, then appended ones, without removed ones.

    Appended rows number on after those of the table; a removed row keeps its
    number, which then stands for nothing. The table itself is not touched: it
    may be mapped. Both parts are searched as they lie, and their answers
    merged: they are as exact, and ties go to the lowest row number, as if the
    rows lay in one table.

    Args:
        base (PackedTable or FloatTable): The table.
        tail (PackedTable or FloatTable, optional): The appended rows, in the
            form of the table.
        removed (array, optional): The numbers of removed rows, ascending.

    Example:
        >>> table = GrownTable(FloatTable([[1.0], [3.0]]),
        ...                    FloatTable([[2.0]])).without([1])
        >>> table.topk([1.0], k=3)[1]
        array([ 2,  0, -1])
        >>> table
        GrownTable(2 rows + 1 - 1, dim=1)
    """

    def __init__(
        self,
        base: Table,
        tail: Optional[Table] = None,
        removed: Optional[Array] = None,
    ) -> None:
        self.base = base
        self.tail = tail
        self.removed = np.asarray([] if removed is None else removed,
                                  dtype=np.int64)
        self.dim = base.dim

    @classmethod
    def of(cls, table: Union[Table, GrownTable]) -> GrownTable:
        r"""The table as one that can grow."""
        return table if isinstance(table, GrownTable) else cls(table)

    def with_rows(self, rows: Table) -> GrownTable:
        r"""The table with more rows appended, in its form."""
        if self.tail is not None:
            rows = join_rows([(self.tail, np.arange(len(self.tail))),
                              (rows, np.arange(len(rows)))])
        return GrownTable(self.base, rows, self.removed)

    def without(self, rows: Any) -> GrownTable:
        r"""The table with rows removed."""
        return GrownTable(self.base, self.tail,
                          np.union1d(self.removed, self.check_ids(rows)))

    def tail_from(self, row: int) -> Table:
        r"""The appended rows from some number on, as a table."""
        first = row - len(self.base)
        if self.tail is None:
            return join_rows([(self.base, np.arange(0))])
        return join_rows([(self.tail, np.arange(first, len(self.tail)))])

    def flat(self) -> Table:
        r"""The rows that are left as one ordinary table, numbered anew."""
        base = self.live[self.live < len(self.base)]
        parts = [(self.base, base)]
        if self.tail is not None:
            parts.append((self.tail, self.live[len(base):] - len(self.base)))
        return join_rows(parts)

    @property
    def live(self) -> Array:
        r"""The numbers of the rows that are left, ascending."""
        return np.delete(np.arange(len(self)), self.removed)

    @property
    def num_live(self) -> int:
        r"""The number of rows that are left."""
        return len(self) - len(self.removed)

    def __len__(self) -> int:
        return len(self.base) + self._tail_size

    @property
    def _tail_size(self) -> int:
        return 0 if self.tail is None else len(self.tail)

    def check_ids(self, ids: Any, name: str = "ids") -> Array:
        r"""Returns row numbers as :obj:`int64`.

        Raises:
            ValueError: If one is not the number of a row, or if that row was
                removed.
        """
        rows = super().check_ids(ids, name)
        gone = among(rows, self.removed)
        if gone.any():
            raise ValueError(f"'{name}' needs to hold rows that were not "
                             f"removed (got {rows[gone][0]})")
        return rows

    def read(self, ids: Array) -> Array:  # noqa: D102 (documented by RowTable)
        if self.tail is None:
            return self.base.read(ids)
        first = ids < len(self.base)
        out = np.empty((len(ids), self.dim))
        out[first] = self.base.read(ids[first])
        out[~first] = self.tail.read(ids[~first] - len(self.base))
        return out

    def reading_order(  # noqa: D102
        self,
        ids: Optional[Array] = None,
    ) -> Array:
        size = len(self.base)
        if ids is not None:
            first = ids < size
            parts = [self.base.reading_order(ids[first])]
            if self.tail is not None:
                parts.append(
                    self.tail.reading_order(ids[~first] - size) + size)
            return np.concatenate(parts)
        parts = [self.base.reading_order()]
        if self.tail is not None:
            parts.append(self.tail.reading_order() + size)
        order = np.concatenate(parts)
        return order[~among(order, self.removed)]

    def search(  # noqa: D102
        self,
        queries: Array,
        k: int,
        exclude: Optional[CSR] = None,
        allowed: Optional[Array] = None,
    ) -> tuple[Array, Array]:
        if len(self.removed) and allowed is None:
            # Removed rows are cheapest to leave out as seen ones are, unless
            # their lists would be longer than one mask of all rows.
            if len(self.removed) * len(queries) <= min(len(self), _LIST_ROWS):
                exclude = _with_all(exclude, self.removed, len(queries))
            else:
                allowed = self.live
        size = len(self.base)
        lists = _split(exclude, size)
        first = None if allowed is None else allowed[allowed < size]
        found = [self.base.search(queries, k, lists[0], first)]
        if self.tail is not None:
            rest = None if allowed is None else allowed[allowed >= size] - size
            scores, ids = self.tail.search(queries, k, lists[1], rest)
            found.append((scores, np.where(ids < 0, -1, ids + size)))
        return _merge(found, k)

    def search_directions(self, queries: Array, k: int,  # noqa: D102
                          exclude: CSR) -> tuple[Array, Array]:
        # So many queries at once that lists of removed rows stay short.
        step = max(1, _LIST_ROWS // max(1, len(self.removed)))
        parts = []
        for start in range(0, len(queries), step):
            rows = np.arange(start, min(start + step, len(queries)))
            masked = take_rows(exclude, rows)
            if len(self.removed):
                masked = _with_all(masked, self.removed, len(rows))
            parts.append(self._search_directions(queries[rows], k, masked))
        if not parts:
            return np.zeros((0, k)), np.zeros((0, k), dtype=np.int64)
        scores, ids = zip(*parts, strict=True)
        return np.concatenate(scores), np.concatenate(ids)

    def _search_directions(self, queries: Array, k: int,
                           exclude: CSR) -> tuple[Array, Array]:
        size = len(self.base)
        found = []
        for part, lists, first in zip((self.base, self.tail),
                                      _split(exclude, size), (0, size),
                                      strict=True):
            if part is None or not len(part):
                continue
            assert lists is not None
            scores, ids = part.search_directions(queries, min(k, len(part)),
                                                 lists)
            found.append((scores, np.where(ids < 0, -1, ids + first)))
        return _merge(found, k)

    @property
    def widths(self) -> Array:
        r"""The width of each row, as in :class:`PackedTable`."""
        return np.concatenate([part.widths for part in self._parts])

    @property
    def mean_bits(self) -> float:
        r"""Mean bits of a number."""
        bits = sum(part.mean_bits * len(part) for part in self._parts)
        return bits / max(len(self), 1)

    @property
    def resident_bytes(self) -> int:
        r"""The bytes that this table holds in memory."""
        return self.removed.nbytes + sum(part.resident_bytes
                                         for part in self._parts)

    @property
    def _parts(self) -> list[Table]:
        return [self.base] if self.tail is None else [self.base, self.tail]

    def __repr__(self) -> str:
        return (f"{type(self).__name__}({len(self.base)} rows + "
                f"{self._tail_size} - {len(self.removed)}, dim={self.dim})")


def _with_all(lists: Optional[CSR], rows: Array, batch: int) -> CSR:
    # Every list with all of some rows added, ascending.
    everyone = np.arange(batch + 1) * len(rows)
    added = np.tile(rows.astype(np.int32), batch)
    if lists is None:
        return everyone, added
    indptr, indices = lists
    owner = np.concatenate([np.repeat(np.arange(batch), np.diff(indptr)),
                            np.repeat(np.arange(batch), len(rows))])
    every = np.concatenate([indices, added])
    return indptr + everyone, every[np.lexsort((every, owner))]


def _split(lists: Optional[CSR],
           size: int) -> tuple[Optional[CSR], Optional[CSR]]:
    # Lists over the rows of the base, and over those after them.
    if lists is None:
        return None, None
    indptr, indices = lists
    first = indices < size
    places = np.concatenate([[0], np.cumsum(first)])[indptr]
    return ((places, indices[first]),
            (indptr - places, indices[~first] - np.int32(size)))


def _merge(found: list[tuple[Array, Array]], k: int) -> tuple[Array, Array]:
    # Lists of parts, each best first, in the order of their row numbers.
    scores = np.concatenate([part[0] for part in found], axis=1)
    ids = np.concatenate([part[1] for part in found], axis=1)
    if scores.shape[1] < k:
        short = [(0, 0), (0, k - scores.shape[1])]
        scores = np.pad(scores, short, constant_values=-np.inf)
        ids = np.pad(ids, short, constant_values=-1)
    if len(found) == 1:
        return scores, ids
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return (np.take_along_axis(scores, order, axis=1),
            np.take_along_axis(ids, order, axis=1))
