r"""A packed table as the arrays of a file; see ``docs/format.md``."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np

from pyg_nodequant.runtime.file_format import Container
from pyg_nodequant.runtime.layout import NIBBLE_CLASSES, RowLayout
from pyg_nodequant.runtime.row_classes import MAX_CLASSES, RowClasses
from pyg_nodequant.runtime.row_codes import MAX_DIM, string_bytes
from pyg_nodequant.runtime.row_scales import RowScales

Array = np.ndarray[Any, Any]
#: Classes, layout, codes, scales and offsets.
Parts = tuple[RowClasses, RowLayout, Array, RowScales, Optional[RowScales]]

MAX_ROWS = 1 << 31


def encode_table(
    prefix: str,
    classes: RowClasses,
    layout: RowLayout,
    codes: Array,
    scales: RowScales,
    offsets: Optional[RowScales],
) -> tuple[str, dict[str, Array]]:
    r"""Returns the header field and the arrays that hold a table."""
    arrays = {
        "codes": codes,
        "scale": scales.data,
        "classes": np.frombuffer(classes.to_bytes(), np.uint8),
    }
    if scales.log is not None:
        arrays["log" if scales.bits == 8 else "log4"] = scales.log
    if offsets is not None:
        arrays["offset"] = offsets.data
    if len(classes) > 1:
        arrays["class"] = layout.data
    return (f"packed {layout.size} {classes.dim} {len(classes)}",
            {f"{prefix}.{name}": array for name, array in arrays.items()})


def decode_table(content: Container, prefix: str) -> Parts:
    r"""Reads what :func:`encode_table` returned."""
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
        if stored is not None and not stored.is_finite:
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
    return classes, layout, codes, scales, offsets


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
    if data.dtype == np.uint8:
        return _read_logs(content, prefix, rows, data)
    shared = may_share and len(data) == 1
    if len(data) != rows and not shared:
        content.fail(f"its table '{prefix}' has {len(data)} scales instead "
                     f"of {rows}")
    return RowScales(data, rows)


def _read_logs(content: Container, prefix: str, rows: int,
               data: Array) -> RowScales:
    half = f"{prefix}.log4" in content.arrays
    if half and f"{prefix}.log" in content.arrays:
        content.fail(f"its table '{prefix}' has both an array 'log' and an "
                     f"array 'log4'")
    name = f"{prefix}.log4" if half else f"{prefix}.log"
    log = content.take(name, ["F32"], (2, ))
    size = (rows + 1) // 2 if half else rows
    if len(data) != size:
        content.fail(f"its table '{prefix}' has {len(data)} "
                     f"{'bytes of ' if half else ''}scales instead of {size}")
    if half and rows % 2 and data[-1] >> 4:
        content.fail(f"the array '{prefix}.scale' has a scale beyond those "
                     f"of {rows} rows")
    return RowScales(data, rows, log, 4 if half else 8)
