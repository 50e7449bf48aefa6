r"""The scales of a packed table: one a row, in their stored precision."""

from __future__ import annotations

from typing import Any, Optional, Union

import numpy as np
from numpy.typing import ArrayLike

from pyg_nodequant.runtime.memory import empty
from pyg_nodequant.runtime.row_classes import pack_nibbles

Array = np.ndarray[Any, Any]
Rows = Union[Array, slice]

SCALE_DTYPES = ("float16", "float32", "log8", "log4")
#: The bits of a code, where scales are stored as logarithms.
LOG_BITS = {"log8": 8, "log4": 4}

# Rows that are looked at at once, so that what is made of them stays in the
# cache.
_PART = 1 << 18


class RowScales:
    r"""Row scales :math:`r_i` as they are stored.

    :obj:`"float16"` and :obj:`"float32"` store them as such, and once only
    if all are equal. :obj:`"log8"` and :obj:`"log4"` store a code :math:`c`
    of 8 or 4 bits a row, which reads

    .. math::
        r = 0 \textrm{ if } c = 0 \textrm{ else } 2^{l + (c - 1) h}

    with :math:`l, h` shared by the table; scales need to be at least 0 then.
    Codes of 4 bits lie two in a byte, the first in its low half.

    They are stored in the order of the rows' positions
    (:class:`~pyg_nodequant.runtime.layout.RowLayout`).

    Args:
        data (array): The stored scales, of shape :obj:`[n]`, shared
            :obj:`[1]`, in half bytes :obj:`[ceil(n / 2)]`.
        size (int): The number of rows :math:`n`.
        log (array, optional): :math:`(l, h)` of logarithms.
        bits (int): The bits of their codes, 8 or 4.
    """

    def __init__(self, data: Array, size: int, log: Optional[Array] = None,
                 bits: int = 8) -> None:
        self.data = data
        self.size = size
        self.log = log
        self.bits = bits
        self._scanned: Optional[Array] = None
        self._values = data
        if log is not None:
            steps = np.arange((1 << bits) - 1)
            power = float(log[0]) + steps * float(log[1])
            with np.errstate(over="ignore"):
                table = np.exp2(power).astype(np.float32)
            self._values = np.concatenate([np.zeros(1, np.float32), table])

    @classmethod
    def store(cls, values: ArrayLike, dtype: str, name: str = "scale",
              share: bool = True,
              log: Optional[ArrayLike] = None) -> RowScales:
        r"""Rounds scales to the precision in which they are stored.

        Args:
            values (array): Scales of shape :obj:`[n]`.
            dtype (str): One of :obj:`SCALE_DTYPES`.
            name (str): What errors call them.
            share (bool): Whether equal scales may be stored once.
            log (pair, optional): The grid :math:`(l, h)` of logarithms, two
                :obj:`float32` numbers, instead of the one from the smallest
                to the largest scale. Scales go to its nearest value, those
                beyond it to its ends.

        Raises:
            ValueError: If a scale is not finite or does not fit, or if there
                is no such grid.

        Example:
            >>> RowScales.store([0.1, 0.2], "float16").values.tolist()
            [0.0999755859375, 0.199951171875]
            >>> RowScales.store([0, 1, 5, 9], "log4", log=(0, 1)).values
            array([0., 1., 4., 8.], dtype=float32)
        """
        if dtype not in SCALE_DTYPES:
            raise ValueError(f"'scale_dtype' needs to be one of "
                             f"{', '.join(SCALE_DTYPES)} (got '{dtype}')")
        scale = np.asarray(values, dtype=np.float64)
        if scale.ndim != 1:
            raise ValueError(f"'{name}' needs one dimension "
                             f"(got {scale.ndim})")
        if dtype in LOG_BITS:
            return cls._store_log(scale, dtype, name, log)
        if log is not None:
            raise ValueError(f"'log' needs to be None for scales in {dtype} "
                             f"(got {np.asarray(log).tolist()})")
        data = empty(len(scale), dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            data[:] = scale
        if not np.isfinite(data).all():
            bad = scale[~np.isfinite(data)][0]
            raise ValueError(f"'{name}' needs to be finite in {dtype} "
                             f"(got {bad:g})")
        if share and len(data) > 1 and (data == data[0]).all():
            return cls(data[:1].copy(), len(data))
        return cls(data, len(data))

    @classmethod
    def _store_log(cls, scale: Array, dtype: str, name: str,
                   log: Optional[ArrayLike]) -> RowScales:
        bad = scale[~((scale >= 0) & (scale <= np.finfo(np.float32).max))]
        if len(bad):
            raise ValueError(f"'{name}' needs to be finite and at least 0 in "
                             f"{dtype} (got {bad[0]:g})")
        bits = LOG_BITS[dtype]
        grid = _fit_grid(scale, bits) if log is None else _check_grid(log)
        codes = log_codes(scale, grid, bits)
        stored = cls(pack_nibbles(codes) if bits == 4 else codes, len(scale),
                     grid, bits)
        if not stored.is_finite:
            if log is not None:
                raise ValueError(f"'log' needs to keep all scales of its grid "
                                 f"within float32 (got {grid.tolist()})")
            raise ValueError(f"'{name}' needs to be finite in {dtype} "
                             f"(got {scale.max():g})")
        return stored

    def __getitem__(self, rows: Rows) -> Array:
        r"""The scales of rows as :obj:`float32`."""
        if self.log is not None:
            return np.asarray(self._values[self._codes(rows)])
        if len(self.data) == self.size:
            return self.data[rows].astype(np.float32)
        return np.broadcast_to(self.data, self.size)[rows].astype(np.float32)

    def _codes(self, rows: Rows) -> Array:
        if self.bits == 8:
            return np.asarray(self.data[rows])
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(self.size))
        return np.asarray(self.data[rows >> 1] >> ((rows & 1) << 2) & 15)

    @property
    def values(self) -> Array:
        r"""All scales as :obj:`float32`, of shape :obj:`[n]`."""
        return self[:]

    @property
    def scanned(self) -> Array:
        r"""All scales in the form that kernels read without another look: the
        bits of halves as they are stored, else :obj:`float32`.
        """
        if self.data.dtype == np.float16:
            return self.data.view(np.uint16)
        if self.log is None:
            return self.data
        if self._scanned is None:
            self._scanned = empty(self.size, np.float32)
            for part in _parts(self.size):
                np.take(self._values, self._codes(part),
                        out=self._scanned[part], mode="clip")
            self._scanned.setflags(write=False)
        return self._scanned

    @property
    def bound(self) -> float:
        r"""A bound of their magnitudes that takes no look at them all."""
        if self.log is not None:
            return float(self._values.max())
        return float(np.finfo(self.data.dtype).max)

    @property
    def largest(self) -> float:
        r"""The largest magnitude of a scale, 0 if there is none."""
        if self.data.dtype == np.float16:
            return float(self._top_half.view(np.float16))
        # Of logarithms, without making what is scanned.
        stored, size = ((self.data, len(self.data)) if self.log is None else
                        (self, self.size))
        tops = [float(np.abs(stored[part]).max()) for part in _parts(size)]
        return max(tops, default=0.0)

    @property
    def is_finite(self) -> bool:
        r"""Whether all scales are finite."""
        if self.log is not None:
            return bool(np.isfinite(self._values).all())
        if self.data.dtype == np.float16:
            return bool(self._top_half < 0x7C00)  # infinite from here on
        return all(np.isfinite(self.data[part]).all()
                   for part in _parts(len(self.data)))

    @property
    def _top_half(self) -> Any:
        # The bits of the largest magnitude: those of halves ascend with it.
        bits = self.data.view(np.uint16)
        tops = [(bits[part] & np.uint16(0x7FFF)).max()
                for part in _parts(len(bits))]
        return max(tops, default=np.uint16(0))

    @property
    def resident_bytes(self) -> int:
        r"""The bytes held in memory."""
        made = 0 if self._scanned is None else self._scanned.nbytes
        return self.data.nbytes + made


