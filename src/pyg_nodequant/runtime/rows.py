r"""What all tables of rows can do, however the rows are stored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Optional, Union

import numpy as np
from numpy.typing import ArrayLike

from pyg_nodequant.runtime.csr import (
    CSR,
    check_csr,
    check_range,
    integers,
    take_rows,
)
from pyg_nodequant.runtime.topk import check_k, top_rows

Array = np.ndarray[Any, Any]

# Numbers of queries that are read from a table at once.
_QUERY_NUMBERS = 1 << 22


class RowTable(ABC):
    r"""The reading interface of a table of :math:`n` rows.

    A subclass says how rows are read (:meth:`read`) and in which order they
    are read best (:meth:`reading_order`).
    """

    dim: int
    r"""The number of dimensions."""

    @abstractmethod
    def __len__(self) -> int:
        r"""The number of rows."""

    @abstractmethod
    def read(self, ids: Array) -> Array:
        r"""Returns rows as :obj:`float64`, exactly their :obj:`float32`
        values; :obj:`ids` are known to be valid.
        """

    @abstractmethod
    def reading_order(self, ids: Optional[Array] = None) -> Array:
        r"""Returns row numbers (all by default) in the order of storage."""

    def check_ids(self, ids: Any, name: str = "ids") -> Array:
        r"""Returns row numbers as :obj:`int64`.

        Raises:
            ValueError: If one is not the number of a row.
        """
        rows = integers(name, ids)
        check_range(name, rows, len(self))
        return rows

    def dequantize(self, ids: Optional[ArrayLike] = None) -> Array:
        r"""Returns rows as floats.

        Args:
            ids (array, optional): Row numbers; all rows by default.

        Returns:
            Rows of shape :obj:`[len(ids), dim]` and type :obj:`float32`.

        Raises:
            ValueError: If a number is not that of a row.
        """
        ids = np.arange(len(self)) if ids is None else self.check_ids(ids)
        out = np.empty((len(ids), self.dim), dtype=np.float32)
        step = max(1, (1 << 20) // self.dim)
        for start in range(0, len(ids), step):
            out[start:start + step] = self.read(ids[start:start + step])
        return out

    def topk(
        self,
        queries: Union[ArrayLike, tuple[RowTable, ArrayLike]],
        k: int,
        exclude: Optional[CSR] = None,
        allow: Optional[ArrayLike] = None,
    ) -> tuple[Array, Array]:
        r"""Returns the rows of largest inner product with each query, exactly.

        The answer is that of brute force in :obj:`float64` over
        :meth:`dequantize`, ties to the lowest row number.

        Args:
            queries (array or tuple): Queries of shape :obj:`[B, dim]`, or one
                of shape :obj:`[dim]`, read as :obj:`float32`; or the rows of
                another table, as :obj:`(table, ids)`, which are read as they
                are needed: memory does not grow with their number.
            k (int): How many rows a query gets, in [1, number of rows].
            exclude (tuple, optional): :obj:`(indptr, indices)`: the row
                numbers each query must not get.
            allow (array, optional): The only row numbers that any query gets.

        Returns:
            Scores (:obj:`float64`) and row numbers (:obj:`int64`) of shape
            :obj:`[B, k]`, best first, or :obj:`[k]` for a single query. Short
            lists are filled up with :obj:`-inf` and -1.

        Raises:
            ValueError: If an argument is not of this form.
        """
        k = check_k(k, len(self), "rows")
        allowed = self.check_allow(allow)
        if isinstance(queries, tuple) and len(queries) == 2 and isinstance(
                queries[0], RowTable):
            return self._topk_of_rows(*queries, k, exclude, allowed)
        array = np.asarray(queries)
        if array.dtype != np.float32:
            with np.errstate(over="ignore", invalid="ignore"):
                array = array.astype(np.float32)
        single = array.ndim == 1
        array = array[None] if single else array
        if array.ndim != 2 or array.shape[1] != self.dim:
            raise ValueError(f"'queries' needs {self.dim} numbers a row "
                             f"(got a shape of {list(array.shape)})")
        if not np.isfinite(array).all():
            raise ValueError("'queries' needs to be finite (got an infinite "
                             "or undefined value)")
        if exclude is not None:
            exclude = check_csr("exclude", exclude, len(array), len(self))
        scores, ids = self.search(array, k, exclude, allowed)
        return (scores[0], ids[0]) if single else (scores, ids)

    def _topk_of_rows(
        self,
        table: RowTable,
        ids: ArrayLike,
        k: int,
        exclude: Optional[CSR],
        allowed: Optional[Array],
    ) -> tuple[Array, Array]:
        if table.dim != self.dim:
            raise ValueError(f"'queries' needs {self.dim} numbers a row "
                             f"(got a table of {table.dim})")
        single = np.ndim(ids) == 0
        rows = table.check_ids(np.atleast_1d(ids), "queries")
        if exclude is not None:
            exclude = check_csr("exclude", exclude, len(rows), len(self))
        scores = np.empty((len(rows), k))
        found = np.empty((len(rows), k), dtype=np.int64)
        step = max(1, _QUERY_NUMBERS // self.dim)
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            masked = exclude
            if exclude is not None and len(rows) > step:
                masked = take_rows(exclude, np.arange(len(rows))[part])
            scores[part], found[part] = self.search(
                table.dequantize(rows[part]), k, masked, allowed)
        return (scores[0], found[0]) if single else (scores, found)

    def check_allow(self, allow: Optional[ArrayLike]) -> Optional[Array]:
        r"""Returns the distinct row numbers of :obj:`allow`, ascending."""
        if allow is None:
            return None
        return np.unique(self.check_ids(allow, "allow"))

    def similar(self, ids: Array, k: int) -> tuple[Array, Array]:
        r"""Returns the rows of largest cosine similarity with some rows,
        without themselves; the cosine with a zero row is 0.

        Args:
            ids (array): Valid row numbers of shape :obj:`[B]`.
            k (int): How many rows each gets, in [1, number of rows].

        Returns:
            Cosines and row numbers of shape :obj:`[B, k]`, as in
            :meth:`topk`.
        """
        scores = np.empty((len(ids), k))
        found = np.empty((len(ids), k), dtype=np.int64)
        step = max(1, _QUERY_NUMBERS // self.dim)
        for start in range(0, len(ids), step):
            part = ids[start:start + step]
            itself = np.arange(len(part) + 1), part.astype(np.int32)
            scores[start:start + step], found[start:start + step] = (
                self.search_directions(self.directions(part), k, itself))
        return scores, found

    def directions(self, ids: Array) -> Array:
        r"""Rows divided by their lengths, :obj:`float64`; zero rows stay."""
        x = self.read(ids)
        length = np.sqrt(np.einsum("ij,ij->i", x, x))[:, None]
        return np.asarray(x / np.where(length > 0, length, 1.0))

    def search_directions(self, queries: Array, k: int,
                          exclude: CSR) -> tuple[Array, Array]:
        r"""The rows whose :meth:`directions` score best, like
        :meth:`search`.
        """
        return top_rows(self.directions, self.reading_order(), queries, k,
                        exclude)

    def search(
        self,
        queries: Array,
        k: int,
        exclude: Optional[CSR] = None,
        allowed: Optional[Array] = None,
    ) -> tuple[Array, Array]:
        r"""Returns the answer of :meth:`topk` to arguments that are known to
        be valid: finite queries :obj:`[B, dim]`, :obj:`exclude` checked by
        :func:`~pyg_nodequant.runtime.csr.check_csr` and distinct
        :obj:`allowed` rows.
        """
        return top_rows(self.read, self.reading_order(allowed), queries, k,
                        exclude)
