r"""Packed tables as indices of :obj:`faiss`."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np

from pyg_nodequant.runtime import PackedTable
from pyg_nodequant.runtime.row_codes import num_levels, pack_codes

Array = np.ndarray[Any, Any]

# Rows that are handed over at once.
_BATCH = 1 << 16


def to_faiss(*tables: PackedTable, fast_scan: bool = False) -> Any:
    r"""Returns packed rows as a :obj:`faiss` index of inner products.

    The index scores the same rows; which one comes out depends on what
    :obj:`faiss` can represent, and it has no row scales. Where all rows of a
    table share one scale and one offset, a dimension takes few values
    altogether, which fit a codebook:

    - up to 16 values in each dimension, such as 4 bits or less everywhere:
      :obj:`IndexPQ` of one dimension a sub-quantizer, with our grids as
      codebooks of 4 bits; a table of 4 bits everywhere hands its codes over
      as they are. Its rows are ours to the last bit.
    - one class of up to 8 bits a dimension: :obj:`IndexScalarQuantizer` of 8
      bits, whose codes are ours. It computes rows in another order, so they
      differ in their last bits.
    - several classes with up to 256 values in each dimension:
      :obj:`IndexPQ` as above, with codebooks of 8 bits.
    - otherwise, and for several tables: :obj:`IndexFlatIP` of the unpacked
      rows, at 4 bytes a number.

    Rows keep their numbers; those of several tables are numbered on.
    :obj:`faiss` adds up in :obj:`float32`, so scores agree within its
    rounding and close ones may swap places.

    Args:
        tables (PackedTable): The tables, of the same number of dimensions.
        fast_scan (bool, optional): Whether to return an
            :obj:`IndexPQFastScan` instead of an :obj:`IndexPQ` of 4 bits. It
            is much faster but rounds each query's lookup tables to 8 bits, so
            its answers are approximate. (default: :obj:`False`)

    Raises:
        ImportError: If :obj:`faiss` is not installed.
        ValueError: If there is no table, tables differ in their dimensions,
            or :obj:`fast_scan` is set where there is no :obj:`IndexPQ` of 4
            bits.

    Example:
        >>> table = PackedTable.from_codes([[0, 3], [1, 0]], [2, 2],
        ...                                scale=[1.0, 1.0], centered=True)
        >>> index = to_faiss(table)  # doctest: +SKIP
        >>> index.reconstruct(0)  # doctest: +SKIP
        array([-1.5,  1.5], dtype=float32)
    """
    try:
        import faiss
    except ImportError as error:
        raise ImportError("'to_faiss' needs the package 'faiss' (pip install "
                          "pyg-nodequant[faiss])") from error
    if not tables:
        raise ValueError("'tables' needs at least one table (got none)")
    dims = [table.dim for table in tables]
    if len(set(dims)) > 1:
        raise ValueError(f"'tables' needs tables of the same number of "
                         f"dimensions (got {dims})")
    grids = _Grids.of(tables[0]) if len(tables) == 1 else None
    if fast_scan:
        if grids is None or grids.most > 16:
            raise ValueError("'fast_scan' needs one table whose rows share "
                             "their scale and offset and take up to 16 "
                             "values in each dimension (got another)")
        return faiss.IndexPQFastScan(_product(faiss, grids, 4))
    if grids is not None and grids.most <= 16:
        return _product(faiss, grids, 4)
    if grids is not None and len(grids.used) == 1:
        return _scalar(faiss, grids)
    if grids is not None and grids.most <= 256:
        return _product(faiss, grids, 8)
    index = faiss.IndexFlatIP(dims[0])
    for table in tables:
        for rows in _batches(table):
            index.add(table.dequantize(rows))
    return index


class _Grids:
    # The values that a dimension takes in a table of one scale and offset:
    # those of the first class, then those of the second, and so on.

    def __init__(self, table: PackedTable, scale: float,
                 offset: float) -> None:
        self.table = table
        self.scale = scale
        self.offset = offset
        self.used = np.unique(table.class_ids)
        sizes = num_levels(table.classes.widths[self.used]) + 1
        ends = np.cumsum(sizes, axis=0)
        self.most = int(ends[-1].max())
        self.starts = ends - sizes

    @classmethod
    def of(cls, table: PackedTable) -> Optional[_Grids]:
        scale, offset = table.scale, table.offset
        if offset is None:
            offset = np.zeros(len(table), dtype=np.float32)
        if (len(table) == 0 or (scale != scale[0]).any()
                or (offset != offset[0]).any()):
            return None
        return cls(table, float(scale[0]), float(offset[0]))

    def values(self, number: int, codes: Array) -> Array:
        # What codes [d, M] of a class read, in float64.
        classes = self.table.classes
        steps = classes.steps[number, :, None].astype(np.float64)
        offsets = classes.offsets[number, :, None].astype(np.float64)
        uses_offset = classes.uses_offset[number, :, None]
        out = self.scale * (offsets + steps * codes)
        return np.asarray(out + np.where(uses_offset, self.offset, 0.0))

    def codebook(self, size: int) -> Array:
        # [d, size]; what no row needs is zero.
        dim = self.table.dim
        out = np.zeros((dim, size), dtype=np.float32)
        place = np.arange(256)[None]
        for number, start in zip(self.used.tolist(), self.starts,
                                 strict=True):
            row, code = np.nonzero(place <= num_levels(
                self.table.classes.widths[number])[:, None])
            values = self.values(number, np.repeat(place, dim, axis=0))
            out[row, start[row] + code] = values[row, code]
        return out

    def codes(self, rows: Array) -> Array:
        # Places in the codebook.
        kind = np.searchsorted(self.used, self.table.class_ids[rows])
        return np.asarray(self.table.codes(rows) + self.starts[kind],
                          dtype=np.uint8)


def _product(faiss: Any, grids: _Grids, bits: int) -> Any:
    dim = grids.table.dim
    index = faiss.IndexPQ(dim, dim, bits, faiss.METRIC_INNER_PRODUCT)
    faiss.copy_array_to_vector(grids.codebook(1 << bits).reshape(-1),
                               index.pq.centroids)
    index.is_trained = True
    for rows in _batches(grids.table):
        index.add_sa_codes(pack_codes(grids.codes(rows), [bits] * dim))
    return index


def _scalar(faiss: Any, grids: _Grids) -> Any:
    # Reads low + (code + 1/2) / 255 * span.
    number, dim = int(grids.used[0]), grids.table.dim
    ends = grids.values(number, np.repeat([[0, 255]], dim, axis=0))
    span = ends[:, 1] - ends[:, 0]
    low = ends[:, 0] - span / 510
    index = faiss.IndexScalarQuantizer(
        dim, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
    faiss.copy_array_to_vector(np.concatenate([low, span]).astype(np.float32),
                               index.sq.trained)
    index.is_trained = True
    for rows in _batches(grids.table):
        index.add_sa_codes(grids.codes(rows))
    return index


def _batches(table: PackedTable) -> list[Array]:
    return [np.arange(start, min(start + _BATCH, len(table)))
            for start in range(0, len(table), _BATCH)]
