r"""A table of rows stored as integer codes of mixed widths."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np
from numpy.typing import ArrayLike

from pyg_nodequant.runtime.atomic import PathLike
from pyg_nodequant.runtime.blocks import gather_strings
from pyg_nodequant.runtime.csr import CSR, check_range, integers
from pyg_nodequant.runtime.file_format import (
    Container,
    read_container,
    write_container,
)
from pyg_nodequant.runtime.layout import RowLayout
from pyg_nodequant.runtime.row_classes import RowClasses
from pyg_nodequant.runtime.row_codes import (
    Array,
    bit_starts,
    decode_rows,
    gaussian_span,
    num_levels,
    pad_strings,
    quantize_rows,
    unpack_codes,
)
from pyg_nodequant.runtime.row_scales import LOG_BITS, RowScales
from pyg_nodequant.runtime.rows import RowTable
from pyg_nodequant.runtime.search import Searcher, check_engine, search_table
from pyg_nodequant.runtime.table_file import decode_table, encode_table
from pyg_nodequant.runtime.table_parts import (
    check_codes,
    check_finite,
    check_length,
    check_widths,
    pack_blocks,
    width_groups,
)

# Rows that are read at once where all are looked at.
_READ_ROWS = 1 << 16


class PackedTable(RowTable):
    r"""Rows of packed integer codes, of any mixture of widths from 0 to 8.

    A row of class :math:`c` reads :math:`x_k = r (m_{ck} + a_{ck} v_k) + o
    \, n_{ck}`, with its codes :math:`v`, scale :math:`r` and offset :math:`o`
    (see :class:`RowClasses`). Make tables with :meth:`from_codes`,
    :meth:`from_classes`, :meth:`from_float` or :meth:`open`.

    Example:
        >>> table = PackedTable.from_codes([[0, 3], [1, 0]], [2, 1],
        ...                                scale=[1.0, 4.0], centered=True)
        >>> table.dequantize()
        array([[-1.5,  1.5],
               [ 2. , -2. ]], dtype=float32)
        >>> table
        PackedTable(2, 2, bits=1..2, avg=1.50)
    """

    def __init__(
        self,
        classes: RowClasses,
        layout: RowLayout,
        codes: Array,
        scales: RowScales,
        offsets: Optional[RowScales] = None,
    ) -> None:
        # `codes`, `scales` and `offsets` are as a file holds them.
        check_finite(classes, scales, offsets)
        self.classes = classes
        self.dim = classes.dim
        self._layout = layout
        # Kernels are compiled once for arrays that cannot be written, as
        # mapped ones are, and not again for others.
        self._codes = codes.view()
        self._codes.setflags(write=False)
        self._scales = scales
        self._offsets = offsets
        self._engine: Optional[str] = None
        self._made_searcher: Optional[Searcher] = None
        self._weights: Optional[tuple[Array, float]] = None

    @classmethod
    def from_codes(
        cls,
        codes: ArrayLike,
        widths: ArrayLike,
        *,
        scale: ArrayLike,
        offset: Optional[ArrayLike] = None,
        centered: bool = False,
        scale_dtype: str = "float16",
        groups: Optional[ArrayLike] = None,
        log: Optional[ArrayLike] = None,
        centre: Optional[ArrayLike] = None,
    ) -> PackedTable:
        r"""Packs codes of one width a row.

        A row reads :math:`r_i v + o_i`, or :math:`r_i (v - (2^{b_i} - 1) /
        2)` if :obj:`centered`; a row of width 0 reads 0, or :math:`r_i` times
        a :obj:`centre`. Scales and offsets are rounded to :obj:`scale_dtype`.

        Args:
            codes (array): Codes of shape :obj:`[n, d]`, each below
                :math:`2^{b_i}`.
            widths (array): Widths :math:`b_i` in [0, 8], of shape
                :obj:`[n]`.
            scale (array): Scales :math:`r_i`, of shape :obj:`[n]`.
            offset (array, optional): Offsets :math:`o_i`, of shape
                :obj:`[n]`.
            centered (bool): Whether ranges are symmetric about 0; excludes
                :obj:`offset`.
            scale_dtype (str): :obj:`"float16"`, :obj:`"float32"`,
                :obj:`"log8"` or :obj:`"log4"`.
            groups (array, optional): The group of each row, of shape
                :obj:`[n]`: rows of one group and width need one scale, which
                is then stored once, as the step of a class of theirs, in
                :obj:`"float16"` or :obj:`"float32"`. There may be at most 256
                pairs of group and width.
            log (pair, optional): As in :meth:`from_classes`.
            centre (array, optional): What rows of width 0 have in common, of
                shape :obj:`[d]`; stored once. Needs :obj:`centered`, excludes
                :obj:`groups`.

        Raises:
            ValueError: If an argument is not of this form.

        Example:
            >>> PackedTable.from_codes([[0, 0], [1, 0]], [0, 1],
            ...                        scale=[2.0, 4.0], centered=True,
            ...                        centre=[1.0, 3.0]).dequantize()
            array([[ 2.,  6.],
                   [ 2., -2.]], dtype=float32)
        """
        if centered and offset is not None:
            raise ValueError("'offset' needs to be None if 'centered' is "
                             "True (got an array)")
        if groups is not None and log is not None:
            raise ValueError("'log' needs to be None if 'groups' are given "
                             "(got a grid)")
        codes = check_codes(codes)
        widths = check_widths(widths, len(codes))
        if groups is not None:
            for name, value in (("offset", offset), ("centre", centre)):
                if value is not None:
                    raise ValueError(f"'{name}' needs to be None if 'groups' "
                                     f"are given (got an array)")
            return cls._from_groups(codes, widths, scale, centered,
                                    scale_dtype, groups)
        used = np.unique(widths)
        classes = RowClasses.by_width(used.tolist() or [0], codes.shape[1],
                                      centered, centre)
        return cls.from_classes(codes, np.searchsorted(used, widths), classes,
                                scale, offset, scale_dtype=scale_dtype,
                                log=log)

    @classmethod
    def _from_groups(cls, codes: Array, widths: Array, scale: ArrayLike,
                     centered: bool, scale_dtype: str,
                     groups: ArrayLike) -> PackedTable:
        check_length("scale", scale, len(codes))
        pairs, first, ids = width_groups(widths, groups)
        if scale_dtype not in ("float16", "float32"):
            raise ValueError(f"'scale_dtype' needs to be one of float16, "
                             f"float32 for scales of groups "
                             f"(got '{scale_dtype}')")
        shared = RowScales.store(scale, scale_dtype, share=False).values
        differ = np.flatnonzero(shared != shared[first][ids])
        if len(differ):
            i = int(differ[0])
            raise ValueError(f"'scale' needs to be equal within a group and "
                             f"width (got {shared[i]:g} and "
                             f"{shared[first][ids[i]]:g} in one)")
        plain = RowClasses.by_width(pairs[:, 0].tolist() or [0],
                                    codes.shape[1], centered)
        steps = shared[first][:, None] if len(first) else np.ones((1, 1))
        classes = RowClasses(plain.widths, steps * plain.steps,
                             steps * plain.offsets)
        return cls.from_classes(codes, ids, classes, np.ones(len(codes)))

    @classmethod
    def from_classes(
        cls,
        codes: ArrayLike,
        class_ids: ArrayLike,
        classes: RowClasses,
        scale: ArrayLike,
        offset: Optional[ArrayLike] = None,
        *,
        scale_dtype: str = "float16",
        log: Optional[ArrayLike] = None,
    ) -> PackedTable:
        r"""Packs codes of any classes.

        Args:
            codes (array): Codes of shape :obj:`[n, d]`, each below
                :math:`2^{b_{ck}}`.
            class_ids (array): The class of each row, of shape :obj:`[n]`.
            classes (RowClasses): The classes.
            scale (array): Scales :math:`r_i`, of shape :obj:`[n]`.
            offset (array, optional): Offsets :math:`o_i`, of shape
                :obj:`[n]`.
            scale_dtype (str): As in :meth:`from_codes`; offsets are
                :obj:`float32` beside logarithmic scales.
            log (pair, optional): The grid :math:`(l, h)` of logarithmic
                scales, two :obj:`float32` numbers: scales on it are kept
                exactly. By default, it goes from the smallest to the largest
                scale.

        Raises:
            ValueError: If an argument is not of this form.

        Example:
            >>> classes = RowClasses.gaussian([[1, 2], [3, 0]], [1.0, 0.5])
            >>> PackedTable.from_classes([[0, 3], [5, 0]], [0, 1], classes,
            ...                          [1.0, 4.0], scale_dtype="log4",
            ...                          log=(0, 1)).scale
            array([1., 4.], dtype=float32)
        """
        codes = check_codes(codes)
        if codes.shape[1] != classes.dim:
            raise ValueError(f"'codes' needs {classes.dim} columns, as "
                             f"'classes' has (got {codes.shape[1]})")
        ids = integers("class_ids", class_ids)
        check_length("class_ids", ids, len(codes))
        check_range("class_ids", ids, len(classes))
        layout = RowLayout.of(classes, ids.astype(np.uint8))
        order = layout.order
        # Rows need some bytes each, or a small file could announce anything.
        share = len(classes) > 1 or int(classes.bits[0]) > 0
        check_length("scale", scale, len(codes))
        scales = RowScales.store(np.asarray(scale)[order], scale_dtype,
                                 share=share, log=log)
        offsets = None
        if offset is not None:
            check_length("offset", offset, len(codes))
            offsets = RowScales.store(
                np.asarray(offset)[order],
                "float32" if scale_dtype in LOG_BITS else scale_dtype,
                "offset", share=False)
            if not offsets.data.any():
                offsets = None
        return cls(classes, layout, pack_blocks(codes, layout, classes),
                   scales, offsets)

    @classmethod
    def from_float(
        cls,
        x: ArrayLike,
        widths: ArrayLike,
        range: str = "symmetric",
        *,
        scale_dtype: str = "float16",
        groups: Optional[ArrayLike] = None,
    ) -> PackedTable:
        r"""Quantizes and packs float rows.

        Scales and offsets are rounded first, then the codes are taken, so
        that each number gets the nearest value that its row can store.

        Args:
            x (array): Finite rows of shape :obj:`[n, d]`.
            widths (array): Widths in [0, 8], of shape :obj:`[n]`, or one
                width for all.
            range (str): :obj:`"symmetric"` (:meth:`gaussian_span` of the
                row) or :obj:`"minmax"` (of the row, needs an offset).
            scale_dtype (str): As in :meth:`from_codes`.
            groups (array, optional): As in :meth:`from_codes`: rows of one
                group and width get the symmetric range of their common root
                mean square, whose scale is stored once.

        Raises:
            ValueError: If an argument is not of this form.

        Example:
            >>> table = PackedTable.from_float([[0.0, 1.0, 4.0]], 2, "minmax")
            >>> table.dequantize().round(2).tolist()
            [[0.0, 1.3300000429153442, 4.0]]
        """
        rows = np.asarray(x, dtype=np.float32)
        if rows.ndim != 2:
            raise ValueError(f"'x' needs two dimensions (got {rows.ndim})")
        if not np.isfinite(rows).all():
            raise ValueError("'x' needs to be finite (got an infinite or "
                             "undefined value)")
        if np.ndim(widths) == 0:
            widths = np.full(len(rows), widths)
        widths = check_widths(widths, len(rows))
        levels = num_levels(widths)
        if groups is not None and range != "symmetric":
            raise ValueError(f"'range' needs to be symmetric if 'groups' are "
                             f"given (got '{range}')")
        if range == "symmetric":
            span, low = gaussian_span(rows, widths), None
            if groups is not None:
                _, first, ids = width_groups(widths, groups)
                square = np.bincount(ids, span.astype(np.float64)**2)
                span = np.sqrt(square / np.maximum(np.bincount(ids), 1))[ids]
        elif range == "minmax":
            low = rows.min(axis=1)
            span = (rows.max(axis=1) - low) * (widths > 0)
        else:
            raise ValueError(f"'range' needs to be one of symmetric, minmax "
                             f"(got '{range}')")
        scale = span / np.maximum(levels, 1)
        scale = RowScales.store(scale, scale_dtype).values.astype(np.float64)
        span = scale * levels
        centered = low is None
        if low is not None:
            kind = "float32" if scale_dtype in LOG_BITS else scale_dtype
            low = RowScales.store(low, kind, "offset").values
        codes = quantize_rows(rows, widths, span,
                              -span / 2 if low is None else low)
        return cls.from_codes(codes, widths, scale=scale, offset=low,
                              centered=centered, scale_dtype=scale_dtype,
                              groups=groups)

    def __len__(self) -> int:
        return self._layout.size

    def __getstate__(self) -> dict[str, Any]:
        # What a search makes is made anew: a copy would not be read-only.
        return {**self.__dict__, "_made_searcher": None, "_weights": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._codes.setflags(write=False)

    def read(self, ids: Array) -> Array:  # noqa: D102 (documented by RowTable)
        out = np.empty((len(ids), self.dim))
        classes, positions = self.classes, self._layout.positions(ids)
        for number, rows in self._by_class(ids):
            # Copies, which are alike in memory however the classes came.
            widths = np.array(classes.widths[number])
            steps = np.array(classes.steps[number])
            levels = np.array(classes.offsets[number])
            uses = np.array(classes.uses_offset[number])
            part = np.empty((len(rows), self.dim))
            chosen = positions[rows]
            offsets = (np.zeros(len(rows)) if self._offsets is None else
                       self._offsets[chosen].astype(np.float64))
            decode_rows(pad_strings(self._strings(number, chosen)),
                        bit_starts(widths), widths, steps, levels, uses,
                        self._scales[chosen].astype(np.float64), offsets, part)
            out[rows] = part
        return out

    def codes(self, ids: Optional[ArrayLike] = None) -> Array:
        r"""Returns the codes of rows (all by default), :obj:`uint8` of shape
        :obj:`[len(ids), dim]`.
        """
        ids = np.arange(len(self)) if ids is None else self.check_ids(ids)
        out = np.empty((len(ids), self.dim), dtype=np.uint8)
        positions = self._layout.positions(ids)
        for number, rows in self._by_class(ids):
            out[rows] = unpack_codes(self._strings(number, positions[rows]),
                                     self.classes.widths[number])
        return out

    def reading_order(  # noqa: D102
        self,
        ids: Optional[Array] = None,
    ) -> Array:
        if ids is None:
            return self._layout.order.astype(np.int64)
        return ids[np.argsort(self._layout.positions(ids))]

    def search(  # noqa: D102
        self,
        queries: Array,
        k: int,
        exclude: Optional[CSR] = None,
        allowed: Optional[Array] = None,
    ) -> tuple[Array, Array]:
        return search_table(self._searcher, queries, k, exclude, allowed,
                            lambda: self.reading_order(allowed))

    def search_directions(self, queries: Array, k: int,  # noqa: D102
                          exclude: CSR) -> tuple[Array, Array]:
        if self._weights is None:
            self._weights = self._inverse_lengths()
        weights, largest = self._weights
        searcher = self._searcher.weighted(weights, largest)
        found = searcher.search(queries, k, exclude)
        if found is None:
            return super().search_directions(queries, k, exclude)
        return found

    def _inverse_lengths(self) -> tuple[Array, float]:
        # One over the length of the row at each position, 0 for zero rows,
        # and the largest scale or offset they make; infinite if one would be
        # lost in single precision.
        weights, largest = np.zeros(len(self)), 0.0
        for start in range(0, len(self), _READ_ROWS):
            part = slice(start, start + _READ_ROWS)
            x = self.read(self.order[part].astype(np.int64))
            length = np.sqrt(np.einsum("ij,ij->i", x, x))
            np.divide(1.0, length, out=weights[part], where=length > 0)
            for stored in (self._scales, self._offsets):
                if stored is not None and len(x):
                    values = np.abs(stored[part]) * weights[part]
                    largest = max(largest, float(values.max()))
                    if ((values > 0) & (values < 1e-30)).any():
                        largest = np.inf
        return weights, largest

    @property
    def _searcher(self) -> Searcher:
        if self._made_searcher is None:
            self._made_searcher = Searcher(self.classes, self._layout,
                                           self._codes, self._scales,
                                           self._offsets, self.read)
            if self._engine is not None:
                self._made_searcher.engine = self._engine
        return self._made_searcher

    @property
    def engine(self) -> str:
        r"""What scans the codes: :obj:`"shuffle"` (tables in vector
        registers), :obj:`"lookup"` (the same without vector instructions) or
        :obj:`"numpy"`. The answers are the same. May be set;
        :obj:`NODEQUANT_ENGINE` sets it for all tables.

        Raises:
            ValueError: If it is set to what this processor does not have.
        """
        return self._searcher.engine

    @engine.setter
    def engine(self, name: str) -> None:
        self._engine = check_engine(name)
        self._searcher.engine = name

    def _by_class(self, ids: Array) -> list[tuple[int, Array]]:
        # The classes among some rows, each with its positions in `ids`.
        classes = self._layout.classes_of(ids)
        order = np.argsort(classes, kind="stable")
        numbers, starts = np.unique(classes[order], return_index=True)
        parts = np.split(order, starts[1:])
        return list(zip(numbers.tolist(), parts, strict=False))

    def _strings(self, number: int, positions: Array) -> Array:
        # Gathers the bit strings of rows of one class.
        layout = self._layout
        out = np.empty((len(positions), int(layout.sizes[number])),
                       dtype=np.uint8)
        gather_strings(self._codes, int(layout.starts[number]),
                       int(layout.counts[number]),
                       positions - layout.first[number], out)
        return out

    @property
    def order(self) -> Array:
        r"""The number of the row at each position of the file,
        :obj:`uint32`.
        """
        return self._layout.order

    @property
    def class_ids(self) -> Array:
        r"""The class of each row, :obj:`uint8`."""
        return self._layout.class_ids

    @property
    def bits(self) -> Array:
        r"""The bits :math:`T_c` of each row's string, of shape :obj:`[n]`."""
        return self.classes.bits[self.class_ids]

    @property
    def widths(self) -> Array:
        r"""The width of each row: :obj:`uint8`, or the mean over dimensions
        as :obj:`float32` where a class has different widths.
        """
        if self.classes.is_node_only:
            return np.asarray(self.classes.widths[:, 0][self.class_ids])
        return (self.bits / self.dim).astype(np.float32)

    @property
    def scale(self) -> Array:
        r"""The scales as stored, :obj:`float32` of shape :obj:`[n]`."""
        return self._by_row(self._scales)

    @property
    def offset(self) -> Optional[Array]:
        r"""The offsets as stored, :obj:`float32` of shape :obj:`[n]`."""
        return None if self._offsets is None else self._by_row(self._offsets)

    def _by_row(self, stored: RowScales) -> Array:
        out = np.empty(len(self), dtype=np.float32)
        out[self._layout.order] = stored.values
        return out

    @property
    def mean_bits(self) -> float:
        r"""Mean bits of a code (0 for an empty table)."""
        total = float(self._layout.counts @ self.classes.bits)
        return total / max(len(self), 1) / self.dim

    @property
    def nbytes(self) -> int:
        r"""The bytes that a file holds of this table, without its header."""
        return sum(array.nbytes for array in self.encode("t")[1].values())

    @property
    def resident_bytes(self) -> int:
        r"""The bytes that this table holds in memory."""
        total = (self._codes.nbytes + self._layout.resident_bytes +
                 self._scales.resident_bytes)
        if self._offsets is not None:
            total += self._offsets.resident_bytes
        return total

    def save(self, path: PathLike) -> None:
        r"""Writes the table as a file of its own.

        Raises:
            PackedFileError: If the file cannot be written.
        """
        field, arrays = self.encode("t")
        write_container(path, "table", {"t": field}, arrays)

    @classmethod
    def open(cls, path: PathLike, mmap: bool = True,
             verify: bool = True) -> PackedTable:
        r"""Opens a table that :meth:`save` wrote.

        Args:
            path (str or PathLike): The file.
            mmap (bool): Whether to map the file, so that only what is used is
                read, instead of reading it. A mapped file must not be cut
                short while it is in use; replacing it is safe.
            verify (bool): Whether to check the checksums of its arrays; the
                header and the layout are checked in any case.

        Raises:
            PackedFileError: If the file is not one.
        """
        return cls.decode(read_container(path, "table", mmap, verify), "t")

    def encode(self, prefix: str) -> tuple[str, dict[str, Array]]:
        r"""Returns the header field and the arrays that hold the table."""
        return encode_table(prefix, self.classes, self._layout, self._codes,
                            self._scales, self._offsets)

    @classmethod
    def decode(cls, content: Container, prefix: str) -> PackedTable:
        r"""Reads what :meth:`encode` returned."""
        parts = decode_table(content, prefix)
        try:
            return cls(*parts)
        except ValueError as error:
            content.fail(f"its table '{prefix}' is not allowed: {error}")

    def __repr__(self) -> str:
        widths = self.widths if len(self) else np.zeros(1, dtype=np.uint8)
        return (f"{type(self).__name__}({len(self)}, {self.dim}, "
                f"bits={widths.min():g}..{widths.max():g}, "
                f"avg={self.mean_bits:.2f})")