def log_codes(scale: Array, log: Array, bits: int) -> Array:
    r"""Returns the code of the nearest logarithm on a grid :math:`(l, h)`,

    .. math::
        c = 1 + \mathrm{clamp}\left(\mathrm{round}\left(
        \frac{\log_2 r - l}{h}\right), 0, 2^b - 2\right),

    and 0 for scales of 0.

    Args:
        scale (array): Scales :math:`r \ge 0`.
        log (array): The grid.
        bits (int): The bits :math:`b` of a code.

    Example:
        >>> log_codes(np.array([0, 1, 3, 4, 1e9]), np.array([0, 1]), 4)
        array([ 0,  1,  3,  3, 15], dtype=uint8)
    """
    low, step = float(log[0]), float(log[1])
    codes = np.zeros(len(scale), dtype=np.uint8)
    used = scale > 0
    place = np.rint((np.log2(scale[used]) - low) / (step or 1.0))
    top = (1 << bits) - 2 if step else 0
    codes[used] = 1 + np.clip(place, 0, top).astype(np.uint8)
    return codes


def _fit_grid(scale: Array, bits: int) -> Array:
    # From the smallest scale that is not 0 to the largest.
    grid = np.zeros(2, dtype=np.float32)
    used = scale > 0
    if used.any():
        power = np.log2(scale[used])
        steps = (1 << bits) - 2
        grid[:] = power.min(), (power.max() - power.min()) / steps
    return grid


def _check_grid(log: ArrayLike) -> Array:
    given = np.asarray(log, dtype=np.float64)
    with np.errstate(over="ignore"):
        grid = given.astype(np.float32)
    # A grid that is rounded here would not be the one that was meant.
    if (given.shape != (2, ) or not np.isfinite(given).all()
            or (grid != given).any() or given[1] < 0):
        raise ValueError(f"'log' needs to be two finite float32 numbers, the "
                         f"second at least 0 (got {given.tolist()})")
    return grid


def _parts(size: int) -> list[slice]:
    return [slice(start, start + _PART) for start in range(0, size, _PART)]
