r"""Checks and makes what a packed table consists of."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np
from numpy.typing import ArrayLike

from pyg_nodequant.runtime.blocks import to_blocks
from pyg_nodequant.runtime.csr import check_range, integers
from pyg_nodequant.runtime.layout import RowLayout
from pyg_nodequant.runtime.memory import empty
from pyg_nodequant.runtime.row_classes import MAX_CLASSES, RowClasses
from pyg_nodequant.runtime.row_codes import (
    MAX_BITS,
    MAX_DIM,
    num_levels,
    pack_codes,
)
from pyg_nodequant.runtime.row_scales import RowScales

Array = np.ndarray[Any, Any]


def check_codes(codes: ArrayLike) -> Array:
    r"""Returns codes as :obj:`uint8` of shape :obj:`[n, d]`."""
    array = np.asarray(codes)
    if array.ndim != 2 or not 1 <= array.shape[1] <= MAX_DIM:
        raise ValueError(f"'codes' needs a shape of [n, 1..{MAX_DIM}] "
                         f"(got {list(array.shape)})")
    if array.size and array.dtype.kind not in "iu":
        raise ValueError(f"'codes' needs to hold integers "
                         f"(got {array.dtype})")
    check_range("codes", array.reshape(-1), 1 << MAX_BITS)
    return array.astype(np.uint8)


def check_widths(widths: ArrayLike, rows: int) -> Array:
    r"""Returns widths as :obj:`int64`, one a row."""
    array = integers("widths", widths)
    check_length("widths", array, rows)
    check_range("widths", array, MAX_BITS + 1)
    return array


def check_length(name: str, values: ArrayLike, rows: int) -> None:
    r"""Raises :class:`ValueError` unless there is one number a row."""
    if np.shape(values) != (rows, ):
        raise ValueError(f"'{name}' needs {rows} numbers, one a row "
                         f"(got a shape of {list(np.shape(values))})")


def width_groups(widths: Array,
                  groups: ArrayLike) -> tuple[Array, Array, Array]:
    r"""Returns the pairs of width and group, a row of each, and the pair of
    each row.
    """
    numbers = integers("groups", groups)
    check_length("groups", numbers, len(widths))
    pairs, first, ids = np.unique(np.stack([widths, numbers], 1), axis=0,
                                  return_index=True, return_inverse=True)
    if len(pairs) > MAX_CLASSES:
        raise ValueError(f"'groups' needs to make at most {MAX_CLASSES} pairs "
                         f"of group and width (got {len(pairs)})")
    return pairs, first, ids.reshape(-1)


def check_finite(classes: RowClasses, scales: RowScales,
                  offsets: Optional[RowScales]) -> None:
    r"""Raises :class:`ValueError` if rows could exceed :obj:`float32`: their
    scores would be no numbers.
    """
    limit = float(np.finfo(np.float32).max)
    top = classes.largest * scales.bound
    top += 0.0 if offsets is None else offsets.bound
    if top > limit:
        top = classes.largest * scales.largest
        top += 0.0 if offsets is None else offsets.largest
    if top > limit:
        raise ValueError(f"'scale' and 'offset' need to keep rows within "
                         f"float32, 3.4e+38 (got rows of up to {top:.2g})")


def pack_blocks(codes: Array, layout: RowLayout,
                 classes: RowClasses) -> Array:
    r"""Returns the codes of all rows as they are stored."""
    out = empty(layout.num_bytes)
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
