r"""What all tables of rows can do, however the rows are stored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Optional

import numpy as np
from numpy.typing import ArrayLike

from pyg_nodequant.runtime.csr import CSR, check_csr, check_range, integers
from pyg_nodequant.runtime.topk import check_k, top_rows

Array = np.ndarray[Any, Any]


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
        queries: ArrayLike,
        k: int,
        exclude: Optional[CSR] = None,
        allow: Optional[ArrayLike] = None,
    ) -> tuple[Array, Array]:
        r"""Returns the rows of largest inner product with each query, exactly.

        The answer is that of brute force in :obj:`float64` over
        :meth:`dequantize`, ties to the lowest row number.

        Args:
            queries (array): Queries of shape :obj:`[B, dim]`, or one of shape
                :obj:`[dim]`; read as :obj:`float32`.
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
        with np.errstate(over="ignore", invalid="ignore"):
            array = np.asarray(queries, dtype=np.float32)
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
        scores, ids = self.search(array, k, exclude, self.check_allow(allow))
        return (scores[0], ids[0]) if single else (scores, ids)

    def check_allow(self, allow: Optional[ArrayLike]) -> Optional[Array]:
        r"""Returns the distinct row numbers of :obj:`allow`, ascending."""
        if allow is None:
            return None
        return np.unique(self.check_ids(allow, "allow"))

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
