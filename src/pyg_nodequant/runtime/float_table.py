r"""A table of plain float rows, read like a packed one."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np
from numpy.typing import ArrayLike

from pyg_nodequant.runtime.atomic import PathLike
from pyg_nodequant.runtime.file_format import (
    Container,
    read_container,
    write_container,
)
from pyg_nodequant.runtime.row_codes import MAX_DIM
from pyg_nodequant.runtime.rows import RowTable

Array = np.ndarray[Any, Any]


class FloatTable(RowTable):
    r"""Rows stored as :obj:`float32`.

    Args:
        rows (array): Finite rows of shape :obj:`[n, d]`, :math:`1 \le d \le
            4096`.

    Raises:
        ValueError: If the rows are not of this form.

    Example:
        >>> table = FloatTable([[1.0, 0.0], [0.0, 2.0]])
        >>> table.topk([1.0, 1.0], k=2)
        (array([2., 1.]), array([1, 0]))
    """

    def __init__(self, rows: ArrayLike) -> None:
        with np.errstate(over="ignore"):
            self.rows = np.ascontiguousarray(rows, dtype=np.float32)
        if self.rows.ndim != 2 or not 1 <= self.rows.shape[1] <= MAX_DIM:
            raise ValueError(f"'rows' needs a shape of [n, 1..{MAX_DIM}] "
                             f"(got {list(self.rows.shape)})")
        if not np.isfinite(self.rows).all():
            raise ValueError("'rows' needs to be finite float32 (got an "
                             "infinite or undefined value)")
        self.dim = int(self.rows.shape[1])

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, ids: Array) -> Array:  # noqa: D102 (documented by RowTable)
        return self.rows[ids].astype(np.float64)

    def reading_order(  # noqa: D102
        self,
        ids: Optional[Array] = None,
    ) -> Array:
        return np.arange(len(self)) if ids is None else np.sort(ids)

    @property
    def widths(self) -> Array:
        r"""The width of each row, 32 bits."""
        return np.full(len(self), 32, dtype=np.uint8)

    @property
    def scale(self) -> None:
        r"""Float rows have no scale."""

    @property
    def offset(self) -> None:
        r"""Float rows have no offset."""

    @property
    def mean_bits(self) -> float:
        r"""Mean bits of a number, 32."""
        return 32.0

    @property
    def nbytes(self) -> int:
        r"""The bytes that a file holds of this table, without its header."""
        return int(self.rows.nbytes)

    @property
    def resident_bytes(self) -> int:
        r"""The bytes that this table holds in memory."""
        return self.nbytes

    def save(self, path: PathLike) -> None:
        r"""Writes the table as a file of its own."""
        field, arrays = self.encode("t")
        write_container(path, "table", {"t": field}, arrays)

    @classmethod
    def open(cls, path: PathLike, mmap: bool = True,
             verify: bool = True) -> FloatTable:
        r"""Opens a table that :meth:`save` wrote, like
        :meth:`PackedTable.open`.

        Raises:
            PackedFileError: If the file is not one.
        """
        return cls.decode(read_container(path, "table", mmap, verify), "t")

    def encode(self, prefix: str) -> tuple[str, dict[str, Array]]:
        r"""Returns the header field and the arrays that hold the table."""
        return (f"float {len(self)} {self.dim}", {f"{prefix}.rows": self.rows})

    @classmethod
    def decode(cls, content: Container, prefix: str) -> FloatTable:
        r"""Reads what :meth:`encode` returned."""
        form = content.field(prefix).split(" ")
        if form[0] != "float":
            content.fail(f"its table '{prefix}' is {form[0]}, not float")
        rows = content.take(f"{prefix}.rows", ["F32"], (None, None))
        if form[1:] != [str(size) for size in rows.shape]:
            content.fail(f"its field '{prefix}' does not match its rows")
        try:
            return cls(rows)
        except ValueError as error:
            content.fail(str(error))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)}, {self.dim})"
