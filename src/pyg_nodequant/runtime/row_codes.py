r"""The formulas of a packed row, and the packing of its codes into bits.

Every formula of serving stands here once, in numpy; its torch twin is in
:mod:`pyg_nodequant.functional`.
"""

from __future__ import annotations

from typing import Any, Optional, Union

import numpy as np
from numpy.typing import ArrayLike

from pyg_nodequant.runtime._jit import jit

Array = np.ndarray[Any, Any]

MAX_BITS = 8
MAX_DIM = 4096

GAUSSIAN_SPAN = (0.0, 1.596, 2.987, 4.102, 5.028, 5.83, 6.56, 7.22, 7.85)
r"""Width of the optimal uniform quantizer of a standard Gaussian, by bits."""


def num_levels(widths: ArrayLike) -> Array:
    r"""Returns the number of steps of a code, :math:`s = 2^b - 1`.

    Args:
        widths (array): Widths :math:`b` in bits, of any shape.

    Example:
        >>> num_levels([0, 1, 2, 8]).tolist()
        [0, 1, 3, 255]
    """
    return (1 << np.asarray(widths, dtype=np.int64)) - 1


def gaussian_span(x: ArrayLike, widths: ArrayLike) -> Array:
    r"""Returns the symmetric range of each row,

    .. math::
        \Delta_i = K_{b_i} \sqrt{\tfrac{1}{d} \sum_k x_{ik}^2},

    with :math:`K_b` the optimal width for a Gaussian
    (:obj:`GAUSSIAN_SPAN`), linear between integer widths.

    Args:
        x (array): Rows of shape :obj:`[n, d]`.
        widths (array): Widths in bits, of shape :obj:`[n]`.

    Example:
        >>> gaussian_span([[3.0, 4.0, 3.0, 4.0]], [1]).round(3)
        array([5.643], dtype=float32)
    """
    x = np.asarray(x, dtype=np.float64)
    rms = np.sqrt(np.mean(x * x, axis=1))
    factor = np.interp(np.asarray(widths, dtype=np.float64),
                       np.arange(MAX_BITS + 1), GAUSSIAN_SPAN)
    return np.asarray(factor * rms, dtype=np.float32)


def quantize_rows(
    x: ArrayLike,
    widths: ArrayLike,
    span: ArrayLike,
    low: ArrayLike,
) -> Array:
    r"""Returns the codes of rows,

    .. math::
        v_{ik} = \mathrm{round}\left(\mathrm{clamp}\left(
        \frac{x_{ik} - \mu_i}{\Delta_i}, 0, 1\right) s_i\right),

    rounding halves to even; rows of :math:`\Delta_i = 0` get code 0.

    Args:
        x (array): Rows of shape :obj:`[n, d]`.
        widths (array): Widths in bits, of shape :obj:`[n]`.
        span (array): The ranges :math:`\Delta_i`, of shape :obj:`[n]`.
        low (array): The lower ends :math:`\mu_i`, of shape :obj:`[n]`.

    Returns:
        Codes of shape :obj:`[n, d]` and type :obj:`uint8`.

    Example:
        >>> quantize_rows([[-1.0, 0.1, 9.0]], [2], [2.0], [-1.0]).tolist()
        [[0, 2, 3]]
    """
    x = np.asarray(x, dtype=np.float32)
    span = np.asarray(span, dtype=np.float32)[:, None]
    low = np.asarray(low, dtype=np.float32)[:, None]
    levels = num_levels(widths).astype(np.float32)[:, None]
    with np.errstate(over="ignore"):
        part = (x - low) / np.where(span > 0, span, np.float32(1))
    part = np.where(span > 0, np.clip(part, 0, 1), np.float32(0))
    return np.asarray(np.rint(part * levels), dtype=np.uint8)


def dequantize_rows(
    codes: ArrayLike,
    scale: ArrayLike,
    offset: Optional[ArrayLike] = None,
    *,
    widths: Optional[ArrayLike] = None,
    centered: bool = False,
) -> Array:
    r"""Returns the rows that codes stand for,

    .. math::
        x_{ik} = r_i v_{ik} + o_i \quad \textrm{or, centred,} \quad
        x_{ik} = r_i \left(v_{ik} - \tfrac{1}{2} s_i\right),

    and zeros for rows of width 0.

    Args:
        codes (array): Codes :math:`v` of shape :obj:`[n, d]`.
        scale (array): Row scales :math:`r_i = \Delta_i / s_i`.
        offset (array, optional): Row offsets :math:`o_i = \mu_i`.
        widths (array, optional): Widths in bits; needed if
            :obj:`centered`, or if some are 0.
        centered (bool): Whether ranges are symmetric about 0.

    Returns:
        Rows of shape :obj:`[n, d]` and type :obj:`float32`, rounded once.

    Example:
        >>> dequantize_rows([[0, 3]], [0.5], widths=[2], centered=True)
        array([[-0.75,  0.75]], dtype=float32)
    """
    if centered and widths is None:
        raise ValueError("'widths' needs to be given if 'centered' is True "
                         "(got None)")
    v = np.asarray(codes, dtype=np.float64)
    r = np.asarray(scale, dtype=np.float64)[:, None]
    if centered and widths is not None:
        x = r * (v - num_levels(widths)[:, None] / 2)
    elif offset is not None:
        x = r * v + np.asarray(offset, dtype=np.float64)[:, None]
    else:
        x = r * v
    if widths is not None:
        x = np.where(np.asarray(widths)[:, None] > 0, x, 0.0)
    return np.asarray(x, dtype=np.float32)


