r"""New rows in the form of an existing table: its classes, its scales."""

from __future__ import annotations

from typing import Any, Optional, Union

import numpy as np

from pyg_nodequant.runtime.file_format import Container
from pyg_nodequant.runtime.float_table import FloatTable
from pyg_nodequant.runtime.row_classes import RowClasses, pack_nibbles
from pyg_nodequant.runtime.row_codes import num_levels
from pyg_nodequant.runtime.row_scales import log_codes
from pyg_nodequant.runtime.table import PackedTable

Array = np.ndarray[Any, Any]
Table = Union[PackedTable, FloatTable]

# Ranges that are tried for a row, as parts of the one that covers it.
_PARTS = np.geomspace(1.0, 0.1, 40)
_REFINEMENTS = 2
# Rows of the next lower and higher degrees that count as alike.
_NEIGHBOURS = 16
# Numbers of rows that are fitted at once.
_FIT_NUMBERS = 1 << 20


def choose_bits(
    table: Table,
    widths: Array,
    count: int,
    width: Optional[int] = None,
    like: Optional[tuple[Array, Array]] = None,
) -> Array:
    r"""Returns how many bits of codes each new row gets.

    By default as many as a class of the table has, and at least the mean of
    the rows of about the same degree: popular rows are worth more bits.

    Args:
        table (PackedTable or FloatTable): The table they go into.
        widths (array): The widths of rows that are there.
        count (int): The number of new rows.
        width (int, optional): The mean bits of a number instead, one that a
            class of the table has.
        like (tuple, optional): The degrees of the rows that are there, and
            those of the new ones; without them, the mean is that of all rows.

    Raises:
        ValueError: If there is no class of :obj:`width`.

    Example:
        >>> table = PackedTable.from_float([[1.0], [1.0], [1.0]], [1, 2, 8])
        >>> choose_bits(table, table.widths, 2).tolist()
        [8, 8]
        >>> choose_bits(table, table.widths, 1, width=2).tolist()
        [2]
    """
    if isinstance(table, FloatTable):
        if width not in (None, 32):
            raise ValueError(f"'width' needs to be 32 in a table of floats "
                             f"(got {width})")
        return np.full(count, 32 * table.dim)
    offered = np.unique(table.classes.bits)
    if width is not None:
        if not (np.ndim(width) == 0 and width * table.dim in offered):
            names = ", ".join(f"{one / table.dim:g}" for one in offered)
            raise ValueError(f"'width' needs to be one of {names}, the widths "
                             f"of the table's classes (got {width})")
        return np.full(count, int(width * table.dim))
    bits = np.rint(np.asarray(widths, dtype=np.float64) * table.dim)
    wanted = np.full(count, bits.mean() if len(bits) else 0.0)
    if like is not None and len(bits):
        order = np.argsort(like[0], kind="stable")
        there, total = like[0][order], np.append(0.0, np.cumsum(bits[order]))
        first = np.searchsorted(there, like[1], "left") - _NEIGHBOURS
        last = np.searchsorted(there, like[1], "right") + _NEIGHBOURS
        first, last = np.maximum(first, 0), np.minimum(last, len(there))
        wanted = (total[last] - total[first]) / (last - first)
    some = offered[offered > 0] if offered.any() else offered
    place = np.searchsorted(some, wanted - 1e-6)
    return np.asarray(some[np.minimum(place, len(some) - 1)])


