r"""A table of rows stored as integer codes of mixed widths."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np
from numpy.typing import ArrayLike

from pyg_nodequant.runtime.atomic import PathLike
from pyg_nodequant.runtime.blocks import gather_strings, to_blocks
from pyg_nodequant.runtime.csr import CSR, check_range, integers
from pyg_nodequant.runtime.file_format import (
    Container,
    read_container,
    write_container,
)
from pyg_nodequant.runtime.layout import NIBBLE_CLASSES, RowLayout
from pyg_nodequant.runtime.row_classes import MAX_CLASSES, RowClasses
from pyg_nodequant.runtime.row_codes import (
    MAX_BITS,
    MAX_DIM,
    Array,
    bit_starts,
    decode_rows,
    gaussian_span,
    num_levels,
    pack_codes,
    pad_strings,
    quantize_rows,
    string_bytes,
    unpack_codes,
)
from pyg_nodequant.runtime.row_scales import RowScales
from pyg_nodequant.runtime.rows import RowTable
from pyg_nodequant.runtime.search import Searcher, check_engine, search_table

MAX_ROWS = 1 << 31
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
        _check_finite(classes, scales, offsets)
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
    ) -> PackedTable:
        r"""Packs codes of one width a row.

        A row reads :math:`r_i v + o_i`, or :math:`r_i (v - (2^{b_i} - 1) /
        2)` if :obj:`centered`; a row of width 0 reads 0. Scales and offsets
        are rounded to :obj:`scale_dtype`.

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
            scale_dtype (str): :obj:`"float16"`, :obj:`"float32"` or
                :obj:`"log8"`.
            groups (array, optional): The group of each row, of shape
                :obj:`[n]`: rows of one group and width need one scale, which
                is then stored once, as the step of a class of theirs, in
                :obj:`"float16"` or :obj:`"float32"`. There may be at most 256
                pairs of group and width.

        Raises:
            ValueError: If an argument is not of this form.
        """
        if centered and offset is not None:
            raise ValueError("'offset' needs to be None if 'centered' is "
                             "True (got an array)")
        codes = _check_codes(codes)
        widths = _check_widths(widths, len(codes))
        if groups is not None:
            if offset is not None:
                raise ValueError("'offset' needs to be None if 'groups' are "
                                 "given (got an array)")
            return cls._from_groups(codes, widths, scale, centered,
                                    scale_dtype, groups)
        used = np.unique(widths)
        classes = RowClasses.by_width(used.tolist() or [0], codes.shape[1],
                                      centered)
        return cls.from_classes(codes, np.searchsorted(used, widths), classes,
                                scale, offset, scale_dtype=scale_dtype)

    @classmethod
    def _from_groups(cls, codes: Array, widths: Array, scale: ArrayLike,
                     centered: bool, scale_dtype: str,
                     groups: ArrayLike) -> PackedTable:
        _check_length("scale", scale, len(codes))
        pairs, first, ids = _width_groups(widths, groups)
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

        Raises:
            ValueError: If an argument is not of this form.
        """
        codes = _check_codes(codes)
        if codes.shape[1] != classes.dim:
            raise ValueError(f"'codes' needs {classes.dim} columns, as "
                             f"'classes' has (got {codes.shape[1]})")
        ids = integers("class_ids", class_ids)
        _check_length("class_ids", ids, len(codes))
        check_range("class_ids", ids, len(classes))
        layout = RowLayout.of(classes, ids.astype(np.uint8))
        order = layout.order
        # Rows need some bytes each, or a small file could announce anything.
        share = len(classes) > 1 or int(classes.bits[0]) > 0
        _check_length("scale", scale, len(codes))
        scales = RowScales.store(np.asarray(scale)[order], scale_dtype,
                                 share=share)
        offsets = None
        if offset is not None:
            _check_length("offset", offset, len(codes))
            offsets = RowScales.store(
                np.asarray(offset)[order],
                "float32" if scale_dtype == "log8" else scale_dtype,
                "offset", share=False)
            if not offsets.data.any():
                offsets = None
        return cls(classes, layout, _pack_blocks(codes, layout, classes),
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
        widths = _check_widths(widths, len(rows))
        levels = num_levels(widths)
        if groups is not None and range != "symmetric":
            raise ValueError(f"'range' needs to be symmetric if 'groups' are "
                             f"given (got '{range}')")
        if range == "symmetric":
            span, low = gaussian_span(rows, widths), None
            if groups is not None:
                _, first, ids = _width_groups(widths, groups)
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
            kind = "float32" if scale_dtype == "log8" else scale_dtype
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
            widths = classes.widths[number]
            part = np.empty((len(rows), self.dim))
            chosen = positions[rows]
            offsets = (np.zeros(len(rows)) if self._offsets is None else
                       self._offsets[chosen].astype(np.float64))
            decode_rows(pad_strings(self._strings(number, chosen)),
                        bit_starts(widths), widths, classes.steps[number],
                        classes.offsets[number], classes.uses_offset[number],
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
        count = len(self.classes)
        arrays = {
            "codes": self._codes,
            "scale": self._scales.data,
            "classes": np.frombuffer(self.classes.to_bytes(), np.uint8),
        }
        if self._scales.log is not None:
            arrays["log"] = self._scales.log
        if self._offsets is not None:
            arrays["offset"] = self._offsets.data
        if count > 1:
            arrays["class"] = self._layout.data
        return (f"packed {len(self)} {self.dim} {count}",
                {f"{prefix}.{name}": array for name, array in arrays.items()})

    @classmethod
    def decode(cls, content: Container, prefix: str) -> PackedTable:
        r"""Reads what :meth:`encode` returned."""
        rows, dim, count = _read_form(content, prefix)
        data = content.take(f"{prefix}.classes", ["U8"], (None, ))
        try:
            classes = RowClasses.from_bytes(data.tobytes(), count, dim)
        except ValueError as error:
            content.fail(str(error))
        scales = _read_scales(content, prefix, rows,
                              count > 1 or int(classes.bits[0]) > 0)
        offsets = None
        if f"{prefix}.offset" in content.arrays:
            data = content.take(f"{prefix}.offset", ["F16", "F32"], (rows, ))
            offsets = RowScales(data, rows)
        for stored in (scales, offsets):
            if stored is not None and not np.isfinite(stored.data).all():
                content.fail(f"its table '{prefix}' has a scale or an offset "
                             f"that is not finite")
        if count == 1:
            # A shared scale leaves only the codes to vouch for the rows.
            codes = content.take(f"{prefix}.codes", ["U8"], (None, ))
            least = rows * int(string_bytes(int(classes.bits[0])))
            if len(codes) < least:
                content.fail(f"the array '{prefix}.codes' has {len(codes)} "
                             f"bytes instead of {least}")
            data = np.zeros(0, dtype=np.uint8)
        else:
            length = (rows + 1) // 2 if count <= NIBBLE_CLASSES else rows
            data = content.take(f"{prefix}.class", ["U8"], (length, ))
        layout = RowLayout(classes, data, rows)
        beyond = np.flatnonzero(layout.found[count:])
        if len(beyond):
            content.fail(f"the array '{prefix}.class' has a row of class "
                         f"{count + int(beyond[0])}, but there are only "
                         f"{count} classes")
        codes = content.take(f"{prefix}.codes", ["U8"], (layout.num_bytes, ))
        try:
            return cls(classes, layout, codes, scales, offsets)
        except ValueError as error:
            content.fail(f"its table '{prefix}' is not allowed: {error}")

    def __repr__(self) -> str:
        widths = self.widths if len(self) else np.zeros(1, dtype=np.uint8)
        return (f"{type(self).__name__}({len(self)}, {self.dim}, "
                f"bits={widths.min():g}..{widths.max():g}, "
                f"avg={self.mean_bits:.2f})")


def _check_codes(codes: ArrayLike) -> Array:
    array = np.asarray(codes)
    if array.ndim != 2 or not 1 <= array.shape[1] <= MAX_DIM:
        raise ValueError(f"'codes' needs a shape of [n, 1..{MAX_DIM}] "
                         f"(got {list(array.shape)})")
    if array.size and array.dtype.kind not in "iu":
        raise ValueError(f"'codes' needs to hold integers "
                         f"(got {array.dtype})")
    check_range("codes", array.reshape(-1), 1 << MAX_BITS)
    return array.astype(np.uint8)


def _check_widths(widths: ArrayLike, rows: int) -> Array:
    array = integers("widths", widths)
    _check_length("widths", array, rows)
    check_range("widths", array, MAX_BITS + 1)
    return array


def _check_length(name: str, values: ArrayLike, rows: int) -> None:
    if np.shape(values) != (rows, ):
        raise ValueError(f"'{name}' needs {rows} numbers, one a row "
                         f"(got a shape of {list(np.shape(values))})")


def _width_groups(widths: Array,
                  groups: ArrayLike) -> tuple[Array, Array, Array]:
    # The pairs of width and group, a row of each, and the pair of each row.
    numbers = integers("groups", groups)
    _check_length("groups", numbers, len(widths))
    pairs, first, ids = np.unique(np.stack([widths, numbers], 1), axis=0,
                                  return_index=True, return_inverse=True)
    if len(pairs) > MAX_CLASSES:
        raise ValueError(f"'groups' needs to make at most {MAX_CLASSES} pairs "
                         f"of group and width (got {len(pairs)})")
    return pairs, first, ids.reshape(-1)


def _check_finite(classes: RowClasses, scales: RowScales,
                  offsets: Optional[RowScales]) -> None:
    # Rows beyond float32 would have scores that are no numbers.
    limit = float(np.finfo(np.float32).max)
    top = classes.largest * scales.bound
    top += 0.0 if offsets is None else offsets.bound
    if top > limit:
        top = classes.largest * scales.largest
        top += 0.0 if offsets is None else offsets.largest
    if top > limit:
        raise ValueError(f"'scale' and 'offset' need to keep rows within "
                         f"float32, 3.4e+38 (got rows of up to {top:.2g})")


def _pack_blocks(codes: Array, layout: RowLayout,
                 classes: RowClasses) -> Array:
    out = np.empty(layout.num_bytes, dtype=np.uint8)
    for number in np.flatnonzero(layout.counts).tolist():
        first, count = int(layout.first[number]), int(layout.counts[number])
        rows = layout.order[first:first + count]
        widths = classes.widths[number]
        high = codes[rows].max(axis=0) > num_levels(widths)
        if high.any():
            k = int(np.argmax(high))
            raise ValueError(
                f"'codes' needs to be in [0, {(1 << int(widths[k])) - 1}] at "
                f"a width of {widths[k]} (got {codes[rows, k].max()})")
        start = int(layout.starts[number])
        blocks = to_blocks(pack_codes(codes[rows], widths))
        out[start:start + len(blocks)] = blocks
    return out


def _read_form(content: Container, prefix: str) -> tuple[int, int, int]:
    form = content.field(prefix).split(" ")
    if form[0] != "packed":
        content.fail(f"its table '{prefix}' is {form[0]}, not packed")
    try:
        rows, dim, count = (_natural(part) for part in form[1:])
    except ValueError:
        content.fail(f"its field '{prefix}' is damaged")
    if rows > MAX_ROWS or not (1 <= dim <= MAX_DIM
                             and 1 <= count <= MAX_CLASSES):
        content.fail(f"its table '{prefix}' would have {rows} rows, {dim} "
                     f"dimensions and {count} classes")
    return rows, dim, count


def _natural(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise ValueError("not a count")
    return int(text)


def _read_scales(content: Container, prefix: str, rows: int,
                 may_share: bool) -> RowScales:
    data = content.take(f"{prefix}.scale", ["F16", "F32", "U8"], (None, ))
    shared = may_share and len(data) == 1
    if data.dtype == np.uint8:
        log = content.take(f"{prefix}.log", ["F32"], (2, ))
        shared = False
    else:
        log = None
    if len(data) != rows and not shared:
        content.fail(f"its table '{prefix}' has {len(data)} scales instead "
                     f"of {rows}")
    scales = RowScales(data, rows, log)
    if log is not None and not np.isfinite(scales.values).all():
        content.fail(f"its table '{prefix}' has a scale or an offset that is "
                     f"not finite")
    return scales