def string_bytes(bits: Union[int, Array]) -> Any:
    r"""Returns the bytes that strings of :obj:`bits` bits occupy.

    Example:
        >>> string_bytes(9)
        2
    """
    return (bits + 7) // 8


def bit_starts(widths: ArrayLike) -> Array:
    r"""Returns the bit of the string at which each dimension starts.

    Args:
        widths (array): Widths by dimension, of shape :obj:`[d]`.

    Example:
        >>> bit_starts([3, 0, 2]).tolist()
        [0, 3, 3]
    """
    widths = np.asarray(widths, dtype=np.int64)
    return np.asarray(np.cumsum(widths) - widths)


@jit
def _pack(codes: Array, starts: Array, widths: Array, out: Array) -> None:
    for i in range(codes.shape[0]):
        for k in range(codes.shape[1]):
            if widths[k] == 0:
                continue
            first = starts[k] >> 3
            value = np.uint32(codes[i, k]) << np.uint32(starts[k] & 7)
            out[i, first] |= np.uint8(value & np.uint32(255))
            if (starts[k] & 7) + widths[k] > 8:
                out[i, first + 1] |= np.uint8(value >> np.uint32(8))


@jit
def _unpack(strings: Array, starts: Array, widths: Array, out: Array) -> None:
    # Reads one byte past the last: strings carry a spare zero byte.
    for i in range(out.shape[0]):
        for k in range(out.shape[1]):
            first = starts[k] >> 3
            pair = (np.uint32(strings[i, first])
                    | np.uint32(strings[i, first + 1]) << np.uint32(8))
            mask = (np.uint32(1) << np.uint32(widths[k])) - np.uint32(1)
            out[i, k] = (pair >> np.uint32(starts[k] & 7)) & mask


@jit
def decode_number(string: Array, start: int, width: int, step: float,
                  offset: float, uses_offset: bool, scale: float,
                  row_offset: float) -> Any:
    r"""One number of a row, :math:`x_k = r (m_k + a_k v_k) + o n_k`, in
    :obj:`float64` and rounded to :obj:`float32` once. The string carries a
    spare zero byte.
    """
    first = np.uint64(start) >> np.uint64(3)  # never counted from the end
    pair = (np.uint32(string[first])
            | np.uint32(string[first + np.uint64(1)]) << np.uint32(8))
    mask = (np.uint32(1) << np.uint32(width)) - np.uint32(1)
    v = np.float64((pair >> np.uint32(start & 7)) & mask)
    x = scale * (np.float64(offset) + np.float64(step) * v)
    if uses_offset:
        x += row_offset
    return np.float64(np.float32(x))


@jit
def decode_rows(
    strings: Array,
    starts: Array,
    widths: Array,
    steps: Array,
    offsets: Array,
    uses_offset: Array,
    scale: Array,
    row_offset: Array,
    out: Array,
) -> None:
    r"""The numbers of rows of one class, see :meth:`decode_number`."""
    for i in range(len(out)):
        string = strings[i]
        for k in range(out.shape[1]):
            out[i, k] = decode_number(string, starts[k], widths[k], steps[k],
                                      offsets[k], uses_offset[k], scale[i],
                                      row_offset[i])


def pack_codes(codes: ArrayLike, widths: ArrayLike) -> Array:
    r"""Writes the codes of one class as bit strings.

    The :math:`b_k` bits of dimension :math:`k` follow those of dimension
    :math:`k - 1`, lowest bit first; bit :math:`t` of the string is bit
    :math:`t \bmod 8` of byte :math:`\lfloor t / 8 \rfloor`.

    Args:
        codes (array): Codes of shape :obj:`[n, d]` and type :obj:`uint8`,
            each below :math:`2^{b_k}`.
        widths (array): Widths by dimension, of shape :obj:`[d]`.

    Returns:
        Strings of shape :obj:`[n, ceil(T / 8)]`, with
        :math:`T = \sum_k b_k`; unused bits are 0.

    Example:
        >>> pack_codes([[1, 5]], [1, 3]).tolist()  # 1, then 101
        [[11]]
    """
    codes = np.ascontiguousarray(codes, dtype=np.uint8)
    widths = np.asarray(widths, dtype=np.int64)
    size = int(string_bytes(int(widths.sum())))
    out = np.zeros((codes.shape[0], size), dtype=np.uint8)
    _pack(codes, bit_starts(widths), widths, out)
    return out


def unpack_codes(strings: ArrayLike, widths: ArrayLike) -> Array:
    r"""Reads the codes back that :meth:`pack_codes` wrote.

    Args:
        strings (array): Strings of shape :obj:`[n, ceil(T / 8)]`.
        widths (array): Widths by dimension, of shape :obj:`[d]`.

    Returns:
        Codes of shape :obj:`[n, d]` and type :obj:`uint8`.

    Example:
        >>> unpack_codes([[11]], [1, 3]).tolist()
        [[1, 5]]
    """
    widths = np.asarray(widths, dtype=np.int64)
    strings = np.asarray(strings, dtype=np.uint8)
    out = np.empty((strings.shape[0], len(widths)), dtype=np.uint8)
    _unpack(pad_strings(strings), bit_starts(widths), widths, out)
    return out


def pad_strings(strings: Array) -> Array:
    r"""Returns strings with the two spare zero bytes that kernels may read."""
    return np.pad(strings, ((0, 0), (0, 2)))