def fit_rows(table: Table, rows: Array, bits: Array) -> Table:
    r"""Returns float rows in the form of a table.

    The classes and the precision of scales and offsets are those of
    :obj:`table`; where its rows share one scale, or a grid of logarithms, the
    new rows use it, and the nearest scale where theirs is beyond it. Each row
    gets the class, scale, offset and codes of least squared error among the
    classes of its bits, in which ranges from the one that covers the row down
    to a tenth of it are tried, each refined by least squares.

    Args:
        table (PackedTable or FloatTable): The table to fit in with.
        rows (array): Finite rows of shape :obj:`[n, dim]`.
        bits (array): The bits of each row, as :meth:`choose_bits` returns
            them.

    Raises:
        ValueError: If a row does not fit the precision of the scales.

    Example:
        >>> table = PackedTable.from_float([[1.0, -1.0], [0.5, 2.0]], [1, 8])
        >>> fit_rows(table, np.float32([[3.0, -3.0]]), [2]).dequantize()
        array([[ 3., -3.]], dtype=float32)
    """
    if isinstance(table, FloatTable):
        return FloatTable(np.reshape(rows, (-1, table.dim)))
    bits = np.asarray(bits)
    stored = _Stored(table)
    count = len(rows)
    class_ids = np.zeros(count, dtype=np.int64)
    codes = np.zeros((count, table.dim), dtype=np.uint8)
    scales, offsets = np.zeros(count), np.zeros(count)
    step = max(1, _FIT_NUMBERS // table.dim)
    for start in range(0, count, step):
        part = slice(start, start + step)
        x = np.asarray(rows[part], dtype=np.float64)
        least = np.full(len(x), np.inf)
        for number, own in enumerate(table.classes.bits.tolist()):
            some = np.flatnonzero(bits[part] == own)
            if not len(some):
                continue
            fit = _fit_class(x[some], table.classes, number, stored)
            better = fit[0] < least[some]
            places = some[better]
            least[places] = fit[0][better]
            class_ids[start + places] = number
            scales[start + places] = fit[1][better]
            offsets[start + places] = fit[2][better]
            codes[start + places] = fit[3][better]
    plain = PackedTable.from_classes(codes, class_ids, table.classes,
                                     np.ones(count))
    field, arrays = plain.encode("t")
    arrays["t.scale"] = stored.scales(scales)[plain.order]
    if stored.log is not None:
        arrays[stored.log_name] = stored.log
        if stored.bits == 4:
            arrays["t.scale"] = pack_nibbles(arrays["t.scale"])
    if stored.offset_dtype is not None:
        arrays["t.offset"] = stored.offsets(offsets)[plain.order]
    return PackedTable.decode(Container("new rows", {"t": field}, arrays), "t")


class _Stored:
    # The precision of a table's scales and offsets.

    def __init__(self, table: PackedTable) -> None:
        arrays = table.encode("t")[1]
        scale = arrays["t.scale"]
        offset = arrays.get("t.offset")
        self.bits = 4 if "t.log4" in arrays else 8
        self.log_name = "t.log4" if self.bits == 4 else "t.log"
        self.log = arrays.get(self.log_name)
        self.dtype = scale.dtype
        self.offset_dtype = None if offset is None else offset.dtype
        self.shared: Optional[float] = None
        if self.log is None and len(scale) == 1 < len(table):
            self.shared = float(scale[0])

    def scales(self, values: Array) -> Array:
        if self.shared is not None:
            return np.full(len(values), self.shared).astype(self.dtype)
        if self.log is None:
            return _rounded("scale", values, self.dtype)
        return log_codes(values, self.log, self.bits)

    def offsets(self, values: Array) -> Array:
        assert self.offset_dtype is not None
        return _rounded("offset", values, self.offset_dtype)

    def snap(self, scales: Array) -> Array:
        stored = self.scales(scales)
        if self.log is None:
            return stored.astype(np.float64)
        power = float(self.log[0]) + (stored - 1.0) * float(self.log[1])
        values = np.exp2(power).astype(np.float32).astype(np.float64)
        return np.where(stored > 0, values, 0.0)


def _rounded(name: str, values: Array, dtype: Any) -> Array:
    with np.errstate(over="ignore"):
        out = values.astype(dtype)
    if not np.isfinite(out).all():
        bad = values[~np.isfinite(out)][0]
        raise ValueError(f"'rows' needs to fit the {name}s of the table, "
                         f"which are {dtype} (got a {name} of {bad:g})")
    return np.asarray(out)


def _fit_class(x: Array, classes: RowClasses, number: int,
               stored: _Stored) -> tuple[Array, Array, Array, Array]:
    # The squared errors, scales, offsets and codes of rows in one class.
    form = _ClassForm(classes, number)
    cover, middle = form.cover(x, stored.offset_dtype is not None)
    best = (np.full(len(x), np.inf), np.zeros(len(x)), np.zeros(len(x)),
            np.zeros(x.shape, dtype=np.uint8))
    fixed = stored.shared is not None
    for part in _PARTS[:1] if fixed else _PARTS:
        scale = stored.snap(cover * part)
        offset = middle(scale)
        for refinement in range(_REFINEMENTS + 1):
            codes = form.codes(x, scale, offset)
            if refinement < _REFINEMENTS:
                scale, offset = form.refine(x, codes, scale, offset)
                if stored.offset_dtype is None:
                    offset = np.zeros(len(x))
            scale = stored.snap(scale)
            if stored.offset_dtype is not None:
                offset = form.offset(x, codes, scale)
                offset = stored.offsets(offset).astype(np.float64)
        codes = form.codes(x, scale, offset)
        found = form.decode(codes, scale, offset)
        error = np.einsum("ij,ij->i", x - found, x - found)
        better = error < best[0]
        best[0][better] = error[better]
        best[1][better] = scale[better]
        best[2][better] = offset[better]
        best[3][better] = codes[better]
    return best


class _ClassForm:
    # The arithmetic of one class.

    def __init__(self, classes: RowClasses, number: int) -> None:
        self.steps = classes.steps[number].astype(np.float64)
        self.offsets = classes.offsets[number].astype(np.float64)
        self.uses = classes.uses_offset[number].astype(np.float64)
        self.levels = num_levels(classes.widths[number]).astype(np.float64)
        ends = np.stack([self.offsets,
                         self.offsets + self.steps * self.levels])
        self.low, self.high = ends.min(axis=0), ends.max(axis=0)
        self.has_codes = self.high > self.low

    def cover(self, x: Array, with_offset: bool) -> tuple[Array, Any]:
        # The scale at which the codes reach every number of a row, and the
        # offset that goes with a scale.
        if with_offset:
            shifted = self.has_codes & (self.uses > 0)
            some = x[:, shifted] if shifted.any() else np.zeros((len(x), 1))
            centre = (some.max(axis=1) + some.min(axis=1)) / 2
            half = (self.high - self.low)[self.has_codes] / 2
            away = np.abs(x - self.uses * centre[:, None])[:, self.has_codes]
            scale = (away / half).max(axis=1, initial=0.0)
            mean = ((self.high + self.low)[shifted] / 2).mean() if (
                shifted.any()) else 0.0
            return scale, lambda scale: centre - scale * mean
        with np.errstate(divide="ignore", invalid="ignore"):
            up = np.where((x > 0) & (self.high > 0), x / self.high, 0.0)
            down = np.where((x < 0) & (self.low < 0), x / self.low, 0.0)
        scale = np.maximum(up, down)[:, self.has_codes].max(
            axis=1, initial=0.0)
        return scale, lambda scale: np.zeros(len(scale))

    def codes(self, x: Array, scale: Array, offset: Array) -> Array:
        rest = x - offset[:, None] * self.uses
        safe = np.where(scale == 0, 1.0, scale)[:, None]
        steps = np.where(self.steps == 0, 1.0, self.steps)
        with np.errstate(over="ignore"):
            place = (rest / safe - self.offsets) / steps
        place = np.clip(np.rint(place), 0, self.levels)
        place[scale == 0] = 0.0
        place[:, self.steps == 0] = 0.0
        return np.asarray(place, dtype=np.uint8)

    def grid(self, codes: Array) -> Array:
        return np.asarray(self.offsets + self.steps * codes)

    def decode(self, codes: Array, scale: Array, offset: Array) -> Array:
        return np.asarray(scale[:, None] * self.grid(codes) +
                          offset[:, None] * self.uses)

    def refine(self, x: Array, codes: Array, scale: Array,
               offset: Array) -> tuple[Array, Array]:
        # The scale of least error for given codes, at the best offset.
        g = self.grid(codes)
        count = self.uses.sum()
        if offset.any() and count:
            g = g - self.uses * (g @ self.uses / count)[:, None]
            x = x - self.uses * (x @ self.uses / count)[:, None]
        square = np.einsum("ij,ij->i", g, g)
        product = np.einsum("ij,ij->i", g, x)
        good = (square > 0) & (product > 0)
        return np.where(good, product / np.where(good, square, 1.0),
                        scale), offset

    def offset(self, x: Array, codes: Array, scale: Array) -> Array:
        rest = x - scale[:, None] * self.grid(codes)
        return np.asarray(rest @ self.uses / max(self.uses.sum(), 1.0))
