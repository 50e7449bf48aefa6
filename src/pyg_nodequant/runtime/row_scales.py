r"""The scales of a packed table: one a row, in their stored precision."""

from __future__ import annotations

from typing import Any, Optional, Union

import numpy as np
from numpy.typing import ArrayLike

from pyg_nodequant.runtime.memory import empty

Array = np.ndarray[Any, Any]
Rows = Union[Array, slice]

SCALE_DTYPES = ("float16", "float32", "log8")


class RowScales:
    r"""Row scales :math:`r_i` as they are stored.

    :obj:`"float16"` and :obj:`"float32"` store them as such, and once only
    if all are equal. :obj:`"log8"` stores a code :math:`c` a row, which reads

    .. math::
        r = 0 \textrm{ if } c = 0 \textrm{ else } 2^{l + (c - 1) h}

    with :math:`l, h` shared by the table; scales need to be at least 0 then.

    They are stored in the order of the rows' positions
    (:class:`~pyg_nodequant.runtime.layout.RowLayout`).

    Args:
        data (array): The stored scales, of shape :obj:`[n]` or, shared,
            :obj:`[1]`.
        size (int): The number of rows :math:`n`.
        log (array, optional): :math:`(l, h)` of :obj:`"log8"`.
    """

    def __init__(self, data: Array, size: int,
                 log: Optional[Array] = None) -> None:
        self.data = data
        self.size = size
        self.log = log
        self._scanned: Optional[Array] = None
        self._values = data
        if log is not None:
            power = float(log[0]) + np.arange(255) * float(log[1])
            with np.errstate(over="ignore"):
                table = np.exp2(power).astype(np.float32)
            self._values = np.concatenate([np.zeros(1, np.float32), table])

    @classmethod
    def store(cls, values: ArrayLike, dtype: str, name: str = "scale",
              share: bool = True) -> RowScales:
        r"""Rounds scales to the precision in which they are stored.

        Args:
            values (array): Scales of shape :obj:`[n]`.
            dtype (str): One of :obj:`SCALE_DTYPES`.
            name (str): What errors call them.
            share (bool): Whether equal scales may be stored once.

        Raises:
            ValueError: If a scale is not finite or does not fit.

        Example:
            >>> RowScales.store([0.1, 0.2], "float16").values.tolist()
            [0.0999755859375, 0.199951171875]
        """
        if dtype not in SCALE_DTYPES:
            raise ValueError(f"'scale_dtype' needs to be one of "
                             f"{', '.join(SCALE_DTYPES)} (got '{dtype}')")
        scale = np.asarray(values, dtype=np.float64)
        if scale.ndim != 1:
            raise ValueError(f"'{name}' needs one dimension "
                             f"(got {scale.ndim})")
        if dtype == "log8":
            return cls._store_log(scale, name)
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
    def _store_log(cls, scale: Array, name: str) -> RowScales:
        bad = scale[~((scale >= 0) & (scale <= np.finfo(np.float32).max))]
        if len(bad):
            raise ValueError(f"'{name}' needs to be finite and at least 0 in "
                             f"log8 (got {bad[0]:g})")
        data = np.zeros(len(scale), dtype=np.uint8)
        log = np.zeros(2, dtype=np.float32)
        used = scale > 0
        if used.any():
            power = np.log2(scale[used])
            log[:] = power.min(), (power.max() - power.min()) / 254
            step = float(log[1]) or 1.0
            code = np.rint((power - float(log[0])) / step)
            data[used] = 1 + np.clip(code, 0, 254).astype(np.uint8)
        stored = cls(data, len(scale), log)
        if not np.isfinite(stored.values).all():
            raise ValueError(f"'{name}' needs to be finite in log8 "
                             f"(got {scale.max():g})")
        return stored

    def __getitem__(self, rows: Rows) -> Array:
        r"""The scales of rows as :obj:`float32`."""
        if self.log is not None:
            return np.asarray(self._values[self.data[rows]])
        if len(self.data) == self.size:
            return self.data[rows].astype(np.float32)
        return np.broadcast_to(self.data, self.size)[rows].astype(np.float32)

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
            np.take(self._values, self.data, out=self._scanned, mode="clip")
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
        tops = [float(np.abs(part).max()) for part in _parts(self.scanned)]
        return max(tops, default=0.0)

    @property
    def is_finite(self) -> bool:
        r"""Whether all scales are finite."""
        if self.log is not None:
            return bool(np.isfinite(self._values).all())
        if self.data.dtype == np.float16:
            return bool(self._top_half < 0x7C00)  # infinite from here on
        return all(np.isfinite(part).all() for part in _parts(self.data))

    @property
    def _top_half(self) -> Any:
        # The bits of the largest magnitude: those of halves ascend with it.
        tops = [(part & np.uint16(0x7FFF)).max()
                for part in _parts(self.data.view(np.uint16))]
        return max(tops, default=np.uint16(0))

    @property
    def resident_bytes(self) -> int:
        r"""The bytes held in memory."""
        made = 0 if self._scanned is None else self._scanned.nbytes
        return self.data.nbytes + made


def _parts(values: Array) -> list[Array]:
    # Some at a time, so that what is made of them stays in the cache.
    return [values[start:start + (1 << 18)]
            for start in range(0, len(values), 1 << 18)]
