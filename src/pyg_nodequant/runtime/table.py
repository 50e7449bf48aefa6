r"""A table of rows stored as integer codes of mixed widths."""

from __future__ import annotations

from typing import Optional

import numpy as np
from numpy.typing import ArrayLike

from pyg_nodequant.runtime.atomic import PathLike
from pyg_nodequant.runtime.csr import check_range, integers
from pyg_nodequant.runtime.file_format import (
    Container,
    read_container,
    write_container,
)
from pyg_nodequant.runtime.row_classes import (
    MAX_CLASSES,
    RowClasses,
    pack_nibbles,
    unpack_nibbles,
)
from pyg_nodequant.runtime.row_codes import (
    MAX_BITS,
    MAX_DIM,
    Array,
    _decode,
    bit_starts,
    column_sizes,
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

_NIBBLE_CLASSES = 16


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
        class_ids: Array,
        codes: Array,
        scales: RowScales,
        offsets: Optional[RowScales] = None,
    ) -> None:
        # `codes` are the blocks as a file holds them.
        self.classes = classes
        self.class_ids = class_ids
        self.dim = classes.dim
        self._codes = codes
        self._scales = scales
        self._offsets = offsets
        counts = np.bincount(class_ids, minlength=len(classes))
        self._counts = counts
        self._blocks = _block_starts(classes, counts)
        # Rows by class, and where a row lies in the block of its class.
        self._order = np.argsort(class_ids, kind="stable").astype(np.uint32)
        first = np.cumsum(counts) - counts
        self._place = np.empty(len(class_ids), dtype=np.uint32)
        self._place[self._order] = (np.arange(len(class_ids)) -
                                    np.repeat(first, counts))

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

        Raises:
            ValueError: If an argument is not of this form.
        """
        if centered and offset is not None:
            raise ValueError("'offset' needs to be None if 'centered' is "
                             "True (got an array)")
        codes = _check_codes(codes)
        widths = _check_widths(widths, len(codes))
        used = np.unique(widths)
        classes = RowClasses.by_width(used.tolist() or [0], codes.shape[1],
                                      centered)
        return cls.from_classes(codes, np.searchsorted(used, widths), classes,
                                scale, offset, scale_dtype=scale_dtype)

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
        ids = ids.astype(np.uint8)
        # Rows need some bytes each, or a small file could announce anything.
        share = len(classes) > 1 or int(classes.bits[0]) > 0
        _check_length("scale", scale, len(codes))
        scales = RowScales.store(scale, scale_dtype, share=share)
        offsets = None
        if offset is not None:
            _check_length("offset", offset, len(codes))
            offsets = RowScales.store(
                offset, "float32" if scale_dtype == "log8" else scale_dtype,
                "offset", share=False)
            if not offsets.data.any():
                offsets = None
        return cls(classes, ids, _pack_blocks(codes, ids, classes), scales,
                   offsets)

    @classmethod
    def from_float(
        cls,
        x: ArrayLike,
        widths: ArrayLike,
        range: str = "symmetric",
        *,
        scale_dtype: str = "float16",
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
        if range == "symmetric":
            span, low = gaussian_span(rows, widths), None
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
                              centered=centered, scale_dtype=scale_dtype)

    def __len__(self) -> int:
        return len(self.class_ids)

    def read(self, ids: Array) -> Array:  # noqa: D102 (documented by RowTable)
        out = np.empty((len(ids), self.dim))
        for number, rows in self._by_class(ids):
            classes = self.classes
            widths = classes.widths[number].astype(np.int64)
            part = np.empty((len(rows), self.dim))
            chosen = ids[rows]
            offsets = (np.zeros(len(rows)) if self._offsets is None else
                       self._offsets[chosen].astype(np.float64))
            _decode(pad_strings(self._strings(number, chosen)),
                    bit_starts(widths), widths,
                    classes.steps[number].astype(np.float64),
                    classes.offsets[number].astype(np.float64),
                    classes.uses_offset[number],
                    self._scales[chosen].astype(np.float64), offsets, part)
            out[rows] = part
        return out

    def codes(self, ids: Optional[ArrayLike] = None) -> Array:
        r"""Returns the codes of rows (all by default), :obj:`uint8` of shape
        :obj:`[len(ids), dim]`.
        """
        ids = np.arange(len(self)) if ids is None else self.check_ids(ids)
        out = np.empty((len(ids), self.dim), dtype=np.uint8)
        for number, rows in self._by_class(ids):
            out[rows] = unpack_codes(self._strings(number, ids[rows]),
                                     self.classes.widths[number])
        return out

    def reading_order(  # noqa: D102
        self,
        ids: Optional[Array] = None,
    ) -> Array:
        if ids is None:
            return self._order.astype(np.int64)
        return ids[np.argsort(self.class_ids[ids], kind="stable")]

    def _by_class(self, ids: Array) -> list[tuple[int, Array]]:
        # The classes among some rows, each with its positions in `ids`.
        classes = self.class_ids[ids]
        order = np.argsort(classes, kind="stable")
        numbers, starts = np.unique(classes[order], return_index=True)
        parts = np.split(order, starts[1:])
        return list(zip(numbers.tolist(), parts, strict=False))

    def _strings(self, number: int, ids: Array) -> Array:
        # Gathers the bytes of rows of one class from its columns.
        count = int(self._counts[number])
        size = int(string_bytes(int(self.classes.bits[number])))
        place = self._place[ids]
        out = np.empty((len(ids), size), dtype=np.uint8)
        start, byte = int(self._blocks[number]), 0
        for width in column_sizes(size):
            column = self._codes[start:start + count * width]
            out[:, byte:byte + width] = column.reshape(count, width)[place]
            start, byte = start + count * width, byte + width
        return out

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
        return self._scales.values

    @property
    def offset(self) -> Optional[Array]:
        r"""The offsets as stored, :obj:`float32` of shape :obj:`[n]`."""
        return None if self._offsets is None else self._offsets.values

    @property
    def mean_bits(self) -> float:
        r"""Mean bits of a code (0 for an empty table)."""
        return float(self.bits.mean()) / self.dim if len(self) else 0.0

    @property
    def nbytes(self) -> int:
        r"""The bytes that a file holds of this table, without its header."""
        return sum(array.nbytes for array in self.encode("t")[1].values())

    @property
    def resident_bytes(self) -> int:
        r"""The bytes that this table holds in memory."""
        arrays = [self._codes, self.class_ids, self._order, self._place,
                  self._scales.data]
        if self._offsets is not None:
            arrays.append(self._offsets.data)
        return sum(array.nbytes for array in arrays)

    def save(self, path: PathLike) -> None:
        r"""Writes the table as a file of its own.

        Raises:
            PackedFileError: If the file cannot be written.
        """
        field, arrays = self.encode("t")
        write_container(path, "table", {"t": field}, arrays)

    @classmethod
    def open(cls, path: PathLike, verify: bool = True) -> PackedTable:
        r"""Reads a table that :meth:`save` wrote.

        Args:
            path (str or PathLike): The file.
            verify (bool): Whether to check its checksum.

        Raises:
            PackedFileError: If the file is not one.
        """
        return cls.decode(read_container(path, "table", verify), "t")

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
            arrays["class"] = (pack_nibbles(self.class_ids) if count <=
                               _NIBBLE_CLASSES else self.class_ids)
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
        name = f"{prefix}.class"
        if count == 1:
            # A shared scale leaves only the codes to vouch for the rows.
            codes = content.take(f"{prefix}.codes", ["U8"], (None, ))
            least = rows * int(string_bytes(int(classes.bits[0])))
            if len(codes) < least:
                content.fail(f"its codes have {len(codes)} bytes instead of "
                             f"{least}")
            ids = np.zeros(rows, dtype=np.uint8)
        elif count <= _NIBBLE_CLASSES:
            data = content.take(name, ["U8"], ((rows + 1) // 2, ))
            ids = unpack_nibbles(data, rows)
        else:
            ids = content.take(name, ["U8"], (rows, ))
        if rows and int(ids.max()) >= count:
            content.fail(f"its table '{prefix}' has a row of class "
                         f"{int(ids.max())}, but only {count} classes")
        counts = np.bincount(ids, minlength=count)
        size = int(_block_starts(classes, counts)[-1])
        codes = content.take(f"{prefix}.codes", ["U8"], (size, ))
        return cls(classes, ids, codes, scales, offsets)

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


def _block_starts(classes: RowClasses, counts: Array) -> Array:
    # Where the block of each class begins, and where the last one ends.
    sizes = counts * string_bytes(classes.bits)
    starts = np.zeros(len(sizes) + 1, dtype=np.int64)
    np.cumsum((sizes + 7) // 8 * 8, out=starts[1:])
    return starts


def _pack_blocks(codes: Array, ids: Array, classes: RowClasses) -> Array:
    counts = np.bincount(ids, minlength=len(classes))
    blocks = _block_starts(classes, counts)
    out = np.zeros(int(blocks[-1]), dtype=np.uint8)
    for number in np.flatnonzero(counts).tolist():
        rows = np.flatnonzero(ids == number)
        widths = classes.widths[number]
        high = codes[rows].max(axis=0) > num_levels(widths)
        if high.any():
            k = int(np.argmax(high))
            raise ValueError(
                f"'codes' needs to be in [0, {(1 << int(widths[k])) - 1}] at "
                f"a width of {widths[k]} (got {codes[rows, k].max()})")
        strings = pack_codes(codes[rows], widths)
        start, byte = int(blocks[number]), 0
        for width in column_sizes(strings.shape[1]):
            column = strings[:, byte:byte + width].reshape(-1)
            out[start:start + len(column)] = column
            start, byte = start + len(column), byte + width
    return out


def _read_form(content: Container, prefix: str) -> tuple[int, int, int]:
    form = content.field(prefix).split(" ")
    if form[0] != "packed":
        content.fail(f"its table '{prefix}' is {form[0]}, not packed")
    try:
        rows, dim, count = (_natural(part) for part in form[1:])
    except ValueError:
        content.fail(f"its field '{prefix}' is damaged")
    if rows >= 2**32 or not (1 <= dim <= MAX_DIM
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
