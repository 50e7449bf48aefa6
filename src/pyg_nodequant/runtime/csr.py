r"""Lists of columns by row, in compressed form: seen items, graphs, masks."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np

Array = np.ndarray[Any, Any]
CSR = tuple[Array, Array]


def check_csr(name: str, csr: CSR, num_rows: int, num_cols: int) -> CSR:
    r"""Checks lists and sorts them.

    Args:
        name (str): What errors call them.
        csr (tuple): :obj:`(indptr, indices)`: the columns of row :obj:`i` are
            :obj:`indices[indptr[i]:indptr[i + 1]]`.
        num_rows (int): The number of rows.
        num_cols (int): The number of columns.

    Returns:
        :obj:`indptr` as :obj:`int64` and :obj:`indices` as :obj:`int32`,
        ascending in each row.

    Raises:
        ValueError: If they are not such lists.

    Example:
        >>> check_csr("seen", ([0, 2, 3], [4, 1, 0]), 2, 5)[1].tolist()
        [1, 4, 0]
    """
    if not isinstance(csr, (tuple, list)) or len(csr) != 2:
        raise ValueError(f"'{name}' needs to be a pair (indptr, indices) "
                         f"(got {type(csr).__name__})")
    indptr = integers(f"{name}[0]", csr[0])
    indices = integers(f"{name}[1]", csr[1])
    if len(indptr) != num_rows + 1:
        raise ValueError(f"'{name}' needs an indptr of {num_rows + 1} "
                         f"numbers (got {len(indptr)})")
    counts = np.diff(indptr)
    if (indptr[0] != 0 or indptr[-1] != len(indices)
            or (counts < 0).any()):
        raise ValueError(f"'{name}' needs an indptr that ascends from 0 to "
                         f"{len(indices)}, the number of indices")
    check_range(f"{name}", indices, num_cols)
    indices = indices.astype(np.int32)
    rows = np.repeat(np.arange(num_rows), counts)
    falls = (np.diff(indices) < 0) & (rows[1:] == rows[:-1])
    if falls.any():
        indices = indices[np.lexsort((indices, rows))]
    return indptr, indices


def has_repeats(csr: CSR) -> bool:
    r"""Whether a sorted row holds a column twice."""
    indptr, indices = csr
    same = indices[1:] == indices[:-1]
    same[indptr[1:-1][(indptr[1:-1] > 0)
                      & (indptr[1:-1] < len(indices))] - 1] = False
    return bool(same.any())


def take_rows(csr: CSR, rows: Array) -> CSR:
    r"""Returns the lists of some rows, in their order.

    Example:
        >>> take_rows((np.array([0, 2, 3]), np.array([1, 4, 0])),
        ...           np.array([1, 0]))[1].tolist()
        [0, 1, 4]
    """
    indptr, indices = csr
    starts = indptr[rows]
    counts = indptr[rows + 1] - starts
    out = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum(counts, out=out[1:])
    place = np.repeat(starts - out[:-1], counts) + np.arange(out[-1])
    return out, indices[place]


def with_columns(csr: Optional[CSR], columns: Array, num_rows: int) -> CSR:
    r"""Returns lists with some columns added to every row, in any order.

    Example:
        >>> with_columns((np.array([0, 1, 1]), np.array([4])), np.array([7]),
        ...              2)
        (array([0, 2, 3]), array([4, 7, 7]))
    """
    if csr is None:
        csr = np.zeros(num_rows + 1, dtype=np.int64), columns[:0]
    indptr = csr[0] + np.arange(num_rows + 1) * len(columns)
    out = np.empty(indptr[-1], dtype=np.int64)
    added = np.zeros(len(out), dtype=np.bool_)
    added[(indptr[1:, None] - np.arange(len(columns), 0, -1)).reshape(-1)] = 1
    out[added] = np.tile(columns, num_rows)
    out[~added] = csr[1]
    return indptr, out


def integers(name: str, values: Any) -> Array:
    r"""Returns a one-dimensional array of :obj:`int64`.

    Raises:
        ValueError: If :obj:`values` are not integers in one dimension.
    """
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"'{name}' needs one dimension (got {array.ndim})")
    if array.size and array.dtype.kind not in "iu":
        raise ValueError(f"'{name}' needs to hold integers "
                         f"(got {array.dtype})")
    return array.astype(np.int64)


def check_range(name: str, values: Array, size: int) -> None:
    r"""Raises :class:`ValueError` unless values are in [0, :obj:`size`)."""
    if len(values) and (values.min() < 0 or values.max() >= size):
        bad = values.min() if values.min() < 0 else values.max()
        raise ValueError(f"'{name}' needs to be in [0, {size - 1}] "
                         f"(got {bad})")


def smallest_unsigned(values: Array) -> Array:
    r"""Returns integers in the smallest unsigned type of at most 32 bits.

    Example:
        >>> smallest_unsigned(np.array([3, 256])).dtype
        dtype('uint16')
    """
    top = int(values.max()) if len(values) else 0
    for dtype in (np.uint8, np.uint16):
        if top <= np.iinfo(dtype).max:
            return values.astype(dtype)
    return values.astype(np.uint32)
